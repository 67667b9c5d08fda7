"""A batch of topics as matrices of wins and games, and what aggregators compute from them.

The candidates of a topic stand in prior order (see `sparring.rerank.pairs.solving`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from ..console import log
from ..vocabulary import Preferences

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Table:
    """Topics of similar size, candidates in prior order, padded to the largest.

    Args:
        preferences: the comparisons of these topics, positions in prior order.
        prior: standardised first-stage scores (q, n); 0 where the first stage is flat, absent or padded.
    """

    preferences: Preferences
    prior: Array

    @cached_property
    def _dense(self) -> tuple[Array, Array, NDArray[np.bool_]]:
        return self.preferences.dense()

    @property
    def wins(self) -> Array:
        """Weight times P(i beats j), summed over comparisons from both sides, (q, n, n)."""
        return self._dense[0]

    @property
    def games(self) -> Array:
        """Weight of all comparisons of i and j, symmetric (q, n, n)."""
        return self._dense[1]

    @property
    def sizes(self) -> NDArray[np.int64]:
        """Candidates per topic (q,)."""
        return self.preferences.sizes

    @cached_property
    def mask(self) -> NDArray[np.bool_]:
        """True for real candidates (q, n)."""
        return np.arange(self.prior.shape[1]) < self.sizes[:, None]

    @cached_property
    def pairs(self) -> NDArray[np.bool_]:
        """True for pairs of two different real candidates (q, n, n)."""
        off_diagonal = ~np.eye(self.prior.shape[1], dtype=bool)
        return self.mask[:, :, None] & self.mask[:, None, :] & off_diagonal

    @cached_property
    def topic(self) -> NDArray[np.int64]:
        """The topic of every comparison, (e,)."""
        return np.repeat(np.arange(len(self.sizes)), np.diff(self.preferences.offsets))

    @cached_property
    def weight(self) -> Array:
        """The weight of every comparison, (e,)."""
        given = self.preferences.weight
        return np.ones(len(self.preferences.first)) if given is None else given

    def with_prior(self, weight: float) -> tuple[Array, Array]:
        """Wins and games after every candidate played ``weight`` games against all others as the prior predicts.

        The prior predicts sigmoid(z_i - z_j) for standardised first-stage scores z, 0.5 where it is flat.
        """
        if not weight:
            return self.wins, self.games
        share = self.pairs * (weight / np.maximum(self.sizes - 1, 1))[:, None, None]
        expected = expit(self.prior[:, :, None] - self.prior[:, None, :])
        return self.wins + share * expected, self.games + share


def tally(cell: NDArray[np.int64], value: Array, shape: tuple[int, ...]) -> Array:
    """Sums of ``value`` by flat ``cell``, in an array of ``shape``."""
    return np.bincount(cell, value, int(np.prod(shape))).astype(np.float64, copy=False).reshape(shape)


def by_size(table: Table) -> Iterator[tuple[NDArray[np.int64], int]]:
    """The rows of the batch that have the same size, and that size: for methods that cannot be padded."""
    for size in np.unique(table.sizes):
        yield np.flatnonzero(table.sizes == size), int(size)


def from_order(order: NDArray[np.int64], sizes: NDArray[np.int64]) -> Array:
    """Scores of an order (q, n), best first: the number of candidates below; padding stands at the end."""
    scores = np.empty(order.shape)
    np.put_along_axis(scores, order, sizes[:, None] - 1.0 - np.arange(order.shape[1]), axis=1)
    return scores


def check_prior(weight: float) -> None:
    """Raises ValueError for a negative weight of the prior."""
    if not weight >= 0:
        raise ValueError(f"prior must be 0 or more, found {weight}")


def ratio(won: Array, played: Array) -> Array:
    """Share of games won, 0.5 where none was played."""
    return np.divide(won, played, out=np.full_like(won, 0.5), where=played > 0)


def verdicts(wins: Array, games: Array) -> Array:
    """Who won each pair: 1, -1, or 0 for a tie (up to rounding) or no game, (q, n, n)."""
    lead = 2 * wins - games
    return np.sign(np.where(np.abs(lead) > 1e-9 * games, lead, 0.0))


def as_verdicts(preferences: Preferences) -> Preferences:
    """The same comparisons with probabilities rounded to won, lost and exactly tied."""
    return dataclasses.replace(preferences, probability=(np.sign(preferences.probability - 0.5) + 1) / 2)


def warn_unsettled(method: str, moved: Array, limit: float, effort: str) -> None:
    """Says how many topics an iteration left before they settled.

    Args:
        method: the spec of the aggregator.
        moved: the last move of each topic or, where topics are fitted together, of all, (Q,).
        limit: topics that move no more than that have settled.
        effort: how long was tried: "1000 sweeps".
    """
    left = moved[~(moved <= limit)]
    if len(left):
        count, last = len(left), float(left.max())
        remedy = "give more of them, or a larger prior"
        log.warning(
            "%s: %d topics had not settled after %s (last move %.2g): %s", method, count, effort, last, remedy
        )
