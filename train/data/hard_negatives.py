"""Hard negatives: candidates of judged queries from a search or a run, and which of them to take."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from ...eval.measures.qrels import read_qrels
from ...rerank.console import log
from ...rerank.data.datasets import Dataset
from ...rerank.data.documents import Texts
from ...rerank.data.runs import Run
from ...rerank.errors import InputError
from ...rerank.vocabulary import Candidates, Scorer

if TYPE_CHECKING:
    from ...rerank.search.bi_encoder import BiEncoder

TOGETHER = 64
"""So many queries are put to the cross-encoder in one call."""


@dataclass(frozen=True, slots=True)
class Choice:
    """How negatives are chosen from candidates that are no positives, best first.

    A candidate stays if its score is at most ``max_score``, at least ``min_score``, and at most
    p - absolute_margin and p - relative_margin |p|, where p is the lowest score of the query's positives (as in
    sentence-transformers).

    Args:
        count: negatives per query.
        first, last: rank window among the candidates, from 1.
        sampling: the best of what stays, or a random draw of it.
    """

    count: int = 8
    first: int = 1
    last: int = 100
    max_score: float | None = None
    min_score: float | None = None
    absolute_margin: float | None = None
    relative_margin: float | None = None
    sampling: Literal["top", "random"] = "top"

    def __post_init__(self) -> None:
        if self.count < 1:
            raise ValueError(f"at least one negative per query is needed, not {self.count}")
        if not 1 <= self.first <= self.last:
            raise ValueError(f"the rank window {self.first}..{self.last} is empty")
        if self.min_score is not None and self.max_score is not None and self.min_score > self.max_score:
            raise ValueError(f"no score is at least {self.min_score} and at most {self.max_score}")

    @property
    def by_margin(self) -> bool:
        """Whether the positives' scores are needed."""
        return self.absolute_margin is not None or self.relative_margin is not None

    @property
    def by_score(self) -> bool:
        """Whether scores are needed at all."""
        return self.by_margin or self.max_score is not None or self.min_score is not None

    def __call__(
        self,
        scores: NDArray[np.float64],
        positives: NDArray[np.float64],
        rng: np.random.Generator,
        removed: Counter[str] | None = None,
    ) -> NDArray[np.int64]:
        """Positions of the chosen candidates, best score first.

        Args:
            scores: of the candidates inside the window, (n,); NaN is never chosen.
            positives: scores of the query's positives, (p,).
            removed: counts what each condition took away.
        """
        keep = ~np.isnan(scores)
        for name, bound, holds in self._conditions(scores, positives):
            if bound is not None:
                if removed is not None:
                    removed[name] += int((keep & ~holds).sum())
                keep &= holds
        found = np.flatnonzero(keep)
        if self.sampling == "random":
            found = rng.permutation(found)[: self.count]
        return found[np.argsort(-scores[found], kind="stable")][: self.count]

    def _conditions(
        self, scores: NDArray[np.float64], positives: NDArray[np.float64]
    ) -> list[tuple[str, float | None, NDArray[np.bool_]]]:
        lowest = float(np.nanmin(positives)) if self.by_margin else 0.0
        return [
            ("max_score", self.max_score, scores <= (self.max_score or 0.0)),
            ("min_score", self.min_score, scores >= (self.min_score or 0.0)),
            ("absolute_margin", self.absolute_margin, scores + (self.absolute_margin or 0.0) <= lowest),
            (
                "relative_margin",
                self.relative_margin,
                scores <= lowest - abs(lowest) * (self.relative_margin or 0.0),
            ),
        ]


@dataclass(frozen=True, slots=True)
class Query:
    """A judged query: positives with their grades, candidates of the window; scores are NaN where unknown."""

    qid: str
    text: str
    positives: tuple[str, ...]
    grades: tuple[int, ...]
    candidates: tuple[str, ...]
    scores: NDArray[np.float64]
    positive_scores: NDArray[np.float64]


def judged_queries(path: Path, dataset: Dataset, least: int) -> list[Query]:
    """The queries that have a positive (grade ``least`` or more) in the collection; InputError if none has."""
    judged = read_qrels(path).grades
    found, absent = [], 0
    for qid, grades in judged.items():
        names = [docid for docid, grade in grades.items() if grade >= least]
        missing = dataset.documents.missing(names)
        absent += len(missing)
        positives = tuple(name for name in names if name not in missing)
        if positives and qid in dataset.queries:
            values = tuple(grades[name] for name in positives)
            nothing = np.empty(0), np.full(len(positives), np.nan)
            found.append(Query(qid, dataset.queries[qid], positives, values, (), *nothing))
    if not found:
        raise InputError(
            f"{path}: none of {len(judged)} topics has a document of grade {least} or more in "
            f"{dataset.name}: check --dataset, or lower --positive"
        )
    if absent:
        log.warning("%s: %d positives are not in the collection: left out", path, absent)
    return found


