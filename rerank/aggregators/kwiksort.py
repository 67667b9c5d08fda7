"""KwikSort: quicksort by the preferences themselves, averaged over random pivots."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..pairs.solving import solve
from ..pairs.table import Array, Table, by_size, check_prior, ratio, verdicts
from ..registry import aggregators
from ..vocabulary import Preferences


@aggregators.register("kwiksort")
@dataclass(frozen=True)
class KwikSort:
    """The mean position over several quicksorts with random pivots; the score is the mean number below.

    A candidate goes before the pivot if it won their games, after it if it lost; tied or uncompared pairs
    follow the prior. Pivots are drawn over candidates in order of their win rate, in mirrored pairs of runs,
    so that relabelling candidates or reversing all outcomes changes nothing but the labels and the direction.
    Source: Ailon, Charikar, Newman, JACM 55(5), 2008.

    Args:
        runs: quicksorts to average, rounded up to an even number.
        prior: games that every candidate plays against all others as the first stage predicts.
        seed: of the pivots.
    """

    runs: int = 20
    prior: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        check_prior(self.prior)
        if self.runs < 1:
            raise ValueError(f"runs must be at least 1, found {self.runs}")

    def __call__(self, preferences: Preferences) -> Array:
        return solve(preferences, self._scores)

    def _scores(self, table: Table) -> Array:
        wins, games = table.with_prior(self.prior)
        said = verdicts(wins, games)
        n = said.shape[1]
        by_prior = np.sign(np.arange(n)[None, :] - np.arange(n)[:, None])
        ahead = np.where(said != 0, said, by_prior) > 0
        rate = np.round(ratio(wins.sum(axis=2), games.sum(axis=2)), 9)
        scores = np.zeros(rate.shape)
        for rows, size in by_size(table):
            place = np.argsort(np.argsort(-rate[rows, :size], axis=1, kind="stable"), axis=1)
            half = (self.runs + 1) // 2
            turns = np.random.default_rng((self.seed, size)).permuted(np.tile(np.arange(size), (half, 1)), axis=1)
            for turn in np.concatenate([turns, turns[:, ::-1]]):
                scores[rows, :size] += _quicksort(ahead[rows, :size, :size], turn[place])
            scores[rows, :size] /= 2 * half
        return scores


def _quicksort(ahead: NDArray[np.bool_], turn: NDArray[np.int64]) -> Array:
    """The number of candidates below each, (q, n), when pivots are taken in order of ``turn`` (q, n).

    Every step all segments take their next pivot at once: whoever has the smallest turn in a segment splits it.
    A segment is known by the number of candidates above it; depth is O(log n) on average.
    """
    count, n = turn.shape
    rows = np.arange(count)[:, None]
    above = np.zeros((count, n), np.int64)
    length = np.full((count, n), n, np.int64)
    own = np.arange(n)
    unsorted = np.ones((count, n), dtype=bool)
    while unsorted.any():
        smallest = np.full((count, n), n, np.int64)
        np.minimum.at(smallest, (np.broadcast_to(rows, turn.shape)[unsorted], above[unsorted]), turn[unsorted])
        holder = np.argsort(turn, axis=1)  # holder[t]: who has turn t
        pivot = holder[rows, np.minimum(smallest[rows, above], n - 1)]
        left = ahead[rows, own, pivot] & unsorted
        is_pivot = (pivot == own) & unsorted
        rest = unsorted & ~is_pivot
        lefts = np.zeros((count, n), np.int64)
        np.add.at(lefts, (np.broadcast_to(rows, turn.shape)[left & rest], above[left & rest]), 1)
        before = lefts[rows, above]
        length = np.where(left & rest, before, np.where(rest, length - before - 1, length))
        above = np.where(is_pivot | (rest & ~left), above + before, above) + (rest & ~left)
        unsorted = rest
    return np.asarray(n - 1.0 - above)
