"""Measures of many rankings at once: equal to ir_measures and scipy."""

from __future__ import annotations

import ir_measures
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sparring.eval.measures.batched import Judged, RankValue, kendall_tau, overlap, pad
from sparring.rerank.errors import UsageError

MEASURES = [
    "nDCG@10",
    "nDCG",
    "P@5",
    "P(rel=2)@10",
    "RR",
    "RR(rel=2)@10",
    "AP",
    "AP(rel=2)@10",
    "R@10",
    "Judged@10",
]


@settings(deadline=None, max_examples=15)
@given(st.integers(0, 2**31), st.integers(1, 40))
def test_values_equal_ir_measures(seed: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    grades = rng.integers(-1, 4, (3, n))
    extra = [rng.integers(0, 4, rng.integers(1, 6)) for _ in range(3)]
    pools = [np.concatenate([row[row >= 0], more]) for row, more in zip(grades, extra, strict=True)]
    judged = Judged.from_topics(list(grades), pools)
    orders = np.stack([rng.permutation(n) for _ in range(3)])
    ranked = np.take_along_axis(grades, orders, axis=1)
    qrels = {
        str(t): {f"d{i}": int(g) for i, g in enumerate(grades[t]) if g >= 0}
        | {f"x{i}": int(g) for i, g in enumerate(extra[t])}
        for t in range(3)
    }
    run = {str(t): {f"d{i}": float(n - rank) for rank, i in enumerate(orders[t])} for t in range(3)}
    wanted = [ir_measures.parse_measure(name) for name in MEASURES]
    theirs = {(str(m.measure), m.query_id): m.value for m in ir_measures.iter_calc(wanted, qrels, run)}
    for name, measure in zip(MEASURES, wanted, strict=True):
        ours = RankValue.parse(name)(ranked, judged)
        assert str(RankValue.parse(name)) == name
        np.testing.assert_allclose(ours, [theirs[str(measure), str(t)] for t in range(3)], atol=1e-9, err_msg=name)


@pytest.mark.parametrize(
    ("text", "message"),
    [("ERR@10", "a bench computes"), ("P", "needs a cutoff"), ("nDCG(rel=2)@5", "no option rel")],
)
def test_other_measures_are_refused(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        RankValue.parse(text)


def test_tau_and_overlap() -> None:
    rng = np.random.default_rng(0)
    one, other = (pad([rng.permutation(n) for n in (2, 7, 12)], -1) for _ in range(2))
    for t, n in enumerate((2, 7, 12)):
        left, right = np.argsort(one[t, :n]), np.argsort(other[t, :n])
        assert kendall_tau(one, other)[t] == pytest.approx(stats.kendalltau(left, right).statistic)
        shared = len(set(one[t, :n][:5]) & set(other[t, :n][:5]))
        assert overlap(one, other, 5)[t] == pytest.approx(shared / min(n, 5))
