"""The m-ary tournament sort of ListT5 (Yoon et al., ACL 2024)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from .. import registry
from ..vocabulary import Groups
from .asking import Rounds, head_first, require

Slots = list[int | None]


@registry.schedules.register("tournament")
@dataclass(frozen=True)
class Tournament:
    """Lists of ``m``, of each the best ``r`` go on, until one list decides; then again without the champion.

    Outcomes are remembered by the set of a list, so that each further place costs only the lists on the
    champion's path. All lists of one level are one round. For n=100 and k=10: 52 calls with m=5, r=1; 40 with
    m=10, r=2; 24 with m=20, r=2; about 84 with m=5, r=2, where the paper's stand-ins for champions
    make it 94: here a list that lost its champion is asked shorter. Returns the top k, then everyone else in
    first-stage order.

    Args:
        m: candidates per list.
        r: how many of a list go on.
        k: places to find.
        striped: deal the lists over the first-stage order, so that the favourites do not meet at once.
    """

    m: int = 5
    r: int = 2
    k: int = 10
    striped: bool = True
    width: ClassVar[int | None] = None
    oriented: ClassVar[bool] = True

    def __post_init__(self) -> None:
        require(1 <= self.r < self.m, "r must lie between 1 and m - 1")
        require(self.k >= 1, "k must be at least 1")

    def rounds(self, prior: NDArray[np.float64], rng: np.random.Generator) -> Rounds[NDArray[np.int32]]:
        n = len(prior)
        lists = -(-n // self.m)
        slots: Slots = [*(i for start in range(lists) for i in range(start, n, lists))]
        if not self.striped:
            slots = list(range(n))
        known: dict[frozenset[int], list[int]] = {}
        top: list[int] = []
        while len(top) < min(self.k, n):
            champion = yield from self._champion(slots, known)
            top.append(champion)
            slots[slots.index(champion)] = None
        return head_first(top, n)

    def _champion(self, slots: Slots, known: dict[frozenset[int], list[int]]) -> Rounds[int]:
        while len(slots) > self.m:
            lists = [slots[low : low + self.m] for low in range(0, len(slots), self.m)]
            ranked = yield from _rank(lists, known, self.m)
            # empty places go on as well, so that every survivor keeps meeting the same lists
            slots = [
                place
                for members, best in zip(lists, ranked, strict=True)
                for place in (*best, *[None] * self.r)[: min(self.r, len(members))]
            ]
        (final,) = yield from _rank([slots], known, self.m)
        return final[0]


def _rank(lists: list[Slots], known: dict[frozenset[int], list[int]], m: int) -> Rounds[list[list[int]]]:
    """Every list best first, asking the sets of two and more that were not asked before."""
    members = [sorted({item for item in places if item is not None}) for places in lists]
    new = [items for items in members if len(items) > 1 and frozenset(items) not in known]
    if new:
        groups: Groups = np.full((len(new), m), -1, np.int32)
        for row, items in zip(groups, new, strict=True):
            row[: len(items)] = items
        scores = yield groups
        for items, said in zip(new, scores, strict=True):
            # stable: ties and quarantined lists keep the first-stage order
            best = np.argsort(-np.nan_to_num(said[: len(items)], nan=-np.inf), kind="stable")
            known[frozenset(items)] = [items[i] for i in best]
    return [known[frozenset(items)] if len(items) > 1 else items for items in members]
