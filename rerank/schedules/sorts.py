"""Comparison sorts for the top k: heapsort, quickselect and bubblesort, batched and memoised."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from .. import registry
from .asking import Rounds, Task, better, duels, head_first, require, together

register = registry.schedules.register
Order = NDArray[np.int32]


@register("heapsort")
@dataclass(frozen=True)
class Heapsort:
    """Builds a heap, level by level, and pops it ``k`` times; popping is one comparison per round (PRP).

    About 2n + 2k log2 n comparisons from a random order, fewer from a good one. Returns the top k, then
    everyone else in first-stage order.
    """

    k: int = 10
    width: ClassVar[int | None] = 2
    oriented: ClassVar[bool] = False

    def __post_init__(self) -> None:
        require(self.k >= 1, "k must be at least 1")

    def rounds(self, prior: NDArray[np.float64], rng: np.random.Generator) -> Rounds[Order]:
        n = len(prior)
        return head_first((yield from duels(_heapsort(list(range(n)), self.k))), n)


@register("quickselect")
@dataclass(frozen=True)
class Quickselect:
    """Partial quicksort: the first pivot is the candidate at first-stage rank k, and only what reaches into the
    top k is sorted on (Wisznia et al., ACL 2025).

    A partition is one round, and so are all partitions of one depth. Returns the top k in order, the rest as
    far as it was partitioned.
    """

    k: int = 10
    width: ClassVar[int | None] = 2
    oriented: ClassVar[bool] = False

    def __post_init__(self) -> None:
        require(self.k >= 1, "k must be at least 1")

    def rounds(self, prior: NDArray[np.float64], rng: np.random.Generator) -> Rounds[Order]:
        order = yield from duels(_quickselect(list(range(len(prior))), self.k))
        return np.array(order, np.int32)


@register("bubblesort")
@dataclass(frozen=True)
class Bubblesort:
    """Passes from the bottom to the top, each bringing up the next best; pairs met again are not asked again.

    A pass starts as soon as the one before is two places ahead, so all passes take n + 2 * passes rounds at
    most. Returns the final order.
    """

    passes: int = 10
    width: ClassVar[int | None] = 2
    oriented: ClassVar[bool] = False

    def __post_init__(self) -> None:
        require(self.passes >= 1, "passes must be at least 1")

    def rounds(self, prior: NDArray[np.float64], rng: np.random.Generator) -> Rounds[Order]:
        order = yield from duels(_bubblesort(list(range(len(prior))), self.passes))
        return np.array(order, np.int32)


def sift_down(heap: list[int], root: int) -> Task[None]:
    """Restores the heap below ``root``; the best is at index 0."""
    while (child := 2 * root + 1) < len(heap):
        if child + 1 < len(heap):
            (p,) = yield [(heap[child], heap[child + 1])]
            child += not better(heap[child], heap[child + 1], p)
        (p,) = yield [(heap[root], heap[child])]
        if better(heap[root], heap[child], p):
            return
        heap[root], heap[child] = heap[child], heap[root]
        root = child


def build_heap(heap: list[int]) -> Task[None]:
    """Makes a heap, all nodes of one level side by side."""
    for level in range(len(heap).bit_length() - 1, -1, -1):
        nodes = range(2**level - 1, min(2 ** (level + 1) - 1, len(heap)))
        yield from together(sift_down(heap, node) for node in nodes)


def _heapsort(heap: list[int], k: int) -> Task[list[int]]:
    yield from build_heap(heap)
    top: list[int] = []
    while heap and len(top) < k:
        top.append(heap[0])
        last = heap.pop()
        if heap and len(top) < k:
            heap[0] = last
            yield from sift_down(heap, 0)
    return top


def _quickselect(items: list[int], k: int) -> Task[list[int]]:
    """``items`` (in first-stage order) with the best ``k`` in front and in order."""
    if len(items) < 2 or k < 1:
        return items
    # below the cut-off the boundary decides, inside the top k balance does
    pivot = items[k - 1] if k < len(items) else items[len(items) // 2]
    others = [item for item in items if item != pivot]
    said = yield [(item, pivot) for item in others]
    wins = [better(item, pivot, p) for item, p in zip(others, said, strict=True)]
    above = [item for item, won in zip(others, wins, strict=True) if won]
    below = [item for item, won in zip(others, wins, strict=True) if not won]
    left, right = yield from together([_quickselect(above, k), _quickselect(below, k - len(above) - 1)])
    return [*left, pivot, *right]


def _bubblesort(order: list[int], passes: int) -> Task[list[int]]:
    n = len(order)
    passes = min(passes, n - 1)
    for step in range(n - 1 + 2 * (passes - 1) if n > 1 else 0):
        # pass p starts at step 2p and stops at place p: its lower neighbour is already final
        tops = [top for p in range(passes) if p <= (top := n - 2 - (step - 2 * p)) <= n - 2]
        said = yield [(order[top], order[top + 1]) for top in tops]
        for top, p in zip(tops, said, strict=True):
            if not better(order[top], order[top + 1], p):
                order[top], order[top + 1] = order[top + 1], order[top]
    return order
