"""Pairs of candidates that stand close together in the first-stage ranking, for distilling a pairwise teacher."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from .. import registry
from .asking import Rounds, once, pairs, require


@registry.schedules.register("neighbours")
@dataclass(frozen=True)
class Neighbours:
    """Random pairs (i, j) with j at most ``delta`` ranks below i: the most confusable ones (PairDistill).

    C.-W. Huang, Y.-N. Chen: PairDistill: Pairwise Relevance Distillation for Dense Retrieval. EMNLP 2024.

    Args:
        delta: the largest distance in first-stage rank.
        count: pairs per topic, drawn without replacement; all there are where they are fewer.
    """

    delta: int = 5
    count: int = 100
    width: ClassVar[int | None] = 2
    oriented: ClassVar[bool] = False

    def __post_init__(self) -> None:
        require(self.delta >= 1 and self.count >= 1, "delta and count must be at least 1")

    def rounds(self, prior: NDArray[np.float64], rng: np.random.Generator) -> Rounds[None]:
        n = len(prior)
        upper = np.repeat(np.arange(n), self.delta)
        lower = upper + np.tile(np.arange(1, self.delta + 1), n)
        near = np.flatnonzero(lower < n)
        chosen = np.sort(rng.permutation(near)[: self.count])
        return once(pairs(upper[chosen], lower[chosen]))

    def at_budget(self, calls: int, n: int) -> Neighbours:
        """The same schedule with at most ``calls`` comparisons (at least one)."""
        return replace(self, count=max(1, calls))
