"""Values of runs for topics and measures, and paired comparisons with a baseline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ...rerank.console import log
from ...rerank.data.runs import Run
from ...rerank.errors import InputError, UsageError
from ...rerank.registry import unknown
from . import significance
from .catalogue import Measure, aggregate, measure_run, parse_measures
from .qrels import Qrels


@dataclass(frozen=True, slots=True)
class Comparison:
    """A run against the baseline on one measure, over ``topics`` topics; p-values are NaN below two topics."""

    topics: int
    difference: float
    low: float
    high: float
    p: float
    p_corrected: float
    dz: float
    wins: int
    ties: int
    losses: int


@dataclass(frozen=True, slots=True)
class Result:
    """One run: its value for every measure and judged topic, (measures, topics), and which topics it has."""

    name: str
    tag: str
    values: NDArray[np.float64]
    present: NDArray[np.bool_]
    comparisons: tuple[Comparison, ...] = ()

    def average(self, measures: Sequence[Measure], topics: str) -> list[float]:
        """One number per measure, over all judged topics ("judged") or over those the run has ("run")."""
        values = self.values if topics == "judged" else self.values[:, self.present]
        return [aggregate(measure, row) for measure, row in zip(measures, values, strict=True)]


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What `evaluate` returns; the baseline, if any, is the first result."""

    measures: tuple[Measure, ...]
    qids: tuple[str, ...]
    results: tuple[Result, ...]
    topics: str = "judged"
    baseline: str | None = None
    test: str = "t"
    correction: str = "holm"


def evaluate(
    qrels: Qrels,
    runs: Sequence[tuple[str, Run]],
    measures: Sequence[Measure],
    *,
    baseline: str | None = None,
    test: str = "t",
    correction: str = "holm",
    topics: str = "judged",
) -> Evaluation:
    """Scores (name, run) pairs and, with the name of a ``baseline`` among them, compares all others with it.

    Averages are over all judged topics or over those of the run (``topics``). Comparisons leave out the topics
    that neither run has, which say nothing of a difference, or with "run" those that one of them lacks. P-values
    of one measure are one family for the correction. Raises UsageError for an unknown baseline.
    """
    names = [name for name, _ in runs]
    if baseline is not None and baseline not in names:
        raise UsageError(unknown("baseline", baseline, names))
    results = [_measured(name, run, measures, qrels) for name, run in runs]
    for result in results:
        _say_topics(result, measures, qrels)
    if baseline is not None:
        first = results[names.index(baseline)]
        others = [result for result in results if result is not first]
        results = [first, *_compared(first, others, test, correction, topics)]
        if topics == "judged" and (words := left_out(results)):
            log.info("%s", words)
    return Evaluation(tuple(measures), tuple(qrels.grades), tuple(results), topics, baseline, test, correction)


def _measured(name: str, run: Run, measures: Sequence[Measure], qrels: Qrels) -> Result:
    present = np.array([qid in run for qid in qrels.grades], bool)
    if not present.any():
        raise InputError(
            f"{name}: none of its {len(run)} topics is judged (run: {', '.join(run.qids[:3])}; "
            f"qrels: {', '.join(list(qrels.grades)[:3])}): do run and qrels belong together?"
        )
    if unjudged := len(run) - int(present.sum()):
        log.info("%s: %d topics are not judged and were left out", name, unjudged)
    if tied := int(run.tied().sum()):
        log.info(
            "%s: tied scores in %d of %d topics: here by docid descending, as in trec_eval", name, tied, len(run)
        )
    return Result(name, run.tag, measure_run(measures, qrels, run), present)


def _say_topics(result: Result, measures: Sequence[Measure], qrels: Qrels) -> None:
    """Says how averages are formed when judged topics are missing, with both of them."""
    absent = [qid for qid, there in zip(qrels.grades, result.present, strict=True) if not there]
    if not absent:
        return
    both = ", ".join(
        f"{measure} {every:.4f} and {own:.4f}"
        for measure, every, own in zip(
            measures, result.average(measures, "judged"), result.average(measures, "run"), strict=True
        )
        if not measure.summed
    )
    shown = ", ".join(absent[:5]) + (", ..." if len(absent) > 5 else "")
    log.warning(
        "%s: %d of %d judged topics are missing (%s). Averages over all %d judged topics, missing ones as 0, "
        "and over the %d in the run: %s",
        result.name,
        len(absent),
        len(qrels),
        shown,
        len(qrels),
        len(qrels) - len(absent),
        both,
    )


def compared_topics(one: Result, other: Result) -> NDArray[np.bool_]:
    """Which judged topics a comparison is over: those that at least one of the two runs has."""
    return one.present | other.present


def left_out(results: Sequence[Result]) -> str:
    """How many judged topics comparisons with the first result leave out, in words; empty if none."""
    judged = len(results[0].present)
    absent = [judged - int(compared_topics(results[0], other).sum()) for other in results[1:]]
    if not any(absent):
        return ""
    low, high = min(absent), max(absent)
    count = str(high) if low == high else f"{low} to {high}"
    return f"{count} of {judged} judged topics are in neither of the two runs: tests and intervals leave them out"


def _compared(first: Result, others: Sequence[Result], test: str, correction: str, topics: str) -> list[Result]:
    count = len(first.values)
    shared = [
        compared_topics(first, other) if topics == "judged" else first.present & other.present for other in others
    ]
    pairs = [
        [(other.values[m][common], first.values[m][common]) for other, common in zip(others, shared, strict=True)]
        for m in range(count)
    ]
    p = np.array([[significance.TESTS[test](a, b) for a, b in family] for family in pairs]).reshape(count, -1)
    corrected = [significance.CORRECTIONS[correction](family) for family in p]
    return [
        Result(
            other.name,
            other.tag,
            other.values,
            other.present,
            tuple(_comparison(*pairs[m][o], float(p[m, o]), float(corrected[m][o])) for m in range(count)),
        )
        for o, other in enumerate(others)
    ]


def _comparison(values: NDArray[np.float64], base: NDArray[np.float64], p: float, corrected: float) -> Comparison:
    found = significance.effect(values, base)
    low, high = significance.t_interval(values, base)
    return Comparison(
        len(values), found.difference, low, high, p, corrected, found.dz, found.wins, found.ties, found.losses
    )


def score_runs(
    qrels: Mapping[str, dict[str, int]], runs: Sequence[Run], measure: str, topics: str = "judged"
) -> list[float]:
    """One average per run of the measure of that name: the number that ``sparring evaluate`` prints.

    ``topics`` is "judged" (missing ones count as 0) or "run" (those that the run has).
    """
    chosen = parse_measures([measure])
    judged = qrels if isinstance(qrels, Qrels) else Qrels(dict(qrels))
    present = [np.array([qid in run for qid in judged], bool) | (topics == "judged") for run in runs]
    return [
        aggregate(chosen[0], measure_run(chosen, judged, run)[0][there])
        for run, there in zip(runs, present, strict=True)
    ]
