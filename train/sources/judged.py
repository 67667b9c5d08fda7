"""Judgments as training data, with negatives from a run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ...eval.measures.qrels import read_qrels
from ...rerank.data.datasets import Dataset, open_dataset
from ...rerank.data.runs import Run, read_run
from ...rerank.errors import InputError, MissingResourceError
from ..data.mixture import Row, Rows, Sampling, sources
from . import held_out
from .irds import judgments


@sources.register("judged")
@dataclass(frozen=True)
class JudgedRun:
    """Graded qrels; documents in a run's rank window that nobody judged are negatives, labelled ``unjudged``.

    Args:
        qrels: file, instead of the dataset's; ``irds:`` datasets have theirs.
        run: TREC run to take negatives from, at ranks ``first`` to ``last``.
        negative: judged documents of at most this grade count only inside the window too: hard negatives by rank
            and grade. By default all judged documents count, wherever they are.
    """

    dataset: str
    qrels: str | None = None
    run: str | None = None
    first: int = 1
    last: int = 100
    unjudged: float = 0.0
    negative: int | None = None
    scale: float = 1.0
    share: float = 1.0
    sampling: Sampling = "balanced"
    holdout: int = 0

    def __post_init__(self) -> None:
        if not 1 <= self.first <= self.last:
            raise ValueError(f"the rank window {self.first}..{self.last} is empty")
        if self.negative is not None and self.run is None:
            raise ValueError("negative=... is about the window of a run: name one, run='FILE'")

    def rows(self) -> Rows:
        """One row per judged topic: judged documents that have a text, and the window of the run."""
        data = open_dataset(self.dataset)
        name, judged = self._grades(data)
        run = read_run(Path(self.run)) if self.run else None
        left_out = held_out(list(judged), self.holdout)
        qids = [qid for qid in judged if qid not in left_out and qid in data.queries]
        if not qids:
            raise InputError(f"{name}: no judged topic is among the queries of {self.dataset}")
        wanted = {docid for qid in qids for docid in self._labels(judged[qid], qid, run)}
        absent = data.documents.missing(list(wanted))

        def read(topic: int) -> Row:
            qid = qids[topic]
            labels = self._labels(judged[qid], qid, run)
            docids = tuple(docid for docid in labels if docid not in absent)
            values = np.array([labels[docid] for docid in docids], np.float32)
            return Row(qid, data.queries[qid], docids, values, data.documents)

        return Rows.teaching(read, range(len(qids)))

    def _labels(self, grades: dict[str, int], qid: str, run: Run | None) -> dict[str, float]:
        window = run[qid][0][self.first - 1 : self.last] if run is not None and qid in run else ()
        least = -np.inf if self.negative is None else self.negative
        labels = {docid: float(grade) for docid, grade in grades.items() if grade > least}
        for docid in window:
            labels.setdefault(docid, float(grades.get(docid, self.unjudged)))
        return labels

    def _grades(self, data: Dataset) -> tuple[str, dict[str, dict[str, int]]]:
        path = Path(self.qrels) if self.qrels else data.qrels_path
        if path is not None:
            return str(path), read_qrels(path).grades
        grades: dict[str, dict[str, int]] = {}
        for qid, docid, grade in judgments(data):
            if grade >= 0:
                grades.setdefault(qid, {})[docid] = grade
        if not grades:
            raise MissingResourceError(f"{self.dataset} has no qrels: name them in the source, qrels='FILE'")
        return self.dataset, grades
