"""One setting of a bench: a schedule at a budget with a seed, ranked by every aggregator, and what came of it."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ...rerank import registry
from ...rerank.errors import UsageError
from ...rerank.pipeline import Ranked, rerank
from ...rerank.rounds import Order, topic_rng
from ...rerank.vocabulary import Preferences, Schedule
from ..measures.batched import Ints, Judged, Value, kendall_tau, overlap, pad
from .stored_pairs import Arena

DEFAULT = "default"
"""Stands for no aggregator: the schedule's own order, else Bradley-Terry, as `sparring rerank` does."""

Columns = dict[str, NDArray[np.generic]]


@dataclass(frozen=True, slots=True)
class Budget:
    """How many comparisons a topic may cost: a share of its n(n-1) ordered pairs, a multiple of n, or a number."""

    text: str

    def __post_init__(self) -> None:
        match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(%|n|)", self.text.strip())
        if not match or float(match[1]) <= 0 or (match[2] == "" and "." in match[1]):
            raise UsageError(f"budget {self.text!r}: write a share (4%), a multiple of n (2.5n) or a number (98)")
        if match[2] == "%" and float(match[1]) > 100:
            raise UsageError(f"budget {self.text!r}: there are no more than 100 % of the ordered pairs")

    def __str__(self) -> str:
        return self.text

    def calls(self, n: int) -> int:
        """Comparisons of ``n`` candidates; at least one."""
        number = float(re.sub(r"[%n ]", "", self.text))
        if "%" in self.text:
            number *= n * (n - 1) / 100
        elif "n" in self.text:
            number *= n
        return max(1, round(number))


@dataclass(frozen=True, slots=True)
class Setting:
    """A schedule as it is written, a budget (None for as much as it asks), and a seed."""

    schedule: str
    budget: Budget | None
    seed: int


@dataclass(frozen=True, slots=True)
class Job:
    """What all settings of a bench share; goes to every worker process once.

    ``references`` holds the all-pairs order of every aggregator, (T, n), positions, -1 where padded.
    """

    arena: Arena
    aggregators: tuple[str, ...]
    measures: tuple[Value, ...]
    references: Mapping[str, Ints]
    judged: Judged
    order: Order = "random"
    top: int = 10


def play(setting: Setting, job: Job) -> Columns:
    """Plays all topics and ranks the outcomes with every aggregator: a row per topic and aggregator."""
    started = time.perf_counter()
    ranked = list(_played(setting, job.arena, job.order))
    playing = time.perf_counter() - started
    said = Preferences.join(result.preferences for result in ranked)
    parts = []
    for name in job.aggregators:
        started = time.perf_counter()
        orders = _orders(name, ranked, said)
        seconds = playing + time.perf_counter() - started
        parts.append(
            rows(
                job,
                orders,
                schedule=setting.schedule,
                aggregator=name,
                budget=str(setting.budget or ""),
                seed=setting.seed,
                comparisons=np.array([len(result.preferences.first) for result in ranked]),
                rounds=np.array([result.rounds for result in ranked]),
                seconds=seconds,
            )
        )
    return join(parts)


def reference_orders(arena: Arena, aggregators: Sequence[str]) -> dict[str, Ints]:
    """The all-pairs order of every aggregator, (T, n): what all n(n-1) comparisons give."""
    ranked = list(_played(Setting("all", None, 0), arena, "given"))
    said = Preferences.join(result.preferences for result in ranked)
    return {name: _orders(name, ranked, said) for name in aggregators}


