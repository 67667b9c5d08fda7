"""``sparring rerank``: a TREC run, reranked by a neural model."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from .. import console, registry
from ..data.atomic import check_output
from ..data.meta import write_meta
from ..data.runs import with_rest, write_run
from ..errors import PartialSuccessError, UsageError
from ..pipeline import Ranked
from ..search.fusion import scaled
from .job import Job, discard_ledger, plan, prepare, ranked_topics
from .options import RunOptions, ScoringOptions


@dataclass(frozen=True, kw_only=True)
class Options(ScoringOptions, RunOptions):
    """Rerank a TREC run with a pointwise, pairwise or listwise model."""

    aggregator: str | None = None
    """How comparisons become a ranking (see: sparring list aggregators); by default the schedule's own order, the
    model's scores, log_odds of pairs or bradley_terry of lists."""
    interpolate: float = 1.0
    """Weight of the model's scores against the first stage's, scaled to 0..1 per topic; 1 is the model alone."""
    score_transform: Literal["raw", "sigmoid"] = "raw"
    """How scores are written: raw logits, or their sigmoid for display."""


def main(options: Options) -> None:
    """Checks everything, ranks, writes the run and its meta file; exit code 7 if groups were quarantined."""
    if not 0 <= options.interpolate <= 1:
        raise UsageError(f"--interpolate {options.interpolate} is not a weight between 0 and 1")
    aggregator = registry.aggregators.parse(options.aggregator) if options.aggregator else None
    check_output(options.output, options.overwrite)
    job = prepare(options)
    if options.dry_run:
        plan(job, options)
        return
    tag = options.tag or f"{job.model.name.rstrip('/').split('/')[-1]}-{job.schedule}".replace(" ", "")
    cost = Cost()
    written = write_run(options.output, topics(job, options, ranked_topics(job, options, aggregator), cost), tag)
    job.topics.write_missing(options.output)
    write_meta(
        options.output,
        tag,
        job.inputs,
        {
            "model": options.model,
            "aggregator": str(aggregator) if aggregator else None,
            "order": options.order,
            "budget": options.budget,
            "depth": options.depth,
            "seed": options.seed,
            "interpolate": options.interpolate,
            "scores": "separated" if written.separated else "original",
            "missing documents": sum(map(len, job.topics.missing.values())),
            **cost.details(),
            **job.details(),
        },
        embed=options.embed_metadata,
    )
    discard_ledger(options)
    console.log.info("%s: %d topics. %s", options.output, written.topics, job.scorer.stats.summary())
    if cost.quarantined:
        raise PartialSuccessError(
            f"{options.output} is written, but {cost.quarantined} candidates could not be scored and stand last"
        )


class Cost:
    """Counts what the ranking took, topic by topic."""

    def __init__(self) -> None:
        self.calls = self.comparisons = self.rounds = self.quarantined = 0

    def add(self, ranked: Ranked) -> None:
        """Adds one topic."""
        self.calls += ranked.calls
        self.comparisons += len(ranked.preferences.first)
        self.rounds = max(self.rounds, ranked.rounds)
        self.quarantined += len(ranked.quarantined)

    def details(self) -> dict[str, int]:
        """The counts for the meta file."""
        return {"calls": self.calls, "comparisons": self.comparisons, "rounds": self.rounds}


def topics(
    job: Job, options: Options, results: Iterator[Ranked], cost: Cost
) -> Iterator[tuple[str, tuple[str, ...], NDArray[np.float64]]]:
    """(qid, docids, scores) of every topic: reranked candidates first, the rest of the run below, in its order."""
    for ranked in results:
        cost.add(ranked)
        scores = expit(ranked.scores) if options.score_transform == "sigmoid" else ranked.scores
        if options.interpolate < 1:
            first = scaled(ranked.candidates.scores)
            scores = options.interpolate * scaled(scores) + (1 - options.interpolate) * first
        yield with_rest(job.run, ranked.candidates.qid, ranked.candidates.docids, scores)
