"""What the bench says of its lines: tested against all pairs, the smallest budget, the front."""

from __future__ import annotations

import math

import numpy as np
import pytest
from sparring.eval.bench.summary import Line, front, smallest, summarise, verdict
from sparring.eval.bench.tables import needed_table, published_table
from sparring.eval.measures import significance


def rows_of(values: dict[tuple[str, str], np.ndarray], calls: dict[tuple[str, str], int]) -> dict[str, np.ndarray]:
    """Rows of (schedule, budget) → (seeds, topics) with one aggregator."""
    columns: dict[str, list[object]] = {}
    for (schedule, budget), table in values.items():
        for seed, row in enumerate(np.atleast_2d(table)):
            for topic, value in enumerate(row):
                cost = dict.fromkeys(("share", "rounds", "tokens", "seconds", "tau", "overlap"), 0.0)
                line = {"qid": f"q{topic}", "schedule": schedule, "aggregator": "greedy", "budget": budget}
                line |= {"seed": seed, "nDCG@10": value, "comparisons": calls[schedule, budget], **cost}
                for name, cell in line.items():
                    columns.setdefault(name, []).append(cell)
    return {name: np.array(cells) for name, cells in columns.items()}


def test_lines_are_tested_against_all_pairs() -> None:
    rng = np.random.default_rng(5)
    full = rng.uniform(0.4, 0.9, 40)
    near, far = full + rng.normal(0, 0.01, (3, 40)), full + rng.normal(-0.1, 0.05, (3, 40))
    values = {("all", ""): full, ("window", "2%"): far, ("window", "30%"): near}
    calls = {("all", ""): 2450, ("window", "2%"): 49, ("window", "30%"): 735}
    lines = summarise(rows_of(values, calls), "nDCG@10")
    assert [line.budget for line in lines] == ["", "2%", "30%"]
    whole, bad, good = lines
    assert math.isnan(whole.difference) and verdict(whole) == "" and whole.mean == pytest.approx(full.mean())
    assert bad.p == significance.paired_t(far.mean(axis=0), full) and bad.p_holm == pytest.approx(2 * bad.p)
    assert good.equivalence == significance.tost(near.mean(axis=0), full, 0.01).p
    assert (verdict(bad), verdict(good)) == ("worse", "equivalent")
    assert whole.mean > good.mean > bad.mean and [line.front for line in lines] == [True, True, True]
    assert bad.worst_p == min(significance.paired_t(seed, full) for seed in far)
    assert needed_table(lines, 0.01).rows[0][2].startswith("30%")
    assert published_table(lines).rows[0][0] == "greedy" and published_table(lines).rows[0][1].startswith("30%")


def test_smallest_budget_and_front() -> None:
    def line(calls: int, mean: float) -> Line:
        empty = np.empty(0)
        return Line("s", "a", f"{calls}", 1, mean, mean, mean, empty, empty, {"comparisons": float(calls)})

    lines = [line(10, 0.5), line(20, 0.7), line(30, 0.6), line(40, 0.8)]
    assert [item.budget for item in front(lines)] == ["10", "20", "40"]
    assert [item.mean for item in front([line(10, 0.4), *lines])] == [0.5, 0.7, 0.8]  # of equal cost the best
    chosen = smallest(lines, [True, False, True, True])
    assert chosen is not None and chosen.budget == "30"
    assert smallest(lines, [True, True, True, False]) is None
