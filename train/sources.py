"""The kinds of training data: lists with teacher scores, runs, judged runs, triples, and the embedded collection.

Each reads named columns and names the first bad row with its file and line. ``holdout=n`` leaves every n-th topic
(in sorted order) out of training, so that ``--dev-holdout n`` can measure on exactly those.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..eval.qrels import read_qrels
from ..rerank.datasets import Dataset, open_dataset
from ..rerank.documents import Documents
from ..rerank.errors import InputError, MissingResourceError, UsageError
from ..rerank.registry import unknown
from ..rerank.runs import read_run
from ..rerank.textfiles import lines
from .data import Row, Sampling, sources

LIST_COLUMNS = ("qid", "docids", "scores", "query", "texts")


def held_out(qids: Sequence[str], every: int) -> set[str]:
    """Every n-th topic in sorted order: what ``holdout=n`` and ``--dev-holdout n`` agree on; none for 0."""
    return set(sorted(qids)[::every]) if every > 0 else set()


@sources.register("run")
@dataclass(frozen=True)
class ScoredRun:
    """A TREC run whose scores are the teacher's, such as a bi-encoder's or what ``sparring rerank`` wrote."""

    path: str
    dataset: str
    depth: int = 100
    scale: float = 1.0
    share: float = 1.0
    sampling: Sampling = "spread"
    holdout: int = 0

    def rows(self) -> list[Row]:
        """One row per topic of the run."""
        run, data = read_run(Path(self.path)), open_dataset(self.dataset)
        _check_topics(self.path, run.topics(), data)
        left_out = held_out(run.topics(), self.holdout)
        found = []
        for qid, docids, scores in run.items():
            if qid not in left_out:
                top, labels = docids[: self.depth], scores[: self.depth].astype(np.float32)
                found.append(Row(qid, data.queries[qid], tuple(top), labels, data.documents))
        _check_documents(self.path, found, data.documents)
        return found


@sources.register("judged")
@dataclass(frozen=True)
class JudgedRun:
    """Graded qrels; documents in a run's rank window that nobody judged are negatives, labelled ``unjudged``."""

    dataset: str
    qrels: str | None = None
    run: str | None = None
    first: int = 1
    last: int = 100
    unjudged: float = 0.0
    scale: float = 1.0
    share: float = 1.0
    sampling: Sampling = "balanced"
    holdout: int = 0

    def __post_init__(self) -> None:
        if not 1 <= self.first <= self.last:
            raise ValueError(f"the rank window {self.first}..{self.last} is empty")

    def rows(self) -> list[Row]:
        """One row per judged topic: all judged documents that have a text, and the window of the run."""
        data = open_dataset(self.dataset)
        path = Path(self.qrels) if self.qrels else data.qrels_path
        if path is None:
            raise MissingResourceError(f"{self.dataset} has no qrels: name them in the source, qrels='FILE'")
        judged = read_qrels(path).grades
        run = read_run(Path(self.run)) if self.run else None
        left_out = held_out(list(judged), self.holdout)
        found = []
        for qid, grades in judged.items():
            if qid in left_out or qid not in data.queries:
                continue
            labels = {docid: float(grade) for docid, grade in grades.items()}
            if run is not None and qid in run:
                for docid in run[qid][0][self.first - 1 : self.last]:
                    labels.setdefault(docid, self.unjudged)
            for docid in data.documents.missing(list(labels)):
                del labels[docid]
            values = np.array(list(labels.values()), np.float32)
            found.append(Row(qid, data.queries[qid], tuple(labels), values, data.documents))
        if not found:
            raise InputError(f"{path}: no judged topic is among the queries of {self.dataset}")
        return found


@sources.register("lists")
@dataclass(frozen=True)
class ScoredLists:
    """JSONL, one query per line: qid, docids, scores; query and texts too, unless a dataset has them."""

    path: str
    dataset: str | None = None
    scale: float = 1.0
    share: float = 1.0
    sampling: Sampling = "spread"
    holdout: int = 0

    def rows(self) -> list[Row]:
        """One row per line."""
        data = open_dataset(self.dataset) if self.dataset else None
        found = [self._row(f"{self.path}:{number}", text, data) for number, text in lines(Path(self.path)) if text]
        left_out = held_out([row.qid for row in found], self.holdout)
        found = [row for row in found if row.qid not in left_out]
        if data is not None:
            _check_documents(self.path, found, data.documents)
        return found

    def _row(self, where: str, text: str, data: Dataset | None) -> Row:
        record = _record(where, text, LIST_COLUMNS, ("qid", "docids", "scores"))
        qid, docids = str(record["qid"]), tuple(map(str, record["docids"]))
        query = record.get("query", data.queries.get(qid) if data else None)
        texts = record.get("texts", data.documents if data else None)
        if query is None or texts is None:
            raise InputError(f"{where}: no text of {qid!r}: name a dataset, or give the columns query and texts")
        try:
            labels = np.array(record["scores"], np.float32)
        except (TypeError, ValueError):
            raise InputError(f"{where}: scores must be numbers") from None
        if labels.shape != (len(docids),) or not np.isfinite(labels).all():
            raise InputError(f"{where}: {len(docids)} docids need as many finite scores, found {labels.size}")
        if isinstance(texts, list) and len(texts) != len(docids):
            raise InputError(f"{where}: {len(docids)} docids, but {len(texts)} texts")
        return Row(qid, str(query), docids, labels, texts)


