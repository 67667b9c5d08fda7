"""TSPRank's decoding: the order whose neighbours prefer each other most, as an open travelling-salesman tour."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from ..pairs.flow import CLIP
from ..pairs.solving import solve
from ..pairs.sparse_newton import strengths
from ..pairs.table import Array, Table, by_size, from_order
from ..registry import aggregators
from ..vocabulary import Preferences

EXACT_LIMIT = 15
"""Candidates up to which the best tour is found by dynamic programming."""

TOPICS = 8
"""Topics decoded at once: the tables of the dynamic programme take 5 MB each at 15 candidates."""

SETS = 1 << 12
"""Sets of the dynamic programme worked on at once."""


@aggregators.register("tsp")
@dataclass(frozen=True)
class TravellingSalesman:
    """The path through all candidates that maximises the preference of each over the next one; experimental.

    Exact (Held-Karp) up to 15 candidates, above that or-opt and 2-opt moves from the Bradley-Terry order until
    none helps. Only neighbours count, so one wrong comparison can move a candidate far, and soft outcomes
    reward leaps over near-equals: prefer ``kemeny``.
    Pairs that were not compared are filled in from prior Bradley-Terry. The score is the number below.
    Source: Li et al., TSPRank, KDD 2025; Held and Karp 1962.

    Args:
        edge: worth of a step from i to j: the probability that i beats j, or its log odds.
        prior: weight of the prior in the Bradley-Terry fit, whose mean is the first stage.
    """

    edge: Literal["probability", "logit"] = "probability"
    prior: float = 1.0

    def __post_init__(self) -> None:
        if not self.prior > 0:
            raise ValueError(f"prior must be positive, found {self.prior}")

    def __call__(self, preferences: Preferences) -> Array:
        return solve(preferences, self._scores)

    def _scores(self, table: Table) -> Array:
        skill, worth = self._worth(table)
        order = np.argsort(-np.where(table.mask, np.round(skill, 8), -np.inf), axis=1, kind="stable")
        for rows, size in by_size(table):
            decode = held_karp if size <= EXACT_LIMIT else improve
            for some in np.array_split(rows, -(-len(rows) // TOPICS)):
                order[some, :size] = decode(worth[some, :size, :size], order[some, :size])
        return from_order(order, table.sizes)

    def _worth(self, table: Table) -> tuple[Array, Array]:
        said, wins = table.preferences, table.weight * table.preferences.probability
        skill = strengths(
            said.offsets, said.first, said.second, wins, table.weight - wins, table.prior, self.prior
        )
        guess = expit(skill[:, :, None] - skill[:, None, :])
        share = np.divide(table.wins, table.games, out=guess, where=table.games > 0)
        if self.edge == "logit":
            share = np.clip(share, CLIP, 1 - CLIP)
            share = np.log(share / (1 - share))
        return skill, share


def tour_worth(worth: Array, order: NDArray[np.int64]) -> Array:
    """The sum over steps of an order, (q,), for ``worth`` (q, n, n) and ``order`` (q, n)."""
    rows = np.arange(len(order))[:, None]
    return np.asarray(worth[rows, order[:, :-1], order[:, 1:]].sum(axis=1))


def held_karp(worth: Array, start: NDArray[np.int64]) -> NDArray[np.int64]:
    """The best open tours by dynamic programming over sets, (q, n); ``start`` where nothing beats it.

    best[S, j] is the worth of the best path through the set S that ends in j: O(2^n n^2) per topic.
    """
    count, n = start.shape
    if n < 2:
        return start
    ranked = np.take_along_axis(worth, start[:, :, None], axis=1)  # first index wins ties: the start's order
    ranked = np.take_along_axis(ranked, start[:, None, :], axis=2)
    best = np.full((1 << n, count, n), -np.inf)
    came = np.zeros((1 << n, count, n), np.int8)
    for member in range(n):
        best[1 << member, :, member] = 0.0
    sets = np.arange(1 << n)
    width = np.bitwise_count(sets)
    for size in range(2, n + 1):
        for last in range(n):
            full = sets[(width == size) & (sets >> last & 1 == 1)]
            for low in range(0, len(full), SETS):
                chosen = full[low : low + SETS]
                reached = best[chosen ^ (1 << last)] + ranked[None, :, :, last]
                pick = reached.argmax(axis=2)
                came[chosen, :, last] = pick
                best[chosen, :, last] = np.take_along_axis(reached, pick[:, :, None], axis=2)[:, :, 0]
    rows = np.arange(count)
    last = best[-1].argmax(axis=1)
    left = np.full(count, (1 << n) - 1)
    path = np.empty((count, n), np.int64)
    for place in range(n - 1, -1, -1):
        path[:, place] = last
        before = came[left, rows, last].astype(np.int64)
        left = left ^ (1 << last)
        last = before
    found = np.take_along_axis(start, path, axis=1)
    better = tour_worth(worth, found) > tour_worth(worth, start) + 1e-9
    return np.where(better[:, None], found, start)


def improve(worth: Array, order: NDArray[np.int64]) -> NDArray[np.int64]:
    """Moves runs of one to three candidates, and reverses runs, until no such move gains; one topic at a time."""
    return np.stack([_improve(w, o) for w, o in zip(worth, order, strict=True)])


def _improve(worth: Array, order: NDArray[np.int64]) -> NDArray[np.int64]:
    while True:
        n = len(order)
        # rows and columns of an imaginary candidate at both ends make all steps alike
        ranked = np.zeros((n + 2, n + 2))
        ranked[1:-1, 1:-1] = worth[np.ix_(order, order)]
        step = np.append(np.diagonal(ranked, 1), 0.0)  # step[k]: from place k to k + 1
        moves = [_best_reversal(ranked, step)] + [_best_shift(ranked, step, run) for run in (1, 2, 3)]
        gain, places = max(moves, key=lambda move: move[0])
        if gain <= 1e-9 * (1 + np.abs(step).sum()):
            return order
        order = order[places]


def _best_reversal(ranked: Array, step: Array) -> tuple[float, NDArray[np.int64]]:
    """The reversal of places i..j that gains most, in places 1..n of the padded matrix."""
    n = len(ranked) - 2
    back = np.append(np.diagonal(ranked, -1), 0.0)  # back[k]: from place k + 1 to k
    turned = np.concatenate([[0.0], np.cumsum(back - step)])  # turned[j] - turned[i]: steps inside i..j
    i, j = np.triu_indices(n, 1)
    i, j = i + 1, j + 1
    gain = turned[j] - turned[i] + ranked[i - 1, j] + ranked[i, j + 1] - step[i - 1] - step[j]
    best = int(gain.argmax()) if len(gain) else 0
    places = np.arange(n)
    if not len(gain):
        return 0.0, places
    low, high = i[best] - 1, j[best]
    places[low:high] = places[low:high][::-1]
    return float(gain[best]), places


def _best_shift(ranked: Array, step: Array, run: int) -> tuple[float, NDArray[np.int64]]:
    """The move of ``run`` neighbours to between two other neighbours that gains most."""
    n = len(ranked) - 2
    places = np.arange(n)
    if run >= n:
        return 0.0, places
    i = np.arange(1, n - run + 2)[:, None]  # places i..j move
    j = i + run - 1
    k = np.arange(n + 1)[None, :]  # in between k and k + 1
    gain = ranked[i - 1, j + 1] - step[i - 1] - step[j] + ranked[k, i] + ranked[j, k + 1] - step[k]
    gain = np.where((k >= i - 1) & (k <= j), -np.inf, gain)
    best = int(gain.argmax())
    at, to = best // (n + 1), best % (n + 1)
    moved = places[at : at + run]
    rest = np.delete(places, slice(at, at + run))
    insert = to if to <= at else to - run
    return float(gain.flat[best]), np.insert(rest, insert, moved)
