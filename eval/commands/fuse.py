"""``sparring fuse``: several runs become one, by score interpolation or by ranks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import tyro
from numpy.typing import NDArray

from ...rerank import console
from ...rerank.commands.options import CommonOptions, RunOptions
from ...rerank.data.atomic import check_output
from ...rerank.data.meta import write_meta
from ...rerank.data.runs import Run, ranked, read_run, write_run
from ...rerank.errors import InputError, UsageError
from ...rerank.search.fusion import fuse as fuse_ranks
from ...rerank.search.fusion import scaled
from ..measures.evaluation import score_runs
from ..measures.qrels import read_qrels

HEAVIEST = 1e9
"""Larger weights would leave nothing of the other runs."""
LARGEST = 2.0**960
"""Topics with larger scores are divided by it before they are summed: order survives, overflow does not occur."""
GRID = tuple(round(step / 20, 2) for step in range(21))


@dataclass(frozen=True, kw_only=True)
class Options(RunOptions, CommonOptions):
    """Fuse runs: interpolate min-max normalised scores, or combine ranks (RRF, Borda)."""

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Two or more TREC runs; the first one breaks ties."""
    output: Path
    """TREC run to write."""
    method: Literal["interpolate", "sum", "rrf", "borda"] = "interpolate"
    """interpolate: weighted sum of scores scaled to 0..1 per topic; sum: of the scores as they are, the topic's
    lowest where a run lacks a document; rrf: sum of 1/(60+rank); borda: points."""
    weights: tuple[float, ...] = ()
    """One per run; equal where absent."""
    tune: Path | None = None
    """Qrels of tuning topics: choose the weight of the second of two runs on them (never on the test topics)."""
    measure: str = "nDCG@10"
    """What tuning maximises."""
    tag: str = "fused"
    """Run tag."""


def main(options: Options) -> None:
    """Reads the runs, finds the weights if asked to, writes the fused run."""
    if len(options.runs) < 2:
        raise UsageError("fuse needs at least two runs")
    if options.weights and len(options.weights) != len(options.runs):
        raise UsageError(f"{len(options.runs)} runs but {len(options.weights)} --weights")
    if wrong := [weight for weight in options.weights if not abs(weight) <= HEAVIEST]:
        raise UsageError(f"--weights {wrong[0]}: a weight is a number between -{HEAVIEST:g} and {HEAVIEST:g}")
    if options.tune and (len(options.runs) != 2 or options.method != "interpolate" or options.weights):
        raise UsageError("--tune chooses the weight between two interpolated runs; leave --weights out")
    check_output(options.output, options.overwrite)
    runs = [read_run(path) for path in options.runs]
    weights = options.weights or (1.0 / len(runs),) * len(runs)
    if options.tune:
        weights = _tuned(runs, options)
    if options.dry_run:
        return
    write_run(options.output, fuse(runs, options.method, weights).items(), options.tag)
    inputs = {f"run{index}": path for index, path in enumerate(options.runs, 1)}
    if options.tune:
        inputs["tuning qrels"] = options.tune
    details = {"method": options.method, "weights": list(weights)}
    write_meta(options.output, options.tag, inputs, details, embed=options.embed_metadata)


def fuse(runs: list[Run], method: str, weights: tuple[float, ...]) -> Run:
    """One run over the topics of all; a document that a run lacks counts there as its last (sum) or not at all."""
    topics = list(dict.fromkeys(qid for run in runs for qid in run.topics()))
    return Run.from_topics([(qid, *_fused(qid, runs, method, weights)) for qid in topics])


def _fused(
    qid: str, runs: list[Run], method: str, weights: tuple[float, ...]
) -> tuple[Sequence[str], Sequence[float] | NDArray[np.float64]]:
    lists = [run[qid] for run in runs if qid in run]
    weights = tuple(weight for run, weight in zip(runs, weights, strict=True) if qid in run)
    if method in ("rrf", "borda"):
        rows = fuse_ranks([ids for ids, _ in lists], method, weights)
        return [docid for docid, _ in rows], [score for _, score in rows]
    total = dict.fromkeys((name for ids, _ in lists for name in ids), 0.0)
    huge = method == "sum" and any(np.abs(scores).max(initial=0.0) > LARGEST for _, scores in lists)
    for (ids, scores), weight in zip(lists, weights, strict=True):
        if method == "interpolate":
            values = scaled(scores)
        elif np.isinf(scores).any():
            raise InputError(f"topic {qid}: infinite scores cannot be summed; fuse by rank instead (--method rrf)")
        else:  # above its last document, so that those it lacks get nothing
            values = scores / LARGEST - scores.min() / LARGEST if huge else scores - scores.min()
        for name, value in zip(ids, values.tolist(), strict=True):
            total[name] += weight * value
    order, scores = ranked(list(total.values()))  # as it will be written, so that tuning sees the same order
    names = list(total)
    return [names[index] for index in order], scores


def _tuned(runs: list[Run], options: Options) -> tuple[float, float]:
    qrels = read_qrels(options.tune) if options.tune else {}
    found = {w: score_runs(qrels, [fuse(runs, "interpolate", (1 - w, w))], options.measure)[0] for w in GRID}
    best = max(found.values())
    weight = min((w for w in GRID if found[w] >= best - 1e-12), key=lambda w: abs(w - 0.5))
    console.log.info(
        "weight of %s: %.2f, %s %.4f on the tuning topics (%.4f for %s alone, %.4f for %s alone)",
        options.runs[1], weight, options.measure, best, found[0.0], options.runs[0], found[1.0], options.runs[1],
    )  # fmt: skip
    return (round(1 - weight, 2), weight)