@sources.register("triples")
@dataclass(frozen=True)
class Triples:
    """MS MARCO triples, tab-separated: query, positive, negative; as text, or as ids where a dataset is named."""

    path: str
    dataset: str | None = None
    scale: float = 1.0
    share: float = 1.0
    sampling: Sampling = "balanced"

    def rows(self) -> list[Row]:
        """One row per query: its positives (label 1) and negatives (label 0), each once."""
        data = open_dataset(self.dataset) if self.dataset else None
        labels: dict[str, dict[str, float]] = {}
        for number, text in lines(Path(self.path)):
            if not text:
                continue
            parts = text.split("\t")
            if len(parts) != 3:
                raise InputError(
                    f"{self.path}:{number}: expected query, positive and negative between tabs, "
                    f"found {len(parts)} fields"
                )
            if data is not None and parts[0] not in data.queries:
                raise InputError(f"{self.path}:{number}: query {parts[0]!r} is not in {self.dataset}")
            seen = labels.setdefault(parts[0], {})
            seen[parts[1]] = 1.0
            seen.setdefault(parts[2], 0.0)
        found = []
        for query, seen in labels.items():
            values, names = np.array(list(seen.values()), np.float32), tuple(seen)
            if data is None:
                found.append(Row(query, query, names, values, names))
            else:
                found.append(Row(query, data.queries[query], names, values, data.documents))
        if data is not None:
            _check_documents(self.path, found, data.documents)
        return found


@sources.register("docstrings")
@dataclass(frozen=True)
class Docstrings:
    """The embedded collection: a docstring's summary is a query, its body the positive, other bodies negatives."""

    negatives: int = 50
    scale: float = 1.0
    share: float = 1.0
    sampling: Sampling = "balanced"

    def rows(self) -> list[Row]:
        """One row per docstring with a summary; half of the negatives are neighbours in name, half are random."""
        from ..rerank.pydocs import training_pairs

        pairs = list(training_pairs())
        bodies = [body for _, body in pairs]
        rng = np.random.default_rng(len(pairs))
        found = []
        for number, (summary, _) in enumerate(pairs):
            near = np.arange(number - self.negatives // 4, number + self.negatives // 4 + 1) % len(pairs)
            far = rng.integers(len(pairs), size=self.negatives - self.negatives // 2)
            others = np.setdiff1d(np.concatenate([near, far]), [number])
            chosen = [number, *others.tolist()]
            labels = np.zeros(len(chosen), np.float32)
            labels[0] = 1.0
            names = tuple(str(i) for i in chosen)
            found.append(Row(str(number), summary, names, labels, [bodies[i] for i in chosen]))
        return found


def _record(where: str, text: str, known: tuple[str, ...], needed: tuple[str, ...]) -> dict[str, Any]:
    try:
        record = json.loads(text)
    except json.JSONDecodeError as error:
        raise InputError(f"{where}: not valid JSON: {error}") from None
    if not isinstance(record, dict):
        raise InputError(f"{where}: expected a JSON object, found {type(record).__name__}")
    for key in record:
        if key not in known:
            raise InputError(f"{where}: {unknown('column', str(key), known)}")
    if absent := [key for key in needed if key not in record]:
        raise InputError(f"{where}: lacks {', '.join(absent)}; columns found: {', '.join(record)}")
    return record


def _check_topics(path: str, qids: Sequence[str], data: Dataset) -> None:
    strange = [qid for qid in qids if qid not in data.queries]
    if strange:
        raise InputError(f"{path}: {len(strange)} topics are not in {data.name}: {', '.join(strange[:5])}")


def _check_documents(path: str, rows: Sequence[Row], documents: Documents) -> None:
    wanted: Iterator[str] = (docid for row in rows for docid in row.docids if row.documents is documents)
    absent = sorted(documents.missing(list(dict.fromkeys(wanted))))
    if absent:
        raise InputError(f"{path}: {len(absent)} documents are not in the collection: {', '.join(absent[:5])}")


def parse(specs: Sequence[str]) -> list[Any]:
    """The sources that the specs name; says everything that is wrong at once."""
    found, problems = [], []
    for spec in specs:
        try:
            found.append(sources.parse(spec))
        except UsageError as error:
            problems.append(str(error))
    if problems:
        raise UsageError("; ".join(problems))
    return found
