"""Is the difference between two runs real, how large is it, and how small a one could these topics show?

Everything takes one value per topic and run, in the same order of topics: ``values`` and ``baseline``, both (n,).
Differences are ``values - baseline``. They are sorted before anything is computed, so that the order of topics
changes no result by even a bit. Tests are two-sided. With fewer than two topics a p-value is NaN.

Tests and intervals are scipy's; what it lacks is here: Holm's correction, the test of equivalence, effect sizes
and the smallest difference that can be detected. On sorted differences scipy's one-sample t-test is its paired
one: .2 ms, against .03 ms for the distribution alone; a bench makes about a thousand, so nobody notices.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import optimize, stats

Floats = NDArray[np.float64]


def differences(values: ArrayLike, baseline: ArrayLike) -> Floats:
    """The sorted differences of two runs, (n,); ValueError if the lengths differ or a value is not finite."""
    first, second = np.asarray(values, np.float64), np.asarray(baseline, np.float64)
    if first.ndim != 1 or first.shape != second.shape:
        raise ValueError(f"one value per topic of both runs is needed, found shapes {first.shape}, {second.shape}")
    if not (np.isfinite(first).all() and np.isfinite(second).all()):
        raise ValueError("values must be finite: give topics without a value one, or leave them out of both runs")
    return np.sort(first - second)


# ------------------------------------------------------------------------------------------------------- p-values


def paired_t(values: ArrayLike, baseline: ArrayLike) -> float:
    """p-value of Student's paired t-test; 1 if no topic differs."""
    diff = differences(values, baseline)
    if len(diff) < 2:
        return math.nan
    spread, mean = diff.std(ddof=1), diff.mean()
    if spread <= 1e-12 * max(abs(float(mean)), 1e-300):  # all topics differ by the same amount
        return 1.0 if mean == 0 else 0.0
    return float(stats.ttest_1samp(diff, 0.0).pvalue)


def wilcoxon(values: ArrayLike, baseline: ArrayLike) -> float:
    """p-value of Wilcoxon's signed-rank test (topics without a difference dropped); 1 if no topic differs."""
    diff = differences(values, baseline)
    if len(diff) < 2:
        return math.nan
    diff = diff[diff != 0]
    if not len(diff):
        return 1.0
    # scipy 1.13 calls the normal approximation "approx"; exact p-values are for up to 50 untied differences
    exact = len(diff) <= 50 and len(np.unique(np.abs(diff))) == len(diff)
    return float(stats.wilcoxon(diff, method="exact" if exact else "approx").pvalue)


