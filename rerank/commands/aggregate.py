"""``sparring aggregate``: stored preferences, ours or anybody's, become a ranking."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import console, registry
from ..data.atomic import atomic_write, check_output
from ..data.meta import write_meta
from ..data.preferences import Stored, read_preferences
from ..data.runs import read_run, with_rest, write_run
from ..errors import InputError, UsageError
from .options import CommonOptions, RunOptions

TABLES = (".tsv", ".jsonl")


@dataclass(frozen=True, kw_only=True)
class Options(RunOptions, CommonOptions):
    """Turn stored preferences into a ranking."""

    preferences: Path
    """Parquet file of `sparring compare`, or CSV/Parquet with left, right, winner[, weight, qid, worker]."""
    output: Path
    """TREC run to write; a name that ends in .tsv or .jsonl gives a table, for ids with spaces."""
    run: Path | None = None
    """First-stage run: its documents are ranked, compared or not, and its scores are the prior."""
    depth: int = 100
    """How many documents of each topic of the run are candidates; the rest follow below, in the run's order."""
    aggregator: str = "bradley_terry"
    """Spec of the aggregator (see: sparring list aggregators)."""
    tag: str | None = None
    """Run tag; the aggregator's name where absent."""


def main(options: Options) -> None:
    """Reads, aggregates all topics in one call, writes the run and its meta file."""
    aggregator = registry.aggregators.parse(options.aggregator)
    check_output(options.output, options.overwrite)
    run = read_run(options.run) if options.run else None
    stored = read_preferences(options.preferences, run, options.depth, uncompared=True)
    if options.output.suffix not in TABLES:
        _refuse_spaces(stored)
    elif options.embed_metadata:
        raise UsageError("--embed-metadata is for runs: tables have no comments")
    said = stored.preferences
    console.log.info(
        "%d comparisons of %d candidates in %d topics", len(said.first), int(said.sizes.sum()), len(stored.qids)
    )
    if options.dry_run:
        return
    start = time.perf_counter()
    scores = np.split(aggregator(said), np.cumsum(said.sizes)[:-1])
    seconds = time.perf_counter() - start
    tag = options.tag or str(aggregator).split("(")[0]
    topics = list(zip(stored.qids, stored.docids, scores, strict=True))
    if run is not None:
        topics = [with_rest(run, *topic) for topic in topics]
    if options.output.suffix in TABLES:
        _write_table(options.output, topics)
    else:
        write_run(options.output, topics, tag)
    inputs = {"preferences": options.preferences} | ({"run": options.run} if options.run else {})
    write_meta(
        options.output,
        tag,
        inputs,
        {"aggregator": str(aggregator), "comparisons": len(said.first), "seconds": round(seconds, 3)},
        embed=options.embed_metadata,
    )
    console.log.info("%s: %s in %.2f s", options.output, aggregator, seconds)


def _write_table(path: Path, topics: list[tuple[str, tuple[str, ...], NDArray[np.float64]]]) -> None:
    """One row per item, best first, with the columns qid, item, rank and score; JSON lines hold any id."""
    with atomic_write(path) as stream:
        if path.suffix == ".tsv":
            stream.write("qid\titem\trank\tscore\n")
        for qid, items, scores in topics:
            for rank, index in enumerate(np.argsort(-scores, kind="stable"), 1):
                row = {"qid": qid, "item": items[index], "rank": rank, "score": float(f"{scores[index]:.9g}")}
                stream.write(json.dumps(row, ensure_ascii=False) if path.suffix == ".jsonl" else _tabbed(row))
                stream.write("\n")


def _tabbed(row: dict[str, Any]) -> str:
    return "\t".join(str(value) for value in row.values())


def _refuse_spaces(stored: Stored) -> None:
    spaced = next((name for names in stored.docids for name in names if len(name.split()) != 1), None)
    if spaced is not None:
        raise InputError(
            f"{spaced!r} holds white space and cannot stand in a TREC run: "
            "give --output a name that ends in .jsonl or .tsv"
        )
