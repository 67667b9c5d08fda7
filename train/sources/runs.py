"""TREC runs whose scores or ranks are a teacher's."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ...rerank.arrays import ragged
from ...rerank.data.datasets import open_dataset
from ...rerank.data.runs import Run, read_run
from ...rerank.errors import InputError
from ..data.mixture import Row, Rows, Sampling, sources
from . import check_topics, held_out


@sources.register("run")
@dataclass(frozen=True)
class ScoredRun:
    """A TREC run whose scores are the teacher's, such as a bi-encoder's or what ``sparring rerank`` wrote."""

    path: str
    dataset: str
    queries: str | None = None
    depth: int = 100
    scale: float = 1.0
    share: float = 1.0
    sampling: Sampling = "spread"
    holdout: int = 0

    def rows(self) -> Rows:
        """One row per topic of the run, to ``depth``."""
        run = read_run(Path(self.path)).top(self.depth)
        return _rows(run, run.scores, self.path, self.dataset, self.queries, self.holdout)


@sources.register("ranked")
@dataclass(frozen=True)
class RankedLists:
    """Ranked lists whose ranks are the labels, as Rank-DistiLLM's: a TREC run, or TSV of qid, docid and rank.

    ``labels=rank`` counts down to 0 at the end of a list, for losses that read an order or label ranks (ranknet,
    listmle, adr_mse); ``reciprocal`` is 1/rank, for losses that read gains.
    """

    path: str
    dataset: str
    queries: str | None = None
    depth: int = 100
    labels: Literal["rank", "reciprocal"] = "rank"
    scale: float = 1.0
    share: float = 1.0
    sampling: Sampling = "random"
    holdout: int = 0

    def rows(self) -> Rows:
        """One row per topic of the run, to ``depth``."""
        run = read_run(Path(self.path)).top(self.depth)
        sizes = np.diff(run.offsets)
        place = ragged(np.zeros_like(sizes), sizes)
        labels = np.repeat(sizes, sizes) - 1 - place if self.labels == "rank" else 1 / (place + 1)
        return _rows(run, labels, self.path, self.dataset, self.queries, self.holdout)


def _rows(
    run: Run, labels: NDArray[np.generic], path: str, dataset: str, queries: str | None, holdout: int
) -> Rows:
    data = open_dataset(dataset, Path(queries) if queries else None)
    check_topics(path, run.qids, data)
    absent = sorted(data.documents.missing(run.docids.unique().to_pylist()))
    if absent:
        raise InputError(f"{path}: {len(absent)} documents are not in the collection: {', '.join(absent[:5])}")
    values = labels.astype(np.float32)
    left_out = held_out(run.qids, holdout)

    def read(topic: int) -> Row:
        qid = run.qids[topic]
        own = values[run.offsets[topic] : run.offsets[topic + 1]]
        return Row(qid, data.queries[qid], run[qid][0], own, data.documents)

    return Rows.teaching(read, [topic for topic, qid in enumerate(run.qids) if qid not in left_out])
