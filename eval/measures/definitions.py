"""Measures by their definition, where the program that ir-measures hands them to fails on some topics or grades.

All take the documents of one topic in rank order, and its grades by document (0 where it is not judged).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

GDEVAL_HIGHEST = 4
"""The highest grade of gdeval's scale, whatever the qrels hold."""


def expected_reciprocal_rank(
    docids: Sequence[str], grades: Mapping[str, int], cutoff: int | None, highest: int
) -> float:
    """ERR: the reader stops at a document with probability (2^grade - 1) / 2^scale.

    The scale ends at grade 4, as in gdeval, or at the ``highest`` grade of the qrels if that is above 4.
    Reference: Chapelle et al. (CIKM 2009).
    """
    stops = _gains(ranked_grades(docids, grades)[:cutoff], max(highest, GDEVAL_HIGHEST))
    reached = np.cumprod(np.concatenate(([1.0], 1 - stops)))[:-1]
    return float((stops * reached / np.arange(1, len(stops) + 1)).sum())


def exponential_ndcg(docids: Sequence[str], grades: Mapping[str, int], cutoff: int | None) -> float:
    """nDCG with gains of 2^grade - 1, 0 where nothing is relevant. Reference: Burges et al. (ICML 2005)."""
    best = np.sort(np.fromiter(grades.values(), np.int64, len(grades)))[::-1][:cutoff]
    top = int(best[0]) if len(best) else 0
    if top < 1:
        return 0.0
    return discounted(_gains(ranked_grades(docids, grades)[:cutoff], top)) / discounted(_gains(best, top))


def accuracy(docids: Sequence[str], grades: Mapping[str, int], cutoff: int | None, rel: int) -> float:
    """Probability that a relevant document is ranked before one that is not, among those ranked.

    0 where no relevant document is ranked; 1 where all that are ranked are relevant, as none stands behind
    another.
    """
    hits = ranked_grades(docids, grades)[:cutoff] >= rel
    others = int((~hits).sum())
    if not hits.any():
        return 0.0
    return 1 - float(np.cumsum(~hits)[hits].mean()) / others if others else 1.0


def ranked_grades(docids: Sequence[str], grades: Mapping[str, int]) -> NDArray[np.int64]:
    """The grade of every document of a ranking, 0 where it is not judged, (N,)."""
    return np.fromiter((grades.get(docid, 0) for docid in docids), np.int64, len(docids))


def _gains(grades: NDArray[np.int64], top: int) -> NDArray[np.float64]:
    """(2^grade - 1) / 2^top, which no grade can make overflow."""
    return np.asarray(np.exp2(np.maximum(grades, 0) - float(top)) - np.exp2(-float(top)), np.float64)


def discounted(gains: NDArray[np.float64]) -> float:
    """Discounted cumulative gain: gains in rank order, divided by log2(rank + 1) and added up."""
    return float((gains / np.log2(np.arange(2, len(gains) + 2))).sum())
