"""What a bench found: one line per setting, tested against all pairs with the same aggregator."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ..measures import significance
from .play_setting import Columns

ALL = "all"
Floats = NDArray[np.float64]
COST = ("comparisons", "share", "rounds", "tokens", "seconds", "tau", "overlap")


@dataclass(frozen=True, slots=True, eq=False)
class Line:
    """A setting over all topics, values being means over seeds.

    ``values`` are the measure per topic, (T,), ``by_seed`` the same per seed, (S, T). ``difference``, ``p``
    (paired t, two-sided), ``p_holm`` (over all settings of the table), ``equivalence`` (p of TOST) and ``low``,
    ``high`` (its 90 % interval of the difference) are against all pairs with the same aggregator; NaN where
    there are none. ``worst_p`` is the smallest p-value of a single seed that lies below all pairs. ``rounds`` are
    those of the topic that took most.
    """

    schedule: str
    aggregator: str
    budget: str
    topics: int
    mean: float
    mean_low: float
    mean_high: float
    values: Floats
    by_seed: Floats
    cost: dict[str, float]
    rounds: int = 0
    difference: float = math.nan
    p: float = math.nan
    p_holm: float = math.nan
    equivalence: float = math.nan
    low: float = math.nan
    high: float = math.nan
    worst_p: float = math.nan
    front: bool = False

    @property
    def name(self) -> str:
        """The setting without its budget."""
        return f"{self.schedule} + {self.aggregator}" if self.aggregator else self.schedule

    @property
    def sampled(self) -> bool:
        """True for a schedule at a budget: neither a baseline nor all pairs."""
        return bool(self.budget)


def summarise(columns: Columns, measure: str, margin: float = 0.01, resamples: int = 10_000) -> list[Line]:
    """Lines in the order of the rows: baselines, all pairs, then schedules, aggregators and budgets."""
    lines = _sorted([_line(columns, rows, measure, resamples) for rows in _settings(columns)])
    full = {line.aggregator: line for line in lines if line.schedule == ALL and not line.budget}
    lines = [_tested(line, full.get(line.aggregator), margin) for line in lines]
    adjusted = significance.holm([line.p if line.sampled else math.nan for line in lines])
    lines = [replace(line, p_holm=float(p)) for line, p in zip(lines, adjusted, strict=True)]
    chosen = front([line for line in lines if line.schedule not in ("oracle", "random order")])
    return [replace(line, front=line in chosen) for line in lines]


def _sorted(lines: list[Line]) -> list[Line]:
    """Budgets of one schedule and aggregator below one another; everything else as it came."""
    names = {name: place for place, name in enumerate(dict.fromkeys(line.schedule for line in lines))}
    judges = {name: place for place, name in enumerate(dict.fromkeys(line.aggregator for line in lines))}

    def key(line: Line) -> tuple[bool, int, int, float]:
        calls = line.cost["comparisons"]
        return line.sampled, names[line.schedule], judges[line.aggregator], calls if line.sampled else 0

    return sorted(lines, key=key)


def _settings(columns: Columns) -> list[NDArray[np.int64]]:
    """Row numbers of every setting, in order of first appearance."""
    keys: dict[tuple[str, str, str], list[int]] = {}
    named = zip(columns["schedule"], columns["aggregator"], columns["budget"], strict=True)
    for row, key in enumerate(named):
        keys.setdefault(key, []).append(row)
    return [np.array(rows) for rows in keys.values()]


def _line(columns: Columns, rows: NDArray[np.int64], measure: str, resamples: int) -> Line:
    seeds, seed = np.unique(columns["seed"][rows], return_inverse=True)
    qids, topic = np.unique(columns["qid"][rows].astype(str), return_inverse=True)
    by_seed = np.full((len(seeds), len(qids)), np.nan)
    by_seed[seed, topic] = columns[measure][rows]
    values = by_seed.mean(axis=0)
    low, high = significance.bootstrap_interval(values, resamples=resamples)
    cost = {name: float(np.mean(columns[name][rows].astype(np.float64))) for name in COST}
    first = rows[0]
    return Line(
        schedule=str(columns["schedule"][first]),
        aggregator=str(columns["aggregator"][first]),
        budget=str(columns["budget"][first]),
        topics=len(qids),
        mean=float(values.mean()),
        mean_low=low,
        mean_high=high,
        values=values,
        by_seed=by_seed,
        cost=cost,
        rounds=int(columns["rounds"][rows].max()),
    )


def _tested(line: Line, full: Line | None, margin: float) -> Line:
    if full is None or full is line or len(full.values) != len(line.values):
        return line
    shown = significance.tost(line.values, full.values, margin)
    below = [
        significance.paired_t(seed, full.values)
        for seed in line.by_seed
        if seed.mean() < full.mean and not np.isnan(seed).any()
    ]
    return replace(
        line,
        difference=line.mean - full.mean,
        p=significance.paired_t(line.values, full.values),
        equivalence=shown.p,
        low=shown.low,
        high=shown.high,
        worst_p=min(below, default=1.0),
    )


def verdict(line: Line, margin: float = 0.01, alpha: float = 0.05) -> str:
    """What the tests allow to say of a line against all pairs, in one word or two.

    ``equivalent`` (TOST), ``better`` or ``worse`` (90 % interval clear of 0, and not equivalent), ``not worse``
    (the interval is above minus the margin) or ``open``: these topics cannot tell.
    """
    if math.isnan(line.difference):
        return ""
    if line.equivalence < alpha:
        return "equivalent"
    if line.low > 0:
        return "better"
    if line.high < 0:
        return "worse"
    return "not worse" if line.low > -margin else "open"


def front(lines: Sequence[Line], cost: str = "comparisons") -> list[Line]:
    """Lines that no other line beats: none is at least as good for fewer (or cheaper) comparisons."""
    best, kept = -math.inf, []
    for line in sorted(lines, key=lambda item: (item.cost[cost], -item.mean)):
        if line.mean > best and not math.isnan(line.cost[cost]):
            best = line.mean
            kept.append(line)
    return kept


def smallest(lines: Sequence[Line], accepted: Sequence[bool]) -> Line | None:
    """The line of the smallest budget that is accepted together with every larger one; None if there is none."""
    found = None
    for line, good in sorted(zip(lines, accepted, strict=True), key=lambda pair: -pair[0].cost["comparisons"]):
        if not good:
            break
        found = line
    return found


def groups(lines: Sequence[Line]) -> dict[tuple[str, str], list[Line]]:
    """Sampled lines by (schedule, aggregator), budgets rising."""
    found: dict[tuple[str, str], list[Line]] = {}
    for line in lines:
        if line.sampled:
            found.setdefault((line.schedule, line.aggregator), []).append(line)
    return {key: sorted(group, key=lambda item: item.cost["comparisons"]) for key, group in found.items()}
