"""Statistics: equal to scipy and statsmodels, unmoved by the order of topics, defined at the edges."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats
from sparring.eval.measures import significance as sig
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import TTestPower
from statsmodels.stats.weightstats import ttost_paired

RNG = np.random.default_rng(7)
BASE = RNG.beta(2, 2, 43)
BETTER = np.clip(BASE + RNG.normal(0.05, 0.12, 43), 0, 1)


def test_p_values_equal_scipy() -> None:
    assert sig.paired_t(BETTER, BASE) == pytest.approx(stats.ttest_rel(BETTER, BASE).pvalue, rel=1e-12)
    assert sig.wilcoxon(BETTER, BASE) == pytest.approx(stats.wilcoxon(BETTER, BASE).pvalue, rel=1e-9)
    few = slice(0, 10)
    exact = stats.permutation_test(
        (BETTER[few] - BASE[few],), np.mean, permutation_type="samples", n_resamples=math.inf
    )
    assert sig.permutation(BETTER[few], BASE[few]) == pytest.approx(exact.pvalue, rel=1e-12)
    assert sig.permutation(BETTER, BASE) == pytest.approx(sig.paired_t(BETTER, BASE), abs=0.02)


def test_confidence_interval_equals_scipy() -> None:
    expected = stats.ttest_rel(BETTER, BASE).confidence_interval(0.95)
    assert sig.t_interval(BETTER, BASE) == pytest.approx((expected.low, expected.high), rel=1e-10)


def test_bootstrap_agrees_with_scipy() -> None:
    expected = stats.bootstrap(
        (BETTER - BASE,), np.mean, method="percentile", n_resamples=9999
    ).confidence_interval
    assert sig.bootstrap_interval(BETTER, BASE) == pytest.approx((expected.low, expected.high), abs=2e-3)
    assert sig.bootstrap_interval(BETTER, BASE) == sig.bootstrap_interval(BETTER, BASE)
    assert sig.bootstrap_interval([0.5, 0.5]) == (0.5, 0.5)


@pytest.mark.parametrize("margin", [0.01, 0.05, 0.1, 0.3])
def test_equivalence_equals_statsmodels(margin: float) -> None:
    found = sig.tost(BETTER, BASE, margin)
    assert found.p == pytest.approx(ttost_paired(BETTER, BASE, -margin, margin)[0], rel=1e-9)
    assert found.equivalent == (-margin < found.low and found.high < margin)


p_values = st.lists(st.floats(0, 1), min_size=1, max_size=12)


@given(p_values)
@settings(deadline=None, max_examples=5)  # statsmodels takes 0.1 s for each
def test_corrections_equal_statsmodels(values: list[float]) -> None:
    assert sig.holm(values) == pytest.approx(multipletests(values, method="holm")[1], abs=1e-12)
    assert sig.benjamini_hochberg(values) == pytest.approx(multipletests(values, method="fdr_bh")[1], abs=1e-12)


def test_corrections_by_hand_and_with_gaps() -> None:
    assert sig.holm([0.01, 0.04, 0.03]).tolist() == pytest.approx([0.03, 0.06, 0.06])
    assert sig.benjamini_hochberg([0.01, 0.04, 0.03]).tolist() == pytest.approx([0.03, 0.04, 0.04])
    with_gap = sig.holm([0.01, math.nan, 0.03])
    assert with_gap[[0, 2]].tolist() == pytest.approx([0.02, 0.03]) and math.isnan(with_gap[1])
    assert sig.holm([]).tolist() == []


def test_effect_sizes() -> None:
    found = sig.effect([0.5, 0.6, 0.2, 0.9], [0.4, 0.4, 0.3, 0.9])
    assert (found.wins, found.ties, found.losses) == (2, 1, 1)
    diff = np.array([0.1, 0.2, -0.1, 0.0])
    assert found.difference == pytest.approx(0.05)
    assert found.dz == pytest.approx(diff.mean() / diff.std(ddof=1))
    assert found.gz == pytest.approx(found.dz * (1 - 3 / 11))
    assert sig.effect([0.2, 0.5, 0.0], [0.1, 0.0, 0.3]).rank_biserial == pytest.approx((1 + 3 - 2) / 6)


@pytest.mark.parametrize("topics", [10, 43, 200])
def test_minimum_detectable_difference_equals_statsmodels(topics: int) -> None:
    diff = np.random.default_rng(topics).normal(0, 0.2, topics)
    expected = TTestPower().solve_power(nobs=topics, alpha=0.05, power=0.8) * diff.std(ddof=1)
    found = sig.minimum_detectable_difference(diff, np.zeros(topics))
    assert found == pytest.approx(expected, rel=1e-5)
    assert sig.power(found, float(diff.std(ddof=1)), topics) == pytest.approx(0.8, abs=1e-9)


STATISTICS: dict[str, Callable[[NDArray[np.float64], NDArray[np.float64]], object]] = {
    "t": sig.paired_t,
    "wilcoxon": sig.wilcoxon,
    "permutation": lambda a, b: sig.permutation(a, b, resamples=199),
    "interval": sig.t_interval,
    "bootstrap": lambda a, b: sig.bootstrap_interval(a, b, resamples=200),
    "tost": sig.tost,
    "effect": sig.effect,
    "mdd": sig.minimum_detectable_difference,
}
grades = st.integers(0, 20).map(lambda x: x / 20)


@pytest.mark.parametrize("name", STATISTICS)
@given(st.lists(st.tuples(grades, grades), min_size=2, max_size=30), st.randoms(use_true_random=False))
@settings(deadline=None, max_examples=25)
def test_the_order_of_topics_changes_nothing(name: str, pairs: list[tuple[float, float]], random: object) -> None:
    shuffled = list(pairs)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    before, after = np.array(pairs), np.array(shuffled)
    statistic = STATISTICS[name]
    assert repr(statistic(before[:, 0], before[:, 1])) == repr(statistic(after[:, 0], after[:, 1]))


@pytest.mark.parametrize("test", sig.TESTS.values())
def test_edges(test: Callable[[object, object], float]) -> None:
    assert math.isnan(test([0.5], [0.4]))
    assert test([0.5, 0.4, 0.3], [0.5, 0.4, 0.3]) == 1.0
    with pytest.raises(ValueError, match="one value per topic"):
        test([0.5, 0.4], [0.5])
    with pytest.raises(ValueError, match="finite"):
        test([0.5, math.nan], [0.5, 0.4])


def test_edges_of_the_rest() -> None:
    assert sig.paired_t([0.75, 0.5], [0.5, 0.25]) == 0.0
    assert sig.tost([0.5, 0.4], [0.5, 0.4]).equivalent
    assert not sig.tost([0.75, 0.5], [0.5, 0.25]).equivalent
    assert math.isnan(sig.tost([0.5], [0.5]).p) and not sig.tost([0.5], [0.5]).equivalent
    assert sig.minimum_detectable_difference([0.5, 0.4], [0.5, 0.4]) == 0.0
    with pytest.raises(ValueError, match="must be positive"):
        sig.tost([0.5, 0.4], [0.5, 0.4], margin=0)
