"""Merge sort with an uncertainty-gated beam (PairS, Liu et al., COLM 2024)."""

from __future__ import annotations

import heapq
from dataclasses import dataclass
from math import log
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from .. import registry
from .asking import Rounds, Task, better, duels, require, together

Path = tuple[float, int, tuple[int, ...]]
"""A way to merge: summed log-probability, taken from the left run, and the merged head."""


@registry.schedules.register("mergesort")
@dataclass(frozen=True)
class Mergesort:
    """Sorts everything; all merges of one level run side by side. Returns the order.

    With ``beam=1`` at most n ceil(log2 n) - 2^ceil(log2 n) + 1 comparisons. A wider beam keeps several ways
    to merge wherever the model is unsure, and takes the one whose decisions were likeliest.

    Args:
        beam: how many ways to merge are kept; 1 is plain merge sort.
        gate: how far from 0.5 a probability must be to settle a step.
        anchors: sort only so many of the best-placed candidates and insert the others by binary search.
    """

    beam: int = 1
    gate: float = 0.1
    anchors: int | None = None
    width: ClassVar[int | None] = 2
    oriented: ClassVar[bool] = False

    def __post_init__(self) -> None:
        require(self.beam >= 1, "beam must be at least 1")
        require(0 <= self.gate <= 0.5, "gate must lie between 0 and 0.5")
        require(self.anchors is None or self.anchors >= 1, "anchors must be at least 1")

    def rounds(self, prior: NDArray[np.float64], rng: np.random.Generator) -> Rounds[NDArray[np.int32]]:
        order = yield from duels(self._order(list(range(len(prior)))))
        return np.array(order, np.int32)

    def _order(self, items: list[int]) -> Task[list[int]]:
        anchors = yield from self._sort(items[: self.anchors])
        others = items[len(anchors) :]
        places = yield from together(_place(item, anchors) for item in others)
        # who falls between the same two anchors stays in first-stage order
        return [
            item
            for place in range(len(anchors) + 1)
            for item in (
                *(other for other, at in zip(others, places, strict=True) if at == place),
                *anchors[place : place + 1],
            )
        ]

    def _sort(self, items: list[int]) -> Task[list[int]]:
        if len(items) < 2:
            return items
        middle = (len(items) + 1) // 2
        left, right = yield from together([self._sort(items[:middle]), self._sort(items[middle:])])
        return (yield from self._merge(left, right))

    def _merge(self, left: list[int], right: list[int]) -> Task[list[int]]:
        """Beam search over merges; paths that took the same items compete, since their futures are the same."""
        beam: list[Path] = [(0.0, 0, ())]
        for step in range(len(left) + len(right)):
            open_heads = [
                (left[i], right[step - i]) for _, i, _ in beam if i < len(left) and step - i < len(right)
            ]
            if not open_heads:  # no step is left to decide; what remains is appended
                break
            known = dict(zip(open_heads, (yield open_heads), strict=True))
            best: dict[int, Path] = {}
            for score, i, path in beam:
                for chosen, p in self._choices(left, right, i, step - i, known):
                    took = i + (chosen is left)
                    item = left[i] if chosen is left else right[step - i]
                    if took not in best or score + log(p) > best[took][0]:
                        best[took] = (score + log(p), took, (*path, item))
            # every decision so far is one step, so comparing sums is comparing means
            beam = heapq.nlargest(self.beam, best.values(), key=lambda path: path[0])
        _, taken, merged = beam[0]
        return [*merged, *left[taken:], *right[len(merged) - taken :]]

    def _choices(
        self, left: list[int], right: list[int], i: int, j: int, known: dict[tuple[int, int], float]
    ) -> list[tuple[list[int], float]]:
        """From which run the next item may come, with the probability of that decision, likeliest first."""
        if i == len(left):
            return [(right, 1.0)]
        if j == len(right):
            return [(left, 1.0)]
        p = known[left[i], right[j]]
        choices = [(left, max(p, 1e-12)), (right, max(1 - p, 1e-12))]
        if not better(left[i], right[j], p):
            choices.reverse()
        return choices[:1] if self.beam == 1 or abs(p - 0.5) > self.gate else choices


def _place(item: int, anchors: list[int]) -> Task[int]:
    """How many of the sorted ``anchors`` beat ``item``."""
    low, high = 0, len(anchors)
    while low < high:
        middle = (low + high) // 2
        (p,) = yield [(item, anchors[middle])]
        low, high = (low, middle) if better(item, anchors[middle], p) else (middle + 1, high)
    return low
