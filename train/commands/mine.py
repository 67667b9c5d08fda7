"""``sparring mine``: hard negatives for judged queries, from an index, a bi-encoder or a run.

sentence-transformers' ``mine_hard_negatives`` does this job for columns of texts: it embeds the collection anew,
tells positives by their text, returns texts, asks a cross-encoder about one query at a time, and needs
``datasets``. Here there are ids, graded qrels and indexes on disk, and a cross-encoder is asked about many queries
at once behind a ledger; what is chosen, and the meaning of every margin, is the same (a test compares them).
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ...rerank import console
from ...rerank.commands.job import behind_ledger, discard_ledger
from ...rerank.commands.options import CommonOptions, DatasetOptions
from ...rerank.data.atomic import atomic_write, check_output
from ...rerank.data.datasets import Dataset
from ...rerank.data.meta import write_meta
from ...rerank.data.runs import read_run
from ...rerank.errors import InputError, MissingResourceError, UsageError
from ...rerank.rounds import topic_rng
from ..data.hard_negatives import Choice, Query, from_run, judged_queries, rescored, searched, without_copies


@dataclass(frozen=True, kw_only=True)
class Options(DatasetOptions, CommonOptions):
    """Mine hard negatives: JSONL lists (positives, then negatives), or triples of ids as TSV."""

    output: Path
    """File to write: .jsonl (.gz too) for lists, .tsv for triples qid, positive, negative."""
    qrels: Path | None = None
    """Judgements, instead of the dataset's."""
    positive: int = 1
    """Lowest grade of a positive; no positive is ever a negative, nor is a document with the same text."""
    index: Path | None = None
    """Folder of an index to search in."""
    model: str | None = None
    """Bi-encoder; without --index the collection is encoded now and searched exactly."""
    run: Path | None = None
    """Take candidates from this run, such as BM25's, instead of searching."""
    cross_encoder: str | None = None
    """Pointwise model whose scores the bounds and margins are about, instead of the search's."""
    negatives: int = 8
    """Negatives per query, at most."""
    first: int = 1
    """Best rank of a negative, among the candidates that are not positive."""
    last: int = 100
    """Worst rank of a negative."""
    sampling: Literal["top", "random"] = "top"
    """Take the best-scored of what the filters leave, or draw from it."""
    max_score: float | None = None
    """No negative scores above this."""
    min_score: float | None = None
    """No negative scores below this."""
    absolute_margin: float | None = None
    """A negative scores at least so much below the query's lowest positive."""
    relative_margin: float | None = None
    """The same, as a share of that positive's score: 0.05 is the positive-aware 95 per cent rule."""
    labels: Literal["grades", "scores"] = "grades"
    """What lists hold: grades of positives and 0, or the scores (of the cross-encoder, where there is one)."""
    ledger: Path | None = None
    """Store of the cross-encoder's outcomes; without it one lies beside the output until that is written."""
    fresh: bool = False
    """Allow a ledger that was made by another model."""

    def choice(self) -> Choice:
        """The conditions that these flags set."""
        names = ("first", "last", "max_score", "min_score", "absolute_margin", "relative_margin", "sampling")
        try:
            return Choice(self.negatives, **{name: getattr(self, name) for name in names})
        except ValueError as error:
            raise UsageError(str(error)) from None


