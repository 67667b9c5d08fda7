"""Adaptive schedules: what to compare next, given a Bradley-Terry posterior around the first stage."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from .. import registry
from ..bradley_terry import Posterior, fit
from .asking import Rounds, answered, require
from .swiss import zscore

register = registry.schedules.register
Array = NDArray[np.float64]
Positions = NDArray[np.int64]


_TRUST = np.array([0.25, 0.5, 1.0, 2.0])
"""Multiples of alpha that the outcomes choose from."""


@register("bayes")
@dataclass(frozen=True)
class Bayes:
    """Few large rounds of the comparisons that say most about the top k. Returns the posterior order.

    Strengths have the prior N(alpha * zscore(first-stage score), 1 / precision); outcomes are soft labels with
    an order bias. A pair is worth its information gain, 0.5 log(1 + w v) with v the posterior variance of the
    difference and w = p(1-p), times how undecided the discounts 1/log2(rank + 1) of its members inside the top
    k are over posterior samples. Both orders of a pair are never asked; who is shown first is balanced.

    Args:
        calls: comparisons in all; 2.5 per candidate where absent.
        rounds: in how many equal rounds.
        k: the cut-off that matters.
        alpha: how far one standard deviation of the first-stage scores moves the prior mean, in logits.
        precision: of that prior.
        learn: let the outcomes decide, by the marginal likelihood, whether the prior deserves more or less
            trust: alpha times 1/4, 1/2, 1 or 2.
        bias_precision: of the prior on the order bias.
        clip: outcomes are moved into [clip, 1 - clip], so that none is taken as certain.
        focus: a candidate's most matches in a round, in multiples of an even share.
        stop: ends when the expected share of the discounts that is still misplaced falls below this.
        samples: posterior samples.
        rule: ``top_heavy`` as above; ``information`` the gain alone; ``deviation`` the posterior standard
            deviation of the difference, among candidates that may still be in the top k.
    """

    calls: int | None = None
    rounds_: int = 4
    k: int = 10
    alpha: float = 1.0
    precision: float = 1.0
    learn: bool = True
    bias_precision: float = 1.0
    clip: float = 0.02
    focus: float = 3.0
    stop: float = 0.02
    samples: int = 64
    rule: Literal["top_heavy", "information", "deviation"] = "top_heavy"
    width: ClassVar[int | None] = 2
    oriented: ClassVar[bool] = True

    def __post_init__(self) -> None:
        require(self.calls is None or self.calls >= 1, "calls must be at least 1")
        require(self.rounds_ >= 1 and self.k >= 1, "rounds and k must be at least 1")
        require(self.precision > 0 and self.bias_precision > 0, "precisions must be positive")
        require(0 <= self.clip < 0.5, "clip must lie between 0 and 0.5")
        require(self.focus >= 1 and self.samples >= 2, "focus must be at least 1 and samples at least 2")

    def rounds(self, prior: Array, rng: np.random.Generator) -> Rounds[NDArray[np.int32]]:
        n = len(prior)
        first, second = np.empty(0, np.int64), np.empty(0, np.int64)
        won = np.empty(0)
        standard = zscore(prior)
        belief = self._fit(first, second, won, standard)
        open_pairs = np.triu(np.ones((n, n), np.bool_), 1)
        for size in self._sizes(n):
            drawn = _draw(belief, self.samples, rng)
            discount = _discounts(drawn, self.k)
            if _misplaced(discount, belief.strength[0], self.k) < self.stop:
                break
            value = np.where(open_pairs, self._value(belief, discount), -np.inf)
            pairs = _pick(value, size, max(1, round(self.focus * 2 * size / n)))
            pairs = _in_order(pairs, np.bincount(first, minlength=n) - np.bincount(second, minlength=n), rng)
            open_pairs[pairs.min(axis=1), pairs.max(axis=1)] = False
            said = answered((yield pairs.astype(np.int32)))
            first, second = np.append(first, pairs[:, 0]), np.append(second, pairs[:, 1])
            won = np.append(won, np.clip(said, self.clip, 1 - self.clip))
            belief = self._fit(first, second, won, standard)
        return np.argsort(-belief.strength[0], kind="stable").astype(np.int32)

    def at_budget(self, calls: int, n: int) -> Bayes:
        """The same schedule with at most ``calls`` comparisons."""
        return replace(self, calls=max(1, calls))

    def _sizes(self, n: int) -> Iterator[int]:
        """Comparisons of every round."""
        total = min(round(2.5 * n) if self.calls is None else self.calls, n * (n - 1) // 2)
        shares = np.diff(np.linspace(0, total, self.rounds_ + 1).round().astype(int))
        return (int(share) for share in shares if share)

    def _fit(self, first: Positions, second: Positions, won: Array, standard: Array) -> Posterior:
        """The posterior under the prior, of those in the grid, that makes the outcomes likeliest."""
        trust = _TRUST if self.learn and len(won) else np.ones(1)
        means = self.alpha * trust[:, None] * standard
        count, edges = len(trust), len(first)
        every = fit(
            np.arange(count + 1) * edges,
            np.tile(first, count),
            np.tile(second, count),
            np.tile(won, count),
            means,
            precision=self.precision,
            bias_precision=self.bias_precision,
            covariance=True,
            tolerance=1e-3,  # Newton is quadratic: what is left then is 1e-6
        )
        covariance = _covariance(every)
        margin = every.strength[:, first] - every.strength[:, second] + every.bias[:, None]
        fitted = (won * margin - np.logaddexp(0, margin)).sum(axis=1)
        away = self.precision * ((every.strength - means) ** 2).sum(axis=1) + self.bias_precision * every.bias**2
        # Laplace: the log-determinant of the joint covariance is that of the marginal less the curve of the bias
        win = expit(margin)
        volume = np.linalg.slogdet(covariance)[1] - np.log((win * (1 - win)).sum(axis=1) + self.bias_precision)
        best = int(np.argmax(fitted - away / 2 + volume / 2))
        return Posterior(every.strength[best : best + 1], every.bias[best : best + 1], covariance[best : best + 1])

    def _value(self, belief: Posterior, discount: Array) -> Array:
        """What comparing each pair is worth, (n, n)."""
        strength, covariance = belief.strength[0], _covariance(belief)[0]
        variance = np.diagonal(covariance)
        spread = np.maximum(variance[:, None] + variance - 2 * covariance, 0.0)
        if self.rule == "deviation":
            inside = (discount > 0).mean(axis=1)
            alive = inside > 0.05
            return np.where(alive[:, None] & alive, np.sqrt(spread), 0.0)
        # the logistic averaged over the posterior of the difference (MacKay's probit approximation)
        win = expit((strength[:, None] - strength) / np.sqrt(1 + np.pi * spread / 8))
        gain = 0.5 * np.log1p(win * (1 - win) * spread)
        if self.rule == "information":
            return np.asarray(gain)
        undecided = discount.std(axis=1) + 0.02 * discount.mean(axis=1)
        return np.asarray(gain * np.hypot(undecided[:, None], undecided))


@register("dueling")
@dataclass(frozen=True)
class Dueling:
    """Compares the most uncertain differences among candidates that may be in the top k (after VACDB, ICLR 2024).

    `bayes` with the posterior standard deviation of the difference in place of information gain.

    Args:
        calls: comparisons in all; 2.5 per candidate where absent.
        rounds: in how many equal rounds.
        k: the cut-off that matters.
    """

    calls: int | None = None
    rounds_: int = 4
    k: int = 10
    width: ClassVar[int | None] = 2
    oriented: ClassVar[bool] = True

    def __post_init__(self) -> None:
        self._rule()

    def rounds(self, prior: Array, rng: np.random.Generator) -> Rounds[NDArray[np.int32]]:
        return self._rule().rounds(prior, rng)

    def at_budget(self, calls: int, n: int) -> Dueling:
        """The same schedule with at most ``calls`` comparisons."""
        return replace(self, calls=max(1, calls))

    def _rule(self) -> Bayes:
        return Bayes(calls=self.calls, rounds_=self.rounds_, k=self.k, rule="deviation")


def _covariance(belief: Posterior) -> Array:
    """The covariance of every problem that was fitted, (Q, n, n)."""
    if belief.covariance is None:
        raise ValueError("the posterior was fitted without its covariance")
    return belief.covariance


def _draw(belief: Posterior, samples: int, rng: np.random.Generator) -> Array:
    """Strengths drawn from the posterior, (n, samples)."""
    root = np.linalg.cholesky(_covariance(belief)[0])
    drawn: Array = belief.strength[0][:, None] + root @ rng.standard_normal((len(root), samples))
    return drawn


def _discounts(drawn: Array, k: int) -> Array:
    """The nDCG discount that every candidate would get in every sample, 0 beyond rank k, (n, samples)."""
    rank = np.argsort(np.argsort(-drawn, axis=0), axis=0)
    discount: Array = np.where(rank < k, 1 / np.log2(rank + 2), 0.0)
    return discount


def _misplaced(discount: Array, strength: Array, k: int) -> float:
    """Expected share of all discounts that lies elsewhere than the present order puts it."""
    present = _discounts(strength[:, None], k)
    total = 2 * present.sum()
    return float(np.abs(discount - present).sum(axis=0).mean() / total) if total else 0.0


def _pick(value: Array, size: int, most: int) -> Positions:
    """The best open pairs, nobody more than ``most`` times, best first; at least one."""
    flat = np.flatnonzero(np.isfinite(value))
    best = flat[np.argsort(-value.ravel()[flat], kind="stable")]
    matches = [0] * len(value)
    chosen = []
    for a, b in zip(*(x.tolist() for x in np.divmod(best, len(value))), strict=True):
        if matches[a] < most and matches[b] < most:
            matches[a] += 1
            matches[b] += 1
            chosen.append((a, b))
            if len(chosen) == size:
                break
    return np.array(chosen, np.int64).reshape(-1, 2)


def _in_order(pairs: Positions, lead: Positions, rng: np.random.Generator) -> Positions:
    """Shows first whoever was shown first less often so far; a coin decides between equals."""
    coins = rng.random(len(pairs)) < 0.5
    lead = lead.copy()
    ordered = pairs.copy()
    for row, coin in zip(ordered, coins, strict=True):
        a, b = row
        if lead[a] > lead[b] or (lead[a] == lead[b] and coin):
            row[:] = b, a
        lead[row[0]] += 1
        lead[row[1]] -= 1
    return ordered