def permutation(values: ArrayLike, baseline: ArrayLike, resamples: int = 9_999, seed: int = 0) -> float:
    """p-value of Fisher's randomisation test of the mean difference: signs of the differences are flipped.

    Exact where there are at most ``resamples`` sign patterns; else sampled, p = (1 + hits) / (1 + resamples).
    """
    diff = differences(values, baseline)
    if len(diff) < 2:
        return math.nan
    result = stats.permutation_test(
        (diff,),
        lambda sample, axis: np.mean(sample, axis=axis),
        permutation_type="samples",
        vectorized=True,
        n_resamples=resamples,
        batch=max(1, 4_000_000 // len(diff)),
        random_state=np.random.default_rng(seed),
    )
    return float(result.pvalue)


TESTS: dict[str, Callable[[ArrayLike, ArrayLike], float]] = {
    "t": paired_t,
    "wilcoxon": wilcoxon,
    "permutation": permutation,
}


# ---------------------------------------------------------------------------------------------------- corrections


def holm(p_values: Sequence[float] | Floats) -> Floats:
    """Holm's step-down adjustment of p-values (family-wise error), (k,); NaN stays and is not counted."""
    return _adjusted(p_values, _holm)


def benjamini_hochberg(p_values: Sequence[float] | Floats) -> Floats:
    """Benjamini and Hochberg's step-up adjustment (false discovery rate), (k,); NaN stays and is not counted."""
    return _adjusted(p_values, lambda p: np.asarray(stats.false_discovery_control(p, method="bh")))


def _holm(p: Floats) -> Floats:
    order = np.argsort(p, kind="stable")
    steps = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(steps, 1.0)
    return adjusted


def _adjusted(p_values: Sequence[float] | Floats, method: Callable[[Floats], Floats]) -> Floats:
    adjusted = np.array(p_values, np.float64)
    known = ~np.isnan(adjusted)
    if known.any():
        adjusted[known] = method(adjusted[known])
    return adjusted


CORRECTIONS: dict[str, Callable[[Sequence[float] | Floats], Floats]] = {
    "holm": holm,
    "bh": benjamini_hochberg,
    "none": lambda p_values: np.array(p_values, np.float64),
}


# --------------------------------------------------------------------------------------- intervals and equivalence


def t_interval(values: ArrayLike, baseline: ArrayLike, level: float = 0.95) -> tuple[float, float]:
    """Student's confidence interval of the mean difference; NaN with fewer than two topics."""
    diff = differences(values, baseline)
    if len(diff) < 2:
        return math.nan, math.nan
    low, high = stats.t.interval(level, len(diff) - 1)
    error, mean = diff.std(ddof=1) / math.sqrt(len(diff)), float(diff.mean())
    return mean + float(low * error), mean + float(high * error)


def bootstrap_interval(
    values: ArrayLike,
    baseline: ArrayLike | None = None,
    level: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
) -> tuple[float, float]:
    """Percentile interval of the mean (difference) over topics drawn with replacement; NaN without topics."""
    sample = differences(values, np.zeros_like(np.asarray(values, float)) if baseline is None else baseline)
    if len(sample) < 2:  # scipy wants two
        alone = float(sample[0]) if len(sample) else math.nan
        return alone, alone
    found = stats.bootstrap(
        (sample,),
        np.mean,
        confidence_level=level,
        method="percentile",
        n_resamples=resamples,
        batch=max(1, 4_000_000 // len(sample)),
        random_state=np.random.default_rng(seed),
    ).confidence_interval
    return float(found.low), float(found.high)


@dataclass(frozen=True, slots=True)
class Equivalence:
    """Outcome of `tost`: equivalent at ``alpha`` if p < alpha, that is if the interval lies inside the margin."""

    p: float
    low: float
    high: float
    margin: float
    alpha: float

    @property
    def equivalent(self) -> bool:
        """True if the mean difference is shown to lie within plus or minus the margin."""
        return self.p < self.alpha


def tost(values: ArrayLike, baseline: ArrayLike, margin: float = 0.01, alpha: float = 0.05) -> Equivalence:
    """Two one-sided paired t-tests: is the mean difference within ``margin`` (in units of the measure)?

    ``low`` and ``high`` are the (1 - 2 alpha) interval. Reference: Schuirmann (1987).
    """
    if margin <= 0:
        raise ValueError(f"the margin of equivalence must be positive, found {margin}")
    diff = differences(values, baseline)
    low, high = t_interval(values, baseline, 1 - 2 * alpha)
    if len(diff) < 2:
        return Equivalence(math.nan, low, high, margin, alpha)
    error = diff.std(ddof=1) / math.sqrt(len(diff))
    with np.errstate(divide="ignore"):
        above, below = np.float64(diff.mean() + margin) / error, np.float64(diff.mean() - margin) / error
    p = float(max(stats.t.sf(above, len(diff) - 1), stats.t.cdf(below, len(diff) - 1)))
    return Equivalence(p, low, high, margin, alpha)


# ---------------------------------------------------------------------------------------------- effects and power


@dataclass(frozen=True, slots=True)
class Effect:
    """How large a difference is.

    ``dz`` is Cohen's d of paired samples (mean over standard deviation of the differences), ``gz`` the same with
    Hedges' correction for few topics, ``rank_biserial`` the matched-pairs rank-biserial correlation (Kerby 2014).
    """

    difference: float
    dz: float
    gz: float
    rank_biserial: float
    wins: int
    ties: int
    losses: int


def effect(values: ArrayLike, baseline: ArrayLike) -> Effect:
    """Effect sizes of a difference and the number of topics won, tied and lost; NaN where they do not exist."""
    diff = differences(values, baseline)
    n = len(diff)
    spread = float(diff.std(ddof=1)) if n > 1 else math.nan
    mean = float(diff.mean()) if n else math.nan
    dz = mean / spread if n > 1 and spread > 0 else 0.0 if n > 1 and mean == 0 else math.nan
    moved = diff[diff != 0]
    ranks = stats.rankdata(np.abs(moved))
    biserial = float((np.sign(moved) * ranks).sum() / ranks.sum()) if len(moved) else 0.0
    wins, losses = int((diff > 0).sum()), int((diff < 0).sum())
    correction = 1 - 3 / (4 * (n - 1) - 1) if n > 1 else math.nan
    return Effect(mean, dz, dz * correction, biserial, wins, n - wins - losses, losses)


def power(difference: float, spread: float, topics: int, alpha: float = 0.05) -> float:
    """Probability that a paired t-test finds a true mean difference, ``spread`` being that of the differences."""
    critical = stats.t.ppf(1 - alpha / 2, topics - 1)
    shift = abs(difference) / spread * math.sqrt(topics)
    # the lower tail, mirrored: scipy's cdf of it is NaN where it is smaller than can be told
    return float(stats.nct.sf(critical, topics - 1, shift) + stats.nct.sf(critical, topics - 1, -shift))


def minimum_detectable_difference(
    values: ArrayLike, baseline: ArrayLike, alpha: float = 0.05, wanted_power: float = 0.8
) -> float:
    """The smallest true mean difference that a paired t-test on these topics would find with ``wanted_power``.

    The spread of the differences seen stands for the true one. 0 if no topic differs, NaN with fewer than two.
    """
    diff = differences(values, baseline)
    if len(diff) < 2:
        return math.nan
    spread = float(diff.std(ddof=1))
    if spread == 0:
        return 0.0
    top = 1.0
    while power(top, 1.0, len(diff), alpha) < wanted_power:
        top *= 2
    solved = optimize.brentq(lambda d: power(d, 1.0, len(diff), alpha) - wanted_power, 1e-9, top, xtol=1e-12)
    return float(solved) * spread