def _played(setting: Setting, arena: Arena, order: Order) -> Iterator[Ranked]:
    """Results in the order of topics; topics of one size share a schedule, set to the budget for that size."""
    schedule: Schedule = registry.schedules.parse(setting.schedule)
    sizes = [len(topic) for topic in arena.topics]
    found: dict[int, Ranked] = {}
    for n in dict.fromkeys(sizes):
        members = [t for t, size in enumerate(sizes) if size == n]
        calls = setting.budget.calls(n) if setting.budget else None
        suited = at_budget(schedule, calls if order != "both" or calls is None else max(1, calls // 2), n)
        results = rerank(
            [arena.topics[t] for t in members],
            arena.scorer,
            suited,
            order=order,
            budget=calls,
            seed=setting.seed,
        )
        found.update(zip(members, results, strict=True))
    return (found[t] for t in range(len(sizes)))


def at_budget(schedule: Schedule, calls: int | None, n: int) -> Schedule:
    """The schedule set to a budget where it can be; others are cut short by the pipeline."""
    if calls is None or not hasattr(schedule, "at_budget"):
        return schedule
    suited: Schedule = schedule.at_budget(calls, n)
    return suited


def _orders(aggregator: str, ranked: Sequence[Ranked], said: Preferences) -> Ints:
    """Positions best first, (T, n); equal scores in first-stage order."""
    if aggregator == DEFAULT:
        scores = [result.scores for result in ranked]
    else:
        flat = registry.aggregators.parse(aggregator)(said)
        scores = np.split(flat, np.cumsum(said.sizes)[:-1])
    return pad([np.argsort(-values, kind="stable") for values in scores], -1)


def baselines(job: Job, seeds: Sequence[int]) -> Columns:
    """First stage, pointwise model, random orders and the oracle, which compare nothing."""
    topics = job.arena.topics
    sizes = [len(topic) for topic in topics]
    parts = []
    if job.arena.first_stage:
        parts.append(_baseline(job, "first stage", [np.arange(n) for n in sizes]))
    if job.arena.pointwise is not None:
        orders = [np.argsort(-scores, kind="stable") for scores in job.arena.pointwise]
        parts.append(_baseline(job, "pointwise", orders, comparisons=np.array(sizes)))
    best = [np.argsort(-grades[:n], kind="stable") for grades, n in zip(job.judged.grades, sizes, strict=True)]
    parts.append(_baseline(job, "oracle", best))
    for seed in seeds:
        drawn = [topic_rng(seed, topic.qid).permutation(len(topic)) for topic in topics]
        parts.append(_baseline(job, "random order", drawn, seed=seed))
    return join(parts)


def _baseline(
    job: Job,
    name: str,
    orders: Sequence[NDArray[np.integer]],
    seed: int = 0,
    comparisons: NDArray[np.int64] | None = None,
) -> Columns:
    nothing = np.zeros(len(orders), np.int64)
    calls = nothing if comparisons is None else comparisons
    return rows(
        job,
        pad(orders, -1),
        schedule=name,
        aggregator="",
        budget="",
        seed=seed,
        comparisons=calls,
        rounds=np.minimum(calls, 1),
        seconds=0.0,
    )


def rows(
    job: Job,
    orders: Ints,
    *,
    schedule: str,
    aggregator: str,
    budget: str,
    seed: int,
    comparisons: NDArray[np.int64],
    rounds: NDArray[np.int64],
    seconds: float,
) -> Columns:
    """A row per topic: what was set, what it is worth, how near it is to all pairs, and what it cost."""
    topics = job.arena.topics
    count, sizes = len(topics), np.array([len(topic) for topic in topics])
    ranked = np.where(orders >= 0, np.take_along_axis(job.judged.grades, np.maximum(orders, 0), axis=1), -2)
    near = job.references.get(aggregator or next(iter(job.references)))
    columns: Columns = {
        "qid": np.array([topic.qid for topic in topics], dtype=object),
        "schedule": np.full(count, schedule, dtype=object),
        "aggregator": np.full(count, aggregator, dtype=object),
        "budget": np.full(count, budget, dtype=object),
        "seed": np.full(count, seed, np.int64),
        **{str(measure): measure(ranked, job.judged) for measure in job.measures},
        "tau": np.full(count, np.nan) if near is None else kendall_tau(orders, near),
        "overlap": np.full(count, np.nan) if near is None else overlap(orders, near, job.top),
        "comparisons": comparisons.astype(np.int64),
        "share": comparisons / np.maximum(sizes * (sizes - 1), 1),
        "rounds": rounds.astype(np.int64),
        "tokens": comparisons * job.arena.pair_tokens,
        "seconds": np.full(count, seconds / max(count, 1)),
    }
    if schedule == "pointwise" and not aggregator:  # a text by itself is not a pair
        columns["share"], columns["tokens"] = np.zeros(count), np.full(count, np.nan)
    return columns


def join(parts: Sequence[Columns]) -> Columns:
    """Columns of several settings, one below the other."""
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
