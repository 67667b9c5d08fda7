"""``sparring distill``: what a teacher says of candidates, written as training data for a student.

A name that ends in .jsonl (or .jsonl.gz) gets lists, one topic per line: qid, docids, scores; the data source
``lists`` reads them. One that ends in .parquet gets pair probabilities: rank neighbours (PairDistill) where no
schedule is named. Teachers are all models the toolkit runs, alone or behind a schedule and an aggregator, or the
run itself. Outcomes go through a ledger, so that a killed command goes on where it was.
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...rerank import console, registry
from ...rerank.commands.job import Job, discard_ledger, prepare, ranked_topics
from ...rerank.commands.options import ScoringOptions
from ...rerank.data.atomic import atomic_write, check_output
from ...rerank.data.candidates import CandidateSet
from ...rerank.data.meta import write_meta
from ...rerank.data.preferences import write_preferences
from ...rerank.errors import PartialSuccessError, UsageError
from ...rerank.pipeline import Ranked, rerank
from ...rerank.rounds import check_widths
from ...rerank.vocabulary import Candidates, Groups, Outcomes, Preferences, Sink
from ..data.samplers import Sampler, samplers

PAIR_SCHEDULE = "neighbours"


@dataclass(frozen=True, kw_only=True)
class Options(ScoringOptions):
    """Write a teacher's scores (JSONL lists) or pair probabilities (Parquet) as training data."""

    model: str = ""
    """The teacher: a folder, `minilm` (embedded), or a name on the hub; the run's own scores where absent."""
    sampling: str = "top(k=1000)"
    """Candidates to label: top(k=5), random(k=100), semantic(index='IX', k=5), kde(gold='FILE', of=top(k=100))."""
    aggregator: str | None = None
    """Turns comparisons into the scores of a list; by default as `sparring rerank` does."""
    texts: bool = False
    """Write the texts of queries and documents too, so that the lists need no dataset."""


class OwnScores:
    """The scores that the candidates came with, as a pointwise `Judge`: the teacher is whoever made the run."""

    width = 1
    fingerprint = "first stage"

    def __call__(
        self, topics: Sequence[Candidates], groups: Sequence[Groups], sink: Sink | None = None
    ) -> list[Outcomes]:
        return [topic.scores[rows].reshape(-1, 1) for topic, rows in zip(topics, groups, strict=True)]


def main(options: Options) -> None:
    """Checks everything, asks the teacher, writes data and its meta file; exit code 7 if some got no score."""
    as_pairs = options.output.suffix == ".parquet"
    if not as_pairs and options.output.suffixes[-2:] != [".jsonl", ".gz"] and options.output.suffix != ".jsonl":
        raise UsageError(f"--output {options.output}: lists are written as .jsonl or .jsonl.gz, pairs as .parquet")
    if as_pairs:
        if options.texts or options.aggregator:
            raise UsageError("--texts and --aggregator are for lists: a .parquet holds pair probabilities")
        options = dataclasses.replace(options, schedule=options.schedule or PAIR_SCHEDULE)
    sampler: Sampler = samplers.parse(options.sampling)
    aggregator = registry.aggregators.parse(options.aggregator) if options.aggregator else None
    check_output(options.output, options.overwrite)
    started = time.perf_counter()
    teacher = _teacher(options, sampler, as_pairs)
    if options.dry_run:
        console.out(teacher.plan())
        return
    results = teacher.answers(
        options, aggregator or (registry.aggregators.parse("win_rate") if as_pairs else None)
    )
    lost: list[str] = []
    if as_pairs:
        about = {
            "model": options.model,
            "schedule": teacher.schedule,
            "order": options.order,
            "seed": options.seed,
        }
        count, topics = write_preferences(options.output, _pairs(results, lost), about), len(teacher.topics)
    else:
        count, topics = _write_lists(options, list(_lists(results, lost)), sampler, teacher.topics)
    details = {
        "model": options.model or "the run's own scores",
        "sampling": str(sampler),
        "schedule": teacher.schedule,
        "aggregator": str(aggregator) if aggregator else None,
        "order": options.order if as_pairs else None,
        "depth": options.depth,
        "seed": options.seed,
        "topics": topics,
        "labels": count,
        "seconds": round(time.perf_counter() - started, 2),
    }
    inputs = {"run": options.run, **teacher.topics.dataset.files()}
    write_meta(options.output, "distill", inputs, details | (teacher.job.details() if teacher.job else {}))
    teacher.topics.write_missing(options.output)
    discard_ledger(options)
    console.log.info("%s: %d labels of %d topics", options.output, count, topics)
    if lost:
        raise PartialSuccessError(f"{options.output} is written, but {len(lost)} candidates could not be scored")