def main(options: Options) -> None:
    """Checks everything, searches, scores, chooses, writes the negatives and their meta file."""
    choice = options.choice()
    _check(options, choice)
    check_output(options.output, options.overwrite)
    start = time.perf_counter()
    dataset = options.open_dataset()
    path = options.qrels or dataset.qrels_path
    if path is None:
        raise MissingResourceError(f"{dataset.name} has no qrels: name them by --qrels FILE")
    if options.cross_encoder is not None and dataset.instructions:
        raise UsageError(
            f"{len(dataset.instructions)} topics carry an instruction, which --cross-encoder would not be told: "
            "take the field out of a copy of the topics"
        )
    queries = judged_queries(path, dataset, options.positive)
    engine = _cross_encoder(options)
    source = options.run or options.index or options.model
    positives = sum(len(query.positives) for query in queries)
    console.log.info("%d queries with %d positives; candidates from %s", len(queries), positives, source)
    if options.dry_run:
        return
    queries = [without_copies(query, dataset) for query in _candidates(options, dataset, queries, choice)]
    if engine is not None:
        with behind_ledger(engine, options) as scorer:
            queries = list(rescored(queries, dataset, scorer))
    removed: Counter[str] = Counter()
    chosen = [choice(q.scores, q.positive_scores, topic_rng(options.seed, q.qid), removed) for q in queries]
    kept = [(query, places) for query, places in zip(queries, chosen, strict=True) if len(places)]
    if not kept:
        raise InputError(f"no negative is left for any of {len(queries)} queries ({dict(removed)} removed)")
    count = _write(options, kept)
    inputs = {"qrels": path, **dataset.files()} | ({"run": options.run} if options.run else {})
    details = {
        "model": options.model,
        "index": str(options.index) if options.index else None,
        "cross_encoder": options.cross_encoder,
        "choice": {n: getattr(choice, n) for n in Choice.__slots__},
        "positive": options.positive,
        "labels": options.labels,
        "seed": options.seed,
        "queries": len(kept),
        "negatives": count,
        "removed": dict(removed),
        "seconds": round(time.perf_counter() - start, 2),
    }
    write_meta(options.output, "mine", inputs, details)
    discard_ledger(options)
    console.log.info(
        "%s: %d negatives of %d queries; removed: %s; %d queries without negatives are left out",
        options.output,
        count,
        len(kept),
        dict(removed) or "none",
        len(queries) - len(kept),
    )


def _check(options: Options, choice: Choice) -> None:
    name = options.output.name.removesuffix(".gz")
    if not name.endswith((".jsonl", ".tsv")):
        raise UsageError(f"--output {options.output}: lists are written as .jsonl, triples as .tsv (.gz too)")
    if options.run is not None and (options.index or options.model):
        raise UsageError("--run has the candidates already: leave --index and --model out")
    if options.run is None and options.index is None and options.model is None:
        raise UsageError("nothing to mine from: give --index IX, --model M or --run RUN")
    if (
        options.run is not None
        and options.cross_encoder is None
        and (choice.by_margin or options.labels == "scores")
    ):
        raise UsageError("a run has no scores of all positives: margins and --labels scores need --cross-encoder")
    if name.endswith(".tsv") and options.labels == "scores":
        raise UsageError("triples have no scores: write .jsonl")


def _cross_encoder(options: Options) -> Any:
    if options.cross_encoder is None:
        return None
    from ...rerank.executors.open import open_scorer
    from ...rerank.models.loading import load

    model = load(options.cross_encoder)
    if model.width != 1:
        raise UsageError(f"--cross-encoder {options.cross_encoder}: only pointwise models score single documents")
    return open_scorer(model, device=options.device, dtype=options.dtype)


def _candidates(options: Options, dataset: Dataset, queries: list[Query], choice: Choice) -> list[Query]:
    if options.run is not None:
        run = read_run(options.run, encoding=options.encoding, encoding_errors=options.encoding_errors)
        found = from_run(queries, run, choice)
        if not found:
            raise InputError(f"{options.run}: holds none of the {len(queries)} judged queries")
        return found
    from ...rerank.search.bi_encoder import BiEncoder
    from ...rerank.search.index import read_manifest

    model = options.model or str(read_manifest(Path(str(options.index)))["encoder"]["model"])
    return searched(queries, dataset, choice, BiEncoder(model, options.device, options.dtype), options.index)


def _write(options: Options, kept: Sequence[tuple[Query, NDArray[np.int64]]]) -> int:
    """Writes lists or triples; returns the number of negatives."""
    with atomic_write(options.output) as stream:
        for query, places in kept:
            negatives = [query.candidates[i] for i in places]
            if options.output.name.removesuffix(".gz").endswith(".tsv"):
                stream.writelines(f"{query.qid}\t{p}\t{n}\n" for p in query.positives for n in negatives)
                continue
            labels: list[float] = [*query.grades, *(0 for _ in negatives)]
            if options.labels == "scores":
                labels = [float(f"{s:.9g}") for s in (*query.positive_scores, *query.scores[places])]
            row = {"qid": query.qid, "docids": [*query.positives, *negatives], "scores": labels}
            stream.write(json.dumps(row, ensure_ascii=False) + "\n")
    return sum(len(places) for _, places in kept)
