"""What a report says of runs: what they are worth, whether differences are real, and what moved."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from ...rerank.data.runs import Run
from ...rerank.errors import InputError, UsageError
from ...rerank.registry import unknown
from ..bench.tables import p_value
from ..measures import significance
from ..measures.batched import kendall_tau, overlap, pad
from ..measures.catalogue import Measure
from ..measures.definitions import discounted, ranked_grades
from ..measures.evaluation import Evaluation, compared_topics, evaluate, left_out
from ..measures.qrels import Qrels
from ..measures.rendered import render_table
from ..text_table import Table
from .labels import shortened
from .page import Section
from .run_charts import rank_changes, topic_bars

NamedRun = tuple[str, Run]
TOP = 10


def judged_section(
    runs: Sequence[NamedRun], qrels: Qrels, measures: Sequence[Measure], command: str
) -> list[Section]:
    """The table of all runs, and for every run against the first: tests, effect, topics that gain and lose."""
    baseline = runs[0][0] if len(runs) > 1 else None
    evaluation = evaluate(qrels, runs, measures, baseline=baseline)
    section = Section("Runs")
    section.text(
        f"{len(qrels)} judged topics; topics that a run lacks count as 0."
        + (
            f" Differences are to {baseline}; p is Holm-corrected (paired t-test), * below 0.05."
            if baseline
            else ""
        )
    )
    section.table("runs", render_table(evaluation))
    if baseline is not None:
        section.heading(f"{measures[0]} against {baseline}")
        if words := left_out(evaluation.results):
            section.text(f"{words}, and so do the pictures.")
        section.table("differences", _differences(evaluation))
        first = evaluation.results[0]
        for number, result in enumerate(evaluation.results[1:], 1):
            shown = compared_topics(first, result)
            qids = [qid for qid, there in zip(evaluation.qids, shown, strict=True) if there]
            gain = (result.values[0] - first.values[0])[shown]
            title = f"{result.name} against {baseline}"
            section.picture(topic_bars(qids, gain, str(measures[0]), title, f"topics-{number}"))
    section.command("The numbers of this section again:", command)
    return [section]


def _differences(evaluation: Evaluation) -> Table:
    header = [
        "run",
        "difference",
        "95 % interval",
        "p",
        "p (Holm)",
        "effect (dz)",
        "gain",
        "same",
        "lose",
        "detectable",
    ]
    first = evaluation.results[0]
    rows = []
    for result in evaluation.results[1:]:
        said, shared = result.comparisons[0], compared_topics(first, result)
        values, base = result.values[0][shared], first.values[0][shared]
        detectable = significance.minimum_detectable_difference(values, base)
        rows.append(
            [
                result.name,
                f"{said.difference:+.4f}",
                f"{said.low:+.4f} to {said.high:+.4f}",
                p_value(said.p),
                p_value(said.p_corrected),
                f"{said.dz:.2f}",
                *map(str, (said.wins, said.ties, said.losses)),
                f"{detectable:.4f}",
            ]
        )
    return Table(header, rows)


def changes_section(
    runs: Sequence[NamedRun],
    qrels: Qrels | None,
    texts: tuple[Mapping[str, str], Mapping[str, str]],
    topic: str | None,
) -> Section:
    """How far each run departs from the first, and one topic of the last run in detail."""
    (before_name, before), (after_name, after) = runs[0], runs[-1]
    section = Section("What moved")
    section.table("changes", _changes(runs))
    qid = topic or _most_changed(before, after, qrels)
    if qid not in before or qid not in after:
        raise UsageError(unknown("topic", qid, [q for q in before if q in after][:50]))
    queries, documents = texts
    old, new = before[qid][0], after[qid][0][:TOP]
    grades = qrels.grades.get(qid, {}) if qrels is not None else {}
    title = f"topic {qid}" + (f": {shortened(queries[qid], 70)}" if qid in queries else "")
    section.heading(f"{before_name} to {after_name}, {title}")
    labels = {docid: documents.get(docid, "") for docid in new}
    section.picture(rank_changes(old, new, labels, grades, title, "ranks"))
    section.table("top", _top_table(old, new, dict(documents), grades))
    return section


def _changes(runs: Sequence[NamedRun]) -> Table:
    header = ["run", "topics in both", f"top {TOP} kept", "same first document", "Kendall tau of shared documents"]
    first = runs[0][1]
    rows = []
    for name, run in runs[1:]:
        shared = [qid for qid in first if qid in run]
        if not shared:
            raise InputError(f"{name} has no topic in common with {runs[0][0]}: do they belong together?")
        kept, same, taus = [], [], []
        for qid in shared:
            old, new = first[qid][0], run[qid][0]
            kept.append(len(set(old[:TOP]) & set(new[:TOP])) / max(1, min(len(old), len(new), TOP)))
            same.append(old[:1] == new[:1])
            common = set(old) & set(new)
            place = {docid: rank for rank, docid in enumerate(d for d in old if d in common)}
            if len(place) > 1:
                order = np.array([[place[d] for d in new if d in common]])
                taus.append(float(kendall_tau(order, np.arange(len(place))[None, :])[0]))
        tau = f"{np.mean(taus):.3f}" if taus else ""
        rows.append([name, str(len(shared)), f"{np.mean(kept):.1%}", f"{np.mean(same):.1%}", tau])
    return Table(header, rows)


def _most_changed(before: Run, after: Run, qrels: Qrels | None) -> str:
    """The judged topic whose top moved most upwards in relevance, or the one that kept least of its top."""
    shared = [qid for qid in before if qid in after]
    if qrels is not None and any(qid in qrels for qid in shared):
        judged = [qid for qid in shared if qid in qrels]
        gain = [_gain(after, qrels, qid) - _gain(before, qrels, qid) for qid in judged]
        return judged[int(np.argmax(gain))]
    if not shared:
        raise InputError("the runs have no topic in common")
    orders = [({d: i for i, d in enumerate(before[q][0])}, before[q][0], after[q][0]) for q in shared]
    kept = [
        overlap(
            pad([np.arange(min(len(old), TOP))], -1),
            pad([np.array([place[d] for d in new[:TOP] if place.get(d, TOP) < TOP], np.int64)], -1),
            TOP,
        )[0]
        if any(place.get(d, TOP) < TOP for d in new[:TOP])
        else 0.0
        for place, old, new in orders
    ]
    return shared[int(np.argmin(kept))]


def _gain(run: Run, qrels: Qrels, qid: str) -> float:
    return discounted(ranked_grades(run[qid][0][:TOP], qrels[qid]).astype(np.float64))


def _top_table(
    old: Sequence[str], new: Sequence[str], documents: dict[str, str], grades: Mapping[str, int]
) -> Table:
    place = {docid: rank for rank, docid in enumerate(old, 1)}
    rows = []
    for rank, docid in enumerate(new, 1):
        start = place.get(docid)
        move = "new" if start is None else f"{start - rank:+d}" if start != rank else "0"
        grade = str(grades[docid]) if docid in grades else ""
        rows.append([docid, shortened(documents.get(docid, ""), 160), str(rank), str(start or ""), move, grade])
    return Table(["document", "text", "rank", "was", "moved", "grade"], rows, labels=2)
