"""``sparring compare``: the expensive step alone. Ask a model for preferences and store them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from .. import console
from ..data.atomic import check_output
from ..data.meta import write_meta
from ..data.preferences import write_preferences
from ..errors import UsageError
from ..pairs.diagnostics import diagnose
from ..vocabulary import Preferences
from .job import Job, discard_ledger, plan, prepare, ranked_topics
from .options import ScoringOptions


@dataclass(frozen=True, kw_only=True)
class Options(ScoringOptions):
    """Ask a model for pair preferences and store them as Parquet (qid, first, second, probability, order)."""

    depth: int = 50
    """Candidates per topic."""
    schedule: str | None = "all"
    """Which pairs to compare (see: sparring list schedules)."""


def main(options: Options) -> None:
    """Checks everything, compares, writes the preferences and their meta file, prints their diagnostics."""
    if options.output.suffix != ".parquet":
        raise UsageError(f"--output {options.output}: preferences are stored as .parquet")
    check_output(options.output, options.overwrite)
    job = prepare(options)
    if options.dry_run:
        plan(job, options)
        return
    kept: list[Preferences] = []
    details = {"model": options.model, "order": options.order, "depth": options.depth, "seed": options.seed}
    count = write_preferences(
        options.output, topics(job, options, kept), {**details, "schedule": str(job.schedule)}
    )
    write_meta(options.output, "compare", job.inputs, {**details, "comparisons": count, **job.details()})
    discard_ledger(options)
    console.log.info("%s: %d comparisons. %s", options.output, count, job.scorer.stats.summary())
    console.out(str(diagnose(Preferences.join(kept))))


def topics(
    job: Job, options: Options, kept: list[Preferences]
) -> Iterator[tuple[str, tuple[str, ...], Preferences]]:
    """(qid, docids, preferences) of every topic, remembering the preferences for the diagnostics."""
    from .. import registry

    for ranked in ranked_topics(job, options, registry.aggregators.parse("win_rate")):
        kept.append(ranked.preferences)
        yield ranked.candidates.qid, ranked.candidates.docids, ranked.preferences
