"""The page of a sampling study: the smallest budget that equals all pairs, and every setting by budget."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sparring.eval.bench.study_page import Bench, budgets_table, equivalent_table, study_page
from sparring.eval.bench.summary import COST, Line
from sparring.eval.measures.significance import tost

DETAILS: dict[str, Any] = {
    "measures": ["nDCG@10", "P@10"],
    "margin": 0.01,
    "reference": "qrels",
    "topics": 40,
    "candidates": 50,
    "seeds": [0, 1, 2],
    "simulation": False,
    "diagnostics": {"cyclic_rate": 0.0125},
}


def line(
    schedule: str,
    values: np.ndarray,
    budget: str = "",
    calls: int = 0,
    aggregator: str = "log_odds",
    full: np.ndarray | None = None,
) -> Line:
    shown = None if full is None else tost(values, full, 0.01)
    return Line(
        schedule,
        aggregator,
        budget,
        len(values),
        float(values.mean()),
        0.25,
        0.75,
        values,
        values[None],
        dict.fromkeys(COST, 0.0) | {"comparisons": float(calls)},
        4,
        difference=float("nan") if full is None else float((values - full).mean()),
        equivalence=float("nan") if shown is None else shown.p,
        low=float("nan") if shown is None else shown.low,
        high=float("nan") if shown is None else shown.high,
    )


def bench(near: float, lead: float, judge: str = "late", **details: Any) -> Bench:
    """40 topics on which `bayes` misses all pairs by ``near`` from 6 % on and leads by ``lead``; at 2 % it is bad."""
    rng = np.random.default_rng(0)
    full = rng.uniform(0.4, 0.9, 40)
    jitter = rng.normal(0, 0.005, 40)
    bayes = full + near + jitter - jitter.mean()
    lines = [
        line("first stage", bayes - 0.1, aggregator=""),
        line("oracle", bayes + 0.1, aggregator=""),
        line("all", full),
        line("bayes", bayes - 0.05, "2%", 49, full=full),
        line("bayes", bayes, "6%", 147, full=full),
        line("bayes", full + near / 2, "10%", 245, full=full),
        line("window(skip=7)", bayes - 3 * lead, "2%", 49, "greedy"),
        line("window(skip=7)", bayes - lead, "6%", 147, "greedy"),
    ]
    return Bench(judge, lines, DETAILS | details)


def test_the_smallest_budget_that_equals_all_pairs_and_what_it_gives() -> None:
    table = equivalent_table([bench(near=-0.001, lead=0.03), bench(near=-0.05, lead=0.03, judge="other")])
    first, other = (dict(zip(table.header, row, strict=True)) for row in table.rows)
    assert first["judge"] == "late" and first["equivalent from"] == "6%" and first["rounds"] == "4"
    assert first["to all pairs"].startswith("-0.0010 (-0.00") and first["to all pairs"].endswith(")")
    assert first["to window(skip=7) + greedy"] == "+0.0300 (+0.0300, +0.0300)"
    assert float(first["all pairs"]) - float(first["first stage"]) == pytest.approx(0.101, abs=0.002)
    assert other["equivalent from"] == "never" and other["bayes"] == other["to all pairs"] == ""


def test_without_a_first_stage_or_the_rival_cells_are_empty() -> None:
    given = bench(near=-0.001, lead=0.03)
    table = equivalent_table([Bench("votes", given.lines[2:6], given.details)])
    row = dict(zip(table.header, table.rows[0], strict=True))
    assert row["first stage"] == row["to window(skip=7) + greedy"] == "" and row["equivalent from"] == "6%"
    assert equivalent_table([Bench("votes", given.lines[2:3], given.details)]).rows[0][3] == ""


def test_every_setting_by_budget_bold_where_it_is_equivalent() -> None:
    table = budgets_table([bench(near=-0.001, lead=0.03)])
    assert table.header == ["judge", "schedule", "aggregator", "2%", "6%", "10%", "all pairs"]
    assert [row[:3] for row in table.rows] == [
        ["late", "bayes", "log_odds"],
        ["late", "window(skip=7)", "greedy"],
    ]
    assert table.best == {(0, 4), (0, 5)}
    assert table.rows[1][5:] == ["", ""]  # neither that budget nor all pairs with this aggregator


def test_the_page_says_what_was_simulated_and_how_consistent_the_judge_is() -> None:
    page = study_page("dl19-50", [bench(-0.001, 0.03), bench(-0.001, 0.03, "noisy", simulation=True)])
    assert page.startswith("# dl19-50\n\nnDCG@10 against the qrels, means over 3 seeds; topics: 40,")
    assert "- late: first stage" in page and "- noisy: SIMULATED outcomes; first stage" in page
    assert "(0.250-0.750), oracle" in page and "1.2% of the judge's triads are cyclic" in page
    assert "the ranking that all pairs give" in study_page("votes", [bench(0, 0, reference="all-pairs")])
