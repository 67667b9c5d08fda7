"""Tables of a bench: every setting, what is needed to equal all pairs, and all pairs per aggregator."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from ..text_table import Table
from .summary import ALL, Line, groups, smallest, verdict


def summary_table(lines: Sequence[Line], measure: str, margin: float, digits: int = 3) -> Table:
    """A row per setting: mean, difference to all pairs with its tests, cost; the Pareto front is starred."""
    tokens = any(line.cost["tokens"] > 0 for line in lines)
    header = [
        "schedule",
        "aggregator",
        "budget",
        measure,
        "95 % interval",
        "diff",
        "p (Holm)",
        "TOST p",
        "verdict",
    ]
    header += ["tau", "top-k overlap", "calls", "rounds", *(["tokens"] if tokens else []), "ms/topic", "front"]
    rows: list[list[str]] = []
    rules: set[int] = set()
    last = ("", "")
    for line in lines:
        if (line.schedule, line.aggregator) != last and line.sampled:
            rules.add(len(rows))
        last = (line.schedule, line.aggregator)
        cost = line.cost
        rows.append(
            [
                line.schedule,
                line.aggregator,
                line.budget,
                f"{line.mean:.{digits}f}",
                f"{line.mean_low:.{digits}f}-{line.mean_high:.{digits}f}",
                _signed(line.difference, digits),
                p_value(line.p_holm),
                p_value(line.equivalence),
                verdict(line, margin),
                _number(cost["tau"], 3),
                _number(cost["overlap"], 3),
                _number(cost["comparisons"], 0),
                _number(cost["rounds"], 1),
                *([_number(cost["tokens"], 0)] if tokens else []),
                _number(1000 * cost["seconds"], 1),
                "*" if line.front else "",
            ]
        )
    return Table(header, rows, labels=3, rules=frozenset(rules))


def needed_table(lines: Sequence[Line], margin: float, digits: int = 3) -> Table:
    """Per schedule and aggregator, the smallest budget from which on it equals all pairs, by three criteria."""
    header = ["schedule", "aggregator", f"equivalent (TOST {margin:g})", f"not worse by {margin:g}", "p >= .05"]
    rows = []
    for (schedule, aggregator), group in groups(lines).items():
        rules: list[Callable[[Line], bool]] = [
            lambda line: line.equivalence < 0.05,
            lambda line: line.low > -margin,
            lambda line: line.worst_p >= 0.05,
        ]
        found = [smallest(group, [rule(line) for line in group]) for rule in rules]
        cells = [f"{line.budget} ({_signed(line.difference, digits)})" if line else "never" for line in found]
        rows.append([schedule, aggregator, *cells])
    return Table(header, rows, labels=2)


def published_table(lines: Sequence[Line], digits: int = 3) -> Table:
    """The smallest budget not significantly worse than all pairs, aggregators down and schedules across.

    The form and the criterion are those of Sparse Pairwise Re-ranking (ICTIR 2022): no repetition may be worse at
    p < .05 in an uncorrected paired t-test; the loss at that budget stands in brackets.
    """
    found = groups(lines)
    schedules = list(dict.fromkeys(schedule for schedule, _ in found))
    aggregators = list(dict.fromkeys(aggregator for _, aggregator in found))
    rows = []
    for aggregator in aggregators:
        row = [aggregator]
        for schedule in schedules:
            group = found.get((schedule, aggregator), [])
            line = smallest(group, [item.worst_p >= 0.05 for item in group])
            row.append(f"{line.budget} ({_signed(line.difference, digits)})" if line else "never")
        rows.append(row)
    return Table(["aggregator", *schedules], rows)


def full_table(lines: Sequence[Line], measure: str, digits: int = 3) -> Table:
    """All pairs per aggregator, beside the baselines that compare nothing."""
    kept = [line for line in lines if not line.sampled]
    rows = [
        [
            "all pairs" if line.schedule == ALL else line.schedule,
            line.aggregator,
            f"{line.mean:.{digits}f}",
            f"{line.mean_low:.{digits}f}-{line.mean_high:.{digits}f}",
            _number(line.cost["comparisons"], 0),
        ]
        for line in kept
    ]
    return Table(["ranking", "aggregator", measure, "95 % interval", "calls"], rows, labels=2)


def p_value(p: float) -> str:
    """A p-value to three decimals."""
    return "" if math.isnan(p) else "<.001" if p < 0.001 else f"{p:.3f}"


def _signed(value: float, digits: int) -> str:
    return "" if math.isnan(value) else f"{value:+.{digits}f}"


def _number(value: float, digits: int) -> str:
    return "" if math.isnan(value) else f"{value:.{digits}f}"
