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
from numpy.typing import NDArray

from ..eval.qrels import read_qrels
from ..rerank.datasets import Dataset, open_dataset
from ..rerank.documents import Documents
from ..rerank.errors import InputError, MissingResourceError, UsageError
from ..rerank.registry import unknown
from ..rerank.runs import read_run
from ..rerank.textfiles import lines
from .data import Row, Sampling, sources

Negatives = tuple[NDArray[np.int64], NDArray[np.float32]]
"""Positions of other documents in the collection, and their labels."""
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
    queries: str | None = None
    depth: int = 100
    scale: float = 1.0
    share: float = 1.0
    sampling: Sampling = "spread"
    holdout: int = 0

    def rows(self) -> list[Row]:
        """One row per topic of the run."""
        run = read_run(Path(self.path))
        data = open_dataset(self.dataset, Path(self.queries) if self.queries else None)
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
    """The embedded collection: a docstring's summary is a query, its body the positive, others are negatives.

    Without an ``index`` labels are 1 and 0, and negatives are neighbours in name and random bodies. With one (a
    folder made by ``sparring index`` of this collection) negatives are the nearest documents of the summary, and
    labels are the bi-encoder's similarities, the positive ``lead`` above the best: distillation.
    """

    index: str | None = None
    negatives: int = 50
    lead: float = 0.1
    scale: float = 1.0
    share: float = 1.0
    sampling: Sampling = "spread"

    def rows(self) -> list[Row]:
        """One row per docstring with a summary."""
        from ..rerank.pydocs import documents, training_pairs

        collection = documents()
        pairs = [(place, *pair) for place, item in enumerate(collection) for pair in training_pairs([item])]
        names = [item.docid for item in collection]
        texts = [f"{item.title} {item.text}" for item in collection]
        near = self._near if self.index is None else self._nearest
        found = []
        for (own, summary, body), (others, labels) in zip(pairs, near(pairs, names), strict=True):
            docids = (names[own], *(names[i] for i in others))
            values = np.array([labels.max(initial=0.0) + self.lead if self.index else 1.0, *labels], np.float32)
            found.append(Row(docids[0], summary, docids, values, [body, *(texts[i] for i in others)]))
        return found

    def _near(self, pairs: list[tuple[int, str, str]], names: list[str]) -> Iterator[Negatives]:
        rng = np.random.default_rng(len(names))
        for own, _, _ in pairs:
            near = np.arange(own - self.negatives // 4, own + self.negatives // 4 + 1) % len(names)
            far = rng.integers(len(names), size=self.negatives - self.negatives // 2)
            others = np.setdiff1d(np.concatenate([near, far]), [own])
            yield others, np.zeros(len(others), np.float32)

    def _nearest(self, pairs: list[tuple[int, str, str]], names: list[str]) -> Iterator[Negatives]:
        from ..rerank.biencoder import BiEncoder
        from ..rerank.search import Index, read_manifest

        folder = Path(str(self.index))
        encoder = BiEncoder(str(read_manifest(folder)["encoder"]["model"]))
        index = Index.open(folder, encoder=encoder.identity)
        vectors = encoder.queries([summary for _, summary, _ in pairs])
        places, scores = index.search(vectors, self.negatives + 1)
        here = {docid: place for place, docid in enumerate(names)}
        for (own, _, _), row, values in zip(pairs, places, scores, strict=True):
            docids = [index.ids[int(place)] for place in row if place >= 0]
            if unknown_ids := [docid for docid in docids if docid not in here]:
                raise InputError(f"{folder}: {unknown_ids[0]!r} is not in pydocs: index this collection")
            others = np.array([here[docid] for docid in docids])
            kept = others != own
            yield others[kept], values[: len(others)][kept].astype(np.float32)


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