def _window(choice: Choice, query: Query, docids: Sequence[str], scores: NDArray[np.float64]) -> Query:
    positives = set(query.positives)
    places = [i for i, docid in enumerate(docids) if docid not in positives][choice.first - 1 : choice.last]
    return replace(query, candidates=tuple(docids[i] for i in places), scores=scores[places])


def from_run(queries: Sequence[Query], run: Run, choice: Choice) -> list[Query]:
    """The window of a run as candidates; queries that it does not have are left out."""
    return [_window(choice, query, *run[query.qid]) for query in queries if query.qid in run]


def searched(
    queries: Sequence[Query], dataset: Dataset, choice: Choice, encoder: BiEncoder, folder: Path | None
) -> list[Query]:
    """The window of a search in an index, or in the collection, encoded now; with the positives' similarities."""
    from ...rerank.search.build_index import encode_collection
    from ...rerank.search.exact import exact_search
    from ...rerank.search.index import Index

    similarity, deepest = encoder.identity.similarity, choice.last + max(len(q.positives) for q in queries)
    vectors = encoder.queries([query.text for query in queries])
    ids: Sequence[str]
    if folder is not None:
        index = Index.open(folder, encoder=encoder.identity, collection_hash=dataset.collection_hash)
        ids, (places, scores) = index.ids, index.search(vectors, min(deepest, len(index)), device=encoder.device)
    else:
        ids, collection = encode_collection(encoder, dataset.documents)
        places, scores = exact_search(
            vectors, collection, min(deepest, len(ids)), similarity, device=encoder.device
        )
    known = list(dict.fromkeys(docid for query in queries for docid in query.positives))
    row = {docid: place for place, docid in enumerate(known)}
    own = encoder.documents(dataset.documents.get_many(known))
    found = []
    for query, vector, near, values in zip(queries, vectors, places, scores, strict=True):
        there = near >= 0
        docids = [ids[int(place)] for place in near[there]]
        mine = own[[row[docid] for docid in query.positives]]
        like = -np.linalg.norm(mine - vector, axis=1) if similarity == "euclidean" else mine @ vector
        query = _window(choice, query, docids, values[there].astype(np.float64))
        found.append(replace(query, positive_scores=like.astype(np.float64)))
    return found


def without_copies(query: Query, dataset: Dataset) -> Query:
    """Leaves out candidates that have a positive's text under another id, or no text in the collection."""
    missing = dataset.documents.missing(query.candidates)
    here = [i for i, docid in enumerate(query.candidates) if docid not in missing]
    texts = dataset.documents.get_many([query.candidates[i] for i in here])
    same = {_plain(text) for text in dataset.documents.get_many(query.positives)}
    places = [i for i, text in zip(here, texts, strict=True) if _plain(text) not in same]
    return replace(query, candidates=tuple(query.candidates[i] for i in places), scores=query.scores[places])


def _plain(text: str) -> str:
    return " ".join(text.lower().split())


def rescored(queries: Sequence[Query], dataset: Dataset, scorer: Scorer) -> Iterator[Query]:
    """The same queries with a pointwise scorer's scores; what it cannot score (NaN) is not a positive any more."""
    for start in range(0, len(queries), TOGETHER):
        part = queries[start : start + TOGETHER]
        topics = []
        for query in part:
            docids = query.positives + query.candidates
            texts = Texts(dataset.documents, docids)
            topics.append(Candidates(query.qid, query.text, docids, texts, np.zeros(len(docids))))
        groups = [np.arange(len(topic), dtype=np.int32)[:, None] for topic in topics]
        for query, said in zip(part, scorer(topics, groups), strict=True):
            own, others = np.split(said[:, 0], [len(query.positives)])
            known = np.flatnonzero(~np.isnan(own))
            if len(known):
                query = replace(
                    query,
                    positives=tuple(query.positives[i] for i in known),
                    grades=tuple(query.grades[i] for i in known),
                )
                yield replace(query, positive_scores=own[known], scores=others)
