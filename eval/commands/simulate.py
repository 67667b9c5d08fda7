"""``sparring simulate``: preferences of a simulated judge on real qrels, in the form of `sparring compare`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ...rerank.commands.options import CommonOptions
from ...rerank.console import log, out
from ...rerank.data.atomic import check_output
from ...rerank.data.meta import write_meta
from ...rerank.data.preferences import write_preferences
from ...rerank.data.runs import Run, read_run, write_run
from ...rerank.errors import InputError, UsageError
from ..bench.simulator import (
    Statistics,
    World,
    calibrate,
    first_stage,
    label,
    make_world,
    measure,
    preferences,
)
from ..measures.qrels import Qrels, read_qrels


@dataclass(frozen=True, kw_only=True)
class Options(CommonOptions):
    """Simulate a judge of pairs on real qrels, calibrated to stated statistics. For studies of schedules only."""

    run: Path
    """Run with the candidates of every topic; its order is the first stage unless one is simulated."""
    qrels: Path
    """Judgements that the simulated judge knows, with errors."""
    output: Path
    """Preferences to write (.parquet): all ordered pairs."""
    depth: int = 50
    """Candidates per topic."""
    first_stage: Path | None = None
    """Write a simulated first stage here (a run), and do not let the judge share the errors of --run."""
    first_stage_ndcg: float = 0.606
    """Its nDCG@10."""
    shared_error: float = 0.6
    """Correlation of the errors of judge and first stage."""
    flip_rate: float = 0.31
    """Wanted share of pairs whose verdict depends on the order."""
    correlation: float = 0.57
    """Wanted correlation of P_ab and 1 - P_ba."""
    min_transitivity: float = 0.76
    """Wanted share of triples with min(P_ab, P_bc) <= P_ac."""
    ndcg: float = 0.70
    """Wanted nDCG@10 of all pairs."""


def main(options: Options) -> None:
    """Calibrates, writes the preferences (and the first stage), says what was reached."""
    if options.output.suffix != ".parquet":
        raise UsageError(f"--output {options.output}: preferences are stored as .parquet")
    if not -1 <= options.shared_error <= 1 or options.depth < 3:
        raise UsageError("--shared-error must lie between -1 and 1, --depth must be at least 3")
    for path in (options.output, *([options.first_stage] if options.first_stage else [])):
        check_output(path, options.overwrite)
    run, qrels = read_run(options.run), read_qrels(options.qrels)
    worlds = make_worlds(run, qrels, options)
    log.info("simulating %d topics of at most %d candidates", len(worlds), options.depth)
    if options.dry_run:
        return
    wanted = Statistics(options.flip_rate, options.correlation, options.min_transitivity, options.ndcg)
    judge = calibrate(worlds, wanted)
    details = label(judge, wanted, measure(worlds, judge), options.seed)
    write_preferences(
        options.output, ((world.qid, world.docids, preferences(world, judge)) for world in worlds), details
    )
    inputs = {"run": options.run, "qrels": options.qrels}
    write_meta(options.output, "simulate", inputs, details)
    if options.first_stage:
        scores = first_stage(worlds, options.first_stage_ndcg, options.seed, options.shared_error)
        topics = [(world.qid, world.docids, s) for world, s in zip(worlds, scores, strict=True)]
        write_run(options.first_stage, Run.from_topics(topics).items(), "simulated")
        write_meta(options.first_stage, "simulate", inputs, details)
    for name, value in details["reached"].items():
        out(f"{name:<17}{value:.3f}  (wanted {details['wanted'][name]:.3f})")


def make_worlds(run: Run, qrels: Qrels, options: Options) -> list[World]:
    """A world per judged topic of the run."""
    worlds = []
    for qid, docids, scores in run.top(options.depth).items():
        if qid in qrels and len(docids) > 2:
            shared = None if options.first_stage else np.asarray(scores, np.float64)
            if options.first_stage:  # its order must not speak of the run's
                docids = tuple(sorted(docids))
            worlds.append(make_world(qid, docids, qrels[qid], options.seed, shared, options.shared_error))
    if not worlds:
        raise InputError(f"{options.run}: no topic with three candidates is judged in {options.qrels}")
    return worlds
