"""Selections from brackets: group champions (Mohajer et al., 2017) and knock-out (Pairwise RM, Varco Arena)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from .. import registry
from .asking import Rounds, Task, better, duels, head_first, require, together
from .sorts import build_heap, sift_down

register = registry.schedules.register
Order = NDArray[np.int32]
Slots = list[int | None]


@register("group_champions")
@dataclass(frozen=True)
class GroupChampions:
    """The champions of k groups in a heap; whoever is taken from it is replaced by the next of that group.

    Groups are striped over the first-stage order. About n + 2k log2 n comparisons; returns the top k, then
    everyone else in first-stage order.
    """

    k: int = 10
    width: ClassVar[int | None] = 2
    oriented: ClassVar[bool] = False

    def __post_init__(self) -> None:
        require(self.k >= 1, "k must be at least 1")

    def rounds(self, prior: NDArray[np.float64], rng: np.random.Generator) -> Rounds[Order]:
        n = len(prior)
        return head_first((yield from duels(_champions(n, self.k))), n)


@register("knockout")
@dataclass(frozen=True)
class Knockout:
    """Random single-elimination brackets: n-1 comparisons in log2 n rounds for a champion.

    The runner-up is found by playing the champion's matches again without him, about log2 n more comparisons
    for each further place. Several brackets are played side by side and ranked by the aggregator; of one, the
    places found come first, then everyone else by matches won and first-stage order.

    Args:
        brackets: how many brackets.
        k: places to find in each.
    """

    brackets: int = 1
    k: int = 1
    width: ClassVar[int | None] = 2
    oriented: ClassVar[bool] = False

    def __post_init__(self) -> None:
        require(self.brackets >= 1 and self.k >= 1, "brackets and k must be at least 1")

    def rounds(self, prior: NDArray[np.float64], rng: np.random.Generator) -> Rounds[Order | None]:
        n = len(prior)
        draws = [[int(item) for item in rng.permutation(n)] for _ in range(self.brackets)]
        heads = yield from duels(together(_places(list(draw), self.k) for draw in draws))
        return head_first(heads[0], n) if self.brackets == 1 else None

    def at_budget(self, calls: int, n: int) -> Knockout:
        """As many brackets as ``calls`` pay for among ``n`` candidates, at least one."""
        depth = max(n - 1, 1).bit_length()
        return replace(self, brackets=max(1, calls // max(1, n - 1 + (min(self.k, n) - 1) * depth)))


def winner(slots: Slots) -> Task[int | None]:
    """Plays a bracket level by level; an empty slot loses without a match."""
    while len(slots) > 1:
        matches = [(a, b) for a, b in zip(slots[::2], slots[1::2], strict=False)]
        played = [(a, b) for a, b in matches if a is not None and b is not None]
        said = iter((yield played))
        following: Slots = []
        for a, b in matches:
            if a is None or b is None:
                following.append(b if a is None else a)
            else:
                following.append(a if better(a, b, next(said)) else b)
        slots = following + (slots[-1:] if len(slots) % 2 else [])
    return slots[0] if slots else None


def _places(slots: Slots, k: int) -> Task[list[int]]:
    """The best ``k`` of a bracket: after each champion only matches on his path are new."""
    found: list[int] = []
    while len(found) < k and (champion := (yield from winner(slots))) is not None:
        found.append(champion)
        slots[slots.index(champion)] = None
    return found


def _champions(n: int, k: int) -> Task[list[int]]:
    groups: list[Slots] = [list(range(start, n, k)) for start in range(min(k, n))]
    first = yield from together(winner(group) for group in groups)
    heap = [champion for champion in first if champion is not None]
    yield from build_heap(heap)
    top: list[int] = []
    while heap:
        top.append(heap[0])
        if len(top) == k:
            break
        group = groups[heap[0] % k]
        group[group.index(heap[0])] = None
        successor = yield from winner(group)
        last = heap.pop() if successor is None else successor
        if heap:
            heap[0] = last
            yield from sift_down(heap, 0)
    return top