@dataclass(frozen=True, slots=True)
class Teacher:
    """Who labels what: a loaded model (``job``), or the run itself."""

    topics: CandidateSet
    schedule: str
    job: Job | None

    def plan(self) -> str:
        """What ``--dry-run`` prints."""
        name = self.job.model.name if self.job else "the run itself"
        return (
            f"{len(self.topics)} topics, {self.topics.pairs} candidates, schedule {self.schedule}, teacher {name}"
        )

    def answers(self, options: Options, aggregator: Any) -> Iterator[Ranked]:
        """The teacher's result for every topic."""
        if self.job:
            return ranked_topics(self.job, options, aggregator)
        schedule = registry.schedules.parse(self.schedule)
        return rerank(
            self.topics,
            OwnScores(),
            schedule,
            aggregator,
            order=options.order,
            seed=options.seed,
            budget=options.budget,
        )


def _teacher(options: Options, sampler: Sampler, as_pairs: bool) -> Teacher:
    run = sampler.sample(options.read_run(), options.open_dataset(), options.seed, options.device)
    if options.model:
        job = prepare(options, run)
        if as_pairs and job.schedule.width == 1:
            raise UsageError(
                f"--schedule {job.schedule} compares nothing: choose one of pairs, such as neighbours"
            )
        return Teacher(job.topics, str(job.schedule), job)
    schedule = registry.schedules.parse(options.schedule or "pointwise")
    check_widths(schedule, 1)
    return Teacher(options.candidates(run), str(schedule), None)


def _pairs(results: Iterator[Ranked], lost: list[str]) -> Iterator[tuple[str, tuple[str, ...], Preferences]]:
    for ranked in results:
        lost += [ranked.candidates.docids[i] for i in ranked.quarantined]
        yield ranked.candidates.qid, ranked.candidates.docids, ranked.preferences


def _lists(
    results: Iterator[Ranked], lost: list[str]
) -> Iterator[tuple[Candidates, NDArray[np.int64], NDArray[np.float64]]]:
    """(candidates, positions best first, their scores) of every topic, without what was not scored."""
    for ranked in results:
        lost += [ranked.candidates.docids[i] for i in ranked.quarantined]
        order = np.argsort(-ranked.scores, kind="stable")
        order = order[~np.isin(order, ranked.quarantined)]
        yield ranked.candidates, order, ranked.scores[order]


def _write_lists(
    options: Options,
    lists: list[tuple[Candidates, NDArray[np.int64], NDArray[np.float64]]],
    sampler: Sampler,
    topics: CandidateSet,
) -> tuple[int, int]:
    """Writes the accepted labels; returns how many labels and topics there are."""
    accepted = sampler.accept([scores for _, _, scores in lists], options.seed)
    count = written = 0
    with atomic_write(options.output) as stream:
        for (candidates, order, scores), keep in zip(lists, accepted, strict=True):
            if not keep.any():
                continue
            docids = [candidates.docids[i] for i in order[keep]]
            row: dict[str, Any] = {
                "qid": candidates.qid,
                "docids": docids,
                "scores": [float(f"{s:.9g}") for s in scores[keep]],
            }
            if options.texts:
                row |= {"query": candidates.query, "texts": topics.dataset.documents.get_many(docids)}
            stream.write(json.dumps(row, ensure_ascii=False) + "\n")
            count, written = count + len(docids), written + 1
    return count, written
