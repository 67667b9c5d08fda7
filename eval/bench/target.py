"""The bar of the field: is a sampled schedule as good as all pairs, and better than the best known one?

Four conditions, at the smallest budget of at most 6 % of the ordered pairs at which `bayes` is equivalent to all
pairs with the same aggregator and prior (the largest, where it never is): that it is (TOST), at least .02 above
skip-window with greedy at the same budget, in at most four rounds, and at no such budget below the first stage.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ...rerank import registry
from ...rerank.schedules.windows import Window
from ..measures import significance
from ..text_table import Table
from .play_setting import Budget
from .summary import Line, groups, verdict

SHARE, ABOVE, ROUNDS = 0.06, 0.02, 4
"""Budget, lead over skip-window with greedy, and rounds that the bar allows or demands."""


@dataclass(frozen=True, slots=True)
class Condition:
    """One demand on one setting: ``value`` is in units of the measure (or rounds), ``interval`` over topics."""

    setting: str
    budget: str
    demand: str
    value: str
    interval: str
    met: str


def bar_table(lines: Sequence[Line], margin: float) -> Table | None:
    """A row per condition for `bayes` with the first of the bench's aggregators; None where it cannot be judged.

    Differences are means over seeds. The interval of the equivalence test is its 90 % interval, others are 95 %
    topic-bootstrap intervals. A condition is met by its estimate; whether the interval agrees is for the reader.
    """
    first = next((line for line in lines if line.schedule == "first stage"), None)
    if first is None or first.topics < 2:
        return None
    chosen: dict[str, list[Line]] = {}
    for (schedule, _), group in groups(lines).items():
        if schedule.split("(")[0] == "bayes":
            chosen.setdefault(schedule, [line for line in group if _affordable(line)])
    rows = [
        [row.setting, row.budget, row.demand, row.value, row.interval, row.met]
        for group in chosen.values()
        for row in _conditions(group, first, lines, margin)
    ]
    return Table(["setting", "budget", "bar", "value", "interval", "met"], rows, labels=3) if rows else None


def _conditions(group: Sequence[Line], first: Line, lines: Sequence[Line], margin: float) -> Iterator[Condition]:
    if not group:
        return
    line = next((line for line in group if verdict(line, margin) == "equivalent"), group[-1])
    said = verdict(line, margin)
    if said:
        yield Condition(
            line.name,
            line.budget,
            f"equal to all pairs (TOST {margin:g})",
            f"{line.difference:+.4f}",
            f"[{line.low:+.4f}, {line.high:+.4f}]",
            "yes" if said == "equivalent" else "better" if line.low > 0 else "no",
        )
    if rivals := [other for other in lines if _is_rival(other, line)]:
        rival = max(rivals, key=lambda other: other.mean)
        yield _lead(line, rival, f">= {ABOVE:.2f} above {rival.name}", ABOVE)
    yield Condition(
        line.name, line.budget, f"<= {ROUNDS} rounds", str(line.rounds), "", _yes(line.rounds <= ROUNDS)
    )
    lowest = min(group, key=lambda other: other.mean)
    yield _lead(lowest, first, "never below the first stage", 0.0)


def _lead(line: Line, other: Line, demand: str, wanted: float) -> Condition:
    low, high = significance.bootstrap_interval(line.values, other.values)
    value = line.mean - other.mean
    return Condition(
        line.name, line.budget, demand, f"{value:+.4f}", f"[{low:+.4f}, {high:+.4f}]", _yes(value >= wanted)
    )


def _affordable(line: Line) -> bool:
    """Whether its budget, spent or not, is at most ``SHARE`` of the pairs, rounded to whole comparisons."""
    if not line.cost["share"] > 0:
        return False
    pairs = line.cost["comparisons"] / line.cost["share"]
    candidates = round((1 + math.sqrt(1 + 4 * pairs)) / 2)
    return Budget(line.budget).calls(candidates) <= Budget(f"{100 * SHARE:g}%").calls(candidates)


def _is_rival(other: Line, line: Line) -> bool:
    """Skip-window with greedy at the budget of ``line``, over the same topics."""
    if not other.sampled or other.budget != line.budget or other.aggregator.split("(")[0] != "greedy":
        return False
    schedule = registry.schedules.parse(other.schedule)
    same = len(other.values) == len(line.values)
    return same and isinstance(schedule, Window) and schedule.skip > 1


def _yes(met: bool) -> str:
    return "yes" if met else "no"
