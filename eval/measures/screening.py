"""Measures of screening for systematic reviews, where every relevant document must be found (total recall).

``N`` is the number of documents ranked for a topic and ``R`` the number judged relevant (grade at least ``rel``),
ranked or not. Never cut the candidates of such a run: what is not ranked counts as not found. A topic without
ranked or without relevant documents has the value 0. Definitions follow the CLEF technology-assisted-review
evaluation (Kanoulas et al. 2017 to 2019) and Wang et al. (ADCS 2022).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from .own import own_measures


def _hits(grades: NDArray[np.int64], rel: int) -> NDArray[np.int64]:
    """Relevant documents within the first 1, 2, ..., N ranks, (N,)."""
    return np.cumsum(grades >= rel)


def _rank_of(hits: NDArray[np.int64], wanted: int) -> int | None:
    """The rank at which ``wanted`` relevant documents have been seen; None if never."""
    rank = int(np.searchsorted(hits, wanted)) + 1
    return rank if rank <= len(hits) else None


@own_measures.register("WSS")
@dataclass(frozen=True)
class WorkSaved:
    """Work saved over sampling at a recall of ``at`` percent: (N - r) / N - (1 - level), r the rank reaching it.

    Written WSS@95. The level is reached with round(level * R) relevant documents; 0 if it never is.
    WSS@100 is (N - last_rel) / N. Reference: Cohen et al. (JAMIA 2006).
    """

    at: float = 95
    rel: int = 1
    lower_is_better: ClassVar[bool] = False

    def __post_init__(self) -> None:
        _check_percent(self.at)

    def __call__(self, grades: NDArray[np.int64], relevant: int) -> float:
        if not len(grades) or not relevant:
            return 0.0
        rank = _rank_of(_hits(grades, self.rel), max(1, round(relevant * self.at / 100)))
        return 0.0 if rank is None else (len(grades) - rank) / len(grades) - (1 - self.at / 100)


@own_measures.register("last_rel")
@dataclass(frozen=True)
class LastRelevant:
    """Rank of the last relevant document that is ranked, lower is better; ``share=True`` divides it by N."""

    rel: int = 1
    share: bool = False
    lower_is_better: ClassVar[bool] = True

    def __call__(self, grades: NDArray[np.int64], relevant: int) -> float:
        found = np.flatnonzero(grades >= self.rel)
        if not len(found):
            return 0.0
        return (int(found[-1]) + 1) / (len(grades) if self.share else 1)


@own_measures.register("recall_percent")
@dataclass(frozen=True)
class RecallAtPercent:
    """Recall after the first k percent of the ranking, at rank round(N * k / 100); written recall_percent@k."""

    at: float = 10
    rel: int = 1
    lower_is_better: ClassVar[bool] = False

    def __post_init__(self) -> None:
        _check_percent(self.at)

    def __call__(self, grades: NDArray[np.int64], relevant: int) -> float:
        rank = round(len(grades) * self.at / 100)
        return float(_hits(grades, self.rel)[rank - 1]) / relevant if relevant and rank else 0.0


@own_measures.register("norm_area")
@dataclass(frozen=True)
class NormalisedArea:
    """Area under the curve of recall against effort, as a share of the best possible area R N - R^2 / 2."""

    rel: int = 1
    lower_is_better: ClassVar[bool] = False

    def __call__(self, grades: NDArray[np.int64], relevant: int) -> float:
        if not len(grades) or not relevant:
            return 0.0
        gains = (grades >= self.rel).astype(np.float64)
        # trapezoids: what was found before, and half of this one
        area = float((np.cumsum(gains) - gains / 2).sum())
        best = relevant * len(grades) - relevant**2 / 2
        return area / best if best > 0 else 0.0


def _check_percent(value: float) -> None:
    if not (0 < value <= 100 and math.isfinite(value)):
        raise ValueError(f"the level behind @ is a percentage above 0 and up to 100, found {value:g}")
