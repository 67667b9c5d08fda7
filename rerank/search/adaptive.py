"""Searching by a cross-encoder itself, on a budget of calls: its scores are predicted from a few of them.

N. Yadav, N. Monath, R. Angell, M. Zaheer, A. McCallum: Efficient Nearest Neighbor Search for Cross-Encoder Models
using Matrix Factorization (ANNCUR). EMNLP 2022, arXiv 2210.12579. N. Yadav, N. Monath, M. Zaheer, R. Fergus, A.
McCallum: Adaptive Retrieval and Scalable Indexing for k-NN Search with Cross-Encoders (AXN). ICLR 2024, arXiv
2405.03651.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from ..data.datasets import Dataset
from ..data.documents import Texts
from ..data.records import read_queries
from ..errors import InputError
from ..registry import Registry
from ..vocabulary import Candidates, Scorer

if TYPE_CHECKING:
    pass

adaptive = Registry("adaptive search", "sparring.rerank.search.adaptive")

Positions = NDArray[np.int64]
Scores = NDArray[np.float64]
Found = tuple[Positions, Scores]
"""Positions of items (q, depth), -1 where there are no more, and their scores, best first."""


class Relevance(Protocol):
    """A cross-encoder: its scores (q, m) of items (q, m), given as positions, for each of q queries."""

    def __call__(self, queries: Sequence[str], items: Positions) -> Scores: ...


@dataclass(frozen=True, slots=True, eq=False)
class Task:
    """What is searched: queries with their vectors (q, d), item vectors (n, d), and who says what is relevant.

    Similarity is the inner product.
    """

    queries: Sequence[str]
    vectors: NDArray[np.float32]
    items: NDArray[np.float32]
    relevance: Relevance
    device: str = "cpu"


class AdaptiveSearch(Protocol):
    """Finds the items that the cross-encoder scores highest, with at most ``calls`` of it per query."""

    @property
    def calls(self) -> int: ...

    def search(self, task: Task, depth: int, rng: np.random.Generator) -> Found:
        """Scored items by their scores, then the others by the predicted ones, shifted below."""
        ...


@adaptive.register("axn")
@dataclass(frozen=True)
class AdaptiveRegression:
    """Rounds of: regress the scores seen so far on the items' vectors, retrieve by the result, score what is new.

    The first round retrieves by the query's own vector q, later ones by e = a q + δ: a is the least-squares slope
    of scores on similarities, δ the ridge regression (VᵀV + ridge I)⁻¹ Vᵀ r of what that leaves, both centred.
    """

    calls: int = 100
    rounds: int = 5
    ridge: float = 1.0

    def __post_init__(self) -> None:
        if not 1 <= self.rounds <= self.calls:
            raise ValueError(f"{self.calls} calls cannot be spent in {self.rounds} rounds")
        if self.ridge <= 0:
            raise ValueError(f"ridge must be above 0, not {self.ridge}")

    def search(self, task: Task, depth: int, rng: np.random.Generator) -> Found:
        count = len(task.queries)
        seen, said = np.empty((count, 0), np.int64), np.empty((count, 0))
        directions = task.vectors
        ends = np.linspace(0, min(self.calls, len(task.items)), self.rounds + 1).round()
        for size in np.diff(np.unique(ends)):  # a round of few items may have none
            new, _ = _unseen(task, directions, seen, int(size))
            seen = np.concatenate([seen, new], axis=1)
            said = np.concatenate([said, _known(task.relevance(task.queries, new))], axis=1)
            rows = zip(task.vectors, seen, said, strict=True)
            directions = np.array([self._direction(q, task.items[own], scores) for q, own, scores in rows])
        rest = _unseen(task, directions, seen, max(0, min(depth, len(task.items)) - seen.shape[1]))
        return _ranked((seen, said), rest, depth)

    def _direction(
        self, query: NDArray[np.float32], items: NDArray[np.float32], scores: Scores
    ) -> NDArray[np.float32]:
        x = items.astype(np.float64) - items.mean(axis=0, dtype=np.float64)
        y = scores - scores.mean()
        like = x @ query
        spread = float(like @ like)
        slope = max(0.0, float(like @ y) / spread) if spread > 1e-12 else 0.0
        # fewer items than dimensions: the dual form solves the smaller system
        weights = np.linalg.solve(x @ x.T + self.ridge * np.eye(len(x)), y - slope * like)
        found: NDArray[np.float32] = (slope * query + x.T @ weights).astype(np.float32)
        return found


@adaptive.register("anncur")
@dataclass(frozen=True)
class AnchorFactorisation:
    """CUR decomposition of the matrix of scores: an item is what anchor queries say of it.

    Once: R = scores of all items for the anchor ``queries`` (a file of topics), (k, n); ``items`` anchor items are
    drawn; U = R[:, anchors]⁺. For each query: the scores of the anchor items e, (items,), predict those of all
    items, e U R; the remaining calls go to the highest of them. Exact where the matrix has a rank of at most
    ``items`` and the anchors span it. Keep ``items`` well below the number of anchor queries, or use a ``ridge``
    (0 is the pseudo-inverse), or R's noise is inverted. Building R costs k n calls, which a --ledger keeps.
    """

    queries: str
    items: int = 50
    calls: int = 100
    ridge: float = 0.0

    def __post_init__(self) -> None:
        if not 1 <= self.items <= self.calls:
            raise ValueError(f"{self.items} anchor items do not fit into {self.calls} calls")
        if self.ridge < 0:
            raise ValueError(f"ridge must not be negative, not {self.ridge}")

    def search(self, task: Task, depth: int, rng: np.random.Generator) -> Found:
        size = len(task.items)
        texts = list(read_queries(Path(self.queries)).values())
        if self.items > size:
            raise InputError(f"{self.items} anchor items are wanted, but the collection has {size} documents")
        everything = np.broadcast_to(np.arange(size), (len(texts), size))
        matrix = _known(task.relevance(texts, everything))
        anchors = np.sort(rng.choice(size, self.items, replace=False))
        rows = np.broadcast_to(anchors, (len(task.queries), self.items))
        said = _known(task.relevance(task.queries, rows))
        predicted = said @ self._inverse(matrix[:, anchors]) @ matrix
        predicted[:, anchors] = -np.inf
        order = np.argsort(-predicted, axis=1, kind="stable")[:, : size - self.items]
        extra = order[:, : self.calls - self.items]
        seen = (
            np.concatenate([rows, extra], axis=1),
            np.concatenate([said, _known(task.relevance(task.queries, extra))], axis=1),
        )
        rest = order[:, self.calls - self.items :]
        return _ranked(seen, (rest, np.take_along_axis(predicted, rest, 1)), depth)

    def _inverse(self, anchored: Scores) -> Scores:
        """R[:, anchors]⁺, (items, k): the pseudo-inverse, or (AᵀA + ridge I)⁻¹ Aᵀ."""
        if self.ridge == 0:
            return np.asarray(np.linalg.pinv(anchored), np.float64)
        system = anchored.T @ anchored + self.ridge * np.eye(anchored.shape[1])
        return np.asarray(np.linalg.solve(system, anchored.T), np.float64)


def _unseen(task: Task, directions: NDArray[np.float32], seen: Positions, size: int) -> Found:
    """The ``size`` items of every query with the highest inner product that it has not seen, (q, size) each."""
    from .exact import exact_search

    if size == 0:
        return np.empty((len(seen), 0), np.int64), np.empty((len(seen), 0))
    found, scores = exact_search(
        np.ascontiguousarray(directions, np.float32),
        task.items,
        min(len(task.items), size + seen.shape[1]),
        "dot",
        device=task.device,
    )
    rows = zip(found, seen, strict=True)
    fresh = np.array([np.flatnonzero(~np.isin(near, own))[:size] for near, own in rows])
    return np.take_along_axis(found, fresh, 1), np.take_along_axis(scores, fresh, 1).astype(np.float64)


def _known(scores: Scores) -> Scores:
    """Scores with the lowest of each query where the cross-encoder had none (NaN)."""
    lost = np.isnan(scores)
    if not lost.any():
        return scores
    lowest = np.where(lost, np.inf, scores).min(axis=1, keepdims=True)
    return np.where(lost, np.where(np.isfinite(lowest), lowest, 0.0), scores)


def _ranked(seen: Found, rest: Found, depth: int) -> Found:
    """What was scored, best first, then the rest in its order, its scores shifted below the last scored one."""
    order = np.argsort(-seen[1], axis=1, kind="stable")
    positions, scores = np.take_along_axis(seen[0], order, 1), np.take_along_axis(seen[1], order, 1)
    if rest[0].shape[1]:
        below = rest[1] - rest[1][:, :1] + scores[:, -1:] - 1.0
        positions, scores = np.concatenate([positions, rest[0]], 1), np.concatenate([scores, below], 1)
    return positions[:, :depth], scores[:, :depth]


TOGETHER = 1 << 16
"""So many pairs are put to the cross-encoder in one call, so that its outcomes reach the ledger."""


@dataclass(frozen=True, slots=True)
class Scored:
    """A pointwise scorer as the `sparring.rerank.search.adaptive.Relevance` of documents by position."""

    scorer: Scorer
    dataset: Dataset
    ids: Sequence[str]

    def __call__(self, queries: Sequence[str], items: Positions) -> Scores:
        scores = np.empty(items.shape)
        together = max(1, TOGETHER // max(1, items.shape[1]))
        for start in range(0, len(queries), together):
            topics = []
            for query, row in zip(queries[start : start + together], items[start : start + together], strict=True):
                docids = tuple(self.ids[place] for place in row.tolist())
                texts = Texts(self.dataset.documents, docids)
                topics.append(Candidates(query, query, docids, texts, np.zeros(len(docids))))
            groups = [np.arange(items.shape[1], dtype=np.int32)[:, None]] * len(topics)
            for place, said in enumerate(self.scorer(topics, groups), start=start):
                scores[place] = said[:, 0]
        return scores
