"""Fusion of several rankings of the same candidates: interpolated scores, Borda counts and reciprocal ranks."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def scaled(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Scores of one topic scaled to 0..1 (min-max), ready to be interpolated; all 0.5 where they are equal.

    Where some are infinite the order alone counts; NaN (not scored) stays NaN.
    """
    known = ~np.isnan(scores)
    values = scores[known]
    if np.isinf(values).any():
        values = np.searchsorted(np.sort(values), values).astype(np.float64)
    halves = values / 2  # so that no difference overflows
    low, high = halves.min(initial=np.inf), halves.max(initial=-np.inf)
    found = np.full(len(scores), np.nan)
    found[known] = (halves - low) / (high - low) if high > low else 0.5
    return found


def borda(ranks: NDArray[np.float64], weights: Sequence[float] | None = None) -> NDArray[np.float64]:
    """Borda counts: the sum over rankings of m - rank + 1, m being the number of candidates.

    A candidate that a ranking leaves out shares the points of the places it leaves free: the mean of them.

    Args:
        ranks: rank of every candidate in every ranking from 1, equal for ties (mid-ranks keep the sum),
            NaN where a ranking leaves it out, (rankings, candidates).
        weights: of the rankings; 1 each where absent.

    Returns:
        One score per candidate, higher is better, (candidates,).

    Source: de Borda 1781; Aslam and Montague, SIGIR 2001; used for rerankers in LLM-RankFusion, arXiv 2406.00231.
    """
    ranks = _checked(ranks)
    total = ranks.shape[1]
    points = total - ranks + 1
    listed = (~np.isnan(ranks)).sum(axis=1, keepdims=True)
    points = np.where(np.isnan(points), (total - listed + 1) / 2, points)
    return np.asarray(_weights(weights, len(ranks)) @ points)


def rrf(
    ranks: NDArray[np.float64], weights: Sequence[float] | None = None, k: float = 60.0
) -> NDArray[np.float64]:
    """Reciprocal rank fusion: the sum over rankings of 1 / (k + rank); a candidate left out adds nothing.

    Args:
        ranks: rank of every candidate in every ranking from 1, NaN where a ranking leaves it out,
            (rankings, candidates).
        weights: of the rankings; 1 each where absent.
        k: damps the difference between the first places.

    Returns:
        One score per candidate, higher is better, (candidates,).

    Source: Cormack, Clarke, Buettcher, SIGIR 2009.
    """
    if not k > -1:
        raise ValueError(f"k must be greater than -1, found {k}")
    ranks = _checked(ranks)
    return np.asarray(_weights(weights, len(ranks)) @ np.nan_to_num(1 / (k + ranks), nan=0.0))


def fuse(
    rankings: Sequence[Sequence[str]],
    method: str = "rrf",
    weights: Sequence[float] | None = None,
    k: float = 60.0,
) -> list[tuple[str, float]]:
    """Fuses rankings of documents, best first, into one list of (docid, score), best first.

    Equal scores are ordered by the first ranking that lists them, so the first is the one to trust most.

    Args:
        rankings: docids best first; a ranking may leave documents out, but not list one twice.
        method: "rrf" or "borda".

    Raises:
        ValueError: an unknown method, a document listed twice, or weights that do not fit or are not finite.
    """
    if method not in ("rrf", "borda"):
        raise ValueError(f"unknown fusion {method!r}; known: borda, rrf")
    docids = list(dict.fromkeys(docid for ranking in rankings for docid in ranking))
    column = {docid: index for index, docid in enumerate(docids)}
    ranks = np.full((len(rankings), len(docids)), np.nan)
    for row, ranking in enumerate(rankings):
        if len(set(ranking)) != len(ranking):
            raise ValueError(f"ranking {row + 1} lists a document twice")
        ranks[row, [column[docid] for docid in ranking]] = np.arange(1, len(ranking) + 1)
    scores = rrf(ranks, weights, k) if method == "rrf" else borda(ranks, weights)
    order = np.argsort(-np.round(scores, 12), kind="stable")
    return [(docids[index], float(scores[index])) for index in order]


def _checked(ranks: NDArray[np.float64]) -> NDArray[np.float64]:
    ranks = np.atleast_2d(np.asarray(ranks, np.float64))
    if (ranks < 1).any():
        raise ValueError("ranks start at 1; a candidate that is left out has rank NaN")
    return ranks


def _weights(weights: Sequence[float] | None, count: int) -> NDArray[np.float64]:
    if weights is None:
        return np.ones(count)
    if len(weights) != count:
        raise ValueError(f"{len(weights)} weights for {count} rankings")
    found = np.asarray(weights, np.float64)
    if not np.isfinite(found).all():
        raise ValueError(f"weights must be finite numbers, found {', '.join(map(str, weights))}")
    return found
