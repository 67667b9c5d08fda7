"""What every aggregator shares: batches of topics of similar size, the prior, and the order of equals.

Inside a batch the candidates of a topic stand in prior order (best first-stage score first, equal scores by
position), so that "first index wins" is the tie-break everywhere and relabelling candidates changes nothing.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from ..vocabulary import Preferences

Array = NDArray[np.float64]

CELLS = 1 << 20
"""Cells of one (q, n, n) array of a batch at most (8 MB), unless a single topic is larger."""


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


def solve(
    preferences: Preferences, scores: Callable[[Table], Array], noise: float = 1e-10, cells: int = CELLS
) -> Array:
    """Scores of all candidates, (sum of sizes,), from a function that scores one batch, (q, n).

    Topics without information (no comparison, or every probability 0.5) keep prior order whatever the method:
    a judge that cannot tell any two candidates apart has said nothing. Scores that differ by less than
    ``noise`` plus 1e-9 of the topic's range become equal, and equals follow the prior order.
    """
    ordered, order = _in_prior_order(preferences)
    standard = standardised_prior(ordered)
    starts = np.concatenate([[0], np.cumsum(ordered.sizes)])
    result = _prior_scores(ordered)
    for topics in _chunks(np.where(_informed(ordered), ordered.sizes, 0), cells):
        positions = np.arange(int(ordered.sizes[topics].max()))
        mask = positions < ordered.sizes[topics, None]
        rows = (starts[topics, None] + positions)[mask]
        prior = np.zeros(mask.shape)
        prior[mask] = standard[rows]
        found = scores(Table(select(ordered, topics), prior))
        result[rows] = _settle(found, mask, noise, order is not None)[mask]
    if order is None:
        return result
    original = np.empty_like(result)
    original[np.repeat(starts[:-1], ordered.sizes) + order] = result
    return original


def standardised_prior(preferences: Preferences) -> Array:
    """First-stage scores with mean 0 and deviation 1 per topic, (sum of sizes,); 0 where they are flat."""
    sizes = preferences.sizes
    if preferences.prior is None:
        return np.zeros(sizes.sum())
    topic = np.repeat(np.arange(len(sizes)), sizes)
    largest = np.zeros(len(sizes))
    np.maximum.at(largest, topic, np.abs(preferences.prior))
    scaled = preferences.prior / np.where(largest > 0, largest, 1.0)[topic]  # squares neither overflow nor vanish
    count = np.maximum(sizes, 1)
    centred = scaled - (np.bincount(topic, scaled, len(sizes)) / count)[topic]
    spread = np.sqrt(np.bincount(topic, centred**2, len(sizes)) / count)
    flat = spread <= 1e-12
    return np.where(flat[topic], 0.0, centred / np.where(flat, 1.0, spread)[topic])


def tally(cell: NDArray[np.int64], value: Array, shape: tuple[int, ...]) -> Array:
    """Sums of ``value`` by flat ``cell``, in an array of ``shape``."""
    return np.bincount(cell, value, int(np.prod(shape))).astype(np.float64, copy=False).reshape(shape)


def select(preferences: Preferences, topics: NDArray[np.int64]) -> Preferences:
    """The preferences of some topics alone, in the order given."""
    counts = np.diff(preferences.offsets)[topics]
    rows = _ranges(preferences.offsets[topics], counts)
    starts = np.cumsum(preferences.sizes) - preferences.sizes
    nodes = _ranges(starts[topics], preferences.sizes[topics])

    def take(values: NDArray[np.generic] | None) -> NDArray[np.generic] | None:
        return None if values is None else values[rows]

    return Preferences(
        sizes=preferences.sizes[topics],
        offsets=np.concatenate([[0], np.cumsum(counts)]),
        first=preferences.first[rows],
        second=preferences.second[rows],
        probability=preferences.probability[rows],
        weight=take(preferences.weight),  # type: ignore[arg-type]
        prior=None if preferences.prior is None else preferences.prior[nodes],
        source=take(preferences.source),  # type: ignore[arg-type]
    )


def components(preferences: Preferences) -> NDArray[np.int64]:
    """The connected component of the comparison graph of every candidate, (sum of sizes,), unique over topics."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    starts = np.cumsum(preferences.sizes) - preferences.sizes
    shift = np.repeat(starts, np.diff(preferences.offsets))
    total = int(preferences.sizes.sum())
    played = slice(None) if preferences.weight is None else preferences.weight > 0
    ends = (shift + preferences.first)[played], (shift + preferences.second)[played]
    links = (np.ones(len(ends[0])), ends)
    _, labels = connected_components(coo_array(links, shape=(total, total)), directed=False)
    return labels.astype(np.int64)


def by_size(table: Table) -> Iterator[tuple[NDArray[np.int64], int]]:
    """The rows of the batch that have the same size, and that size: for methods that cannot be padded."""
    for size in np.unique(table.sizes):
        yield np.flatnonzero(table.sizes == size), int(size)


def from_order(order: NDArray[np.int64], sizes: NDArray[np.int64]) -> Array:
    """Scores of an order (q, n), best first: the number of candidates below; padding stands at the end."""
    scores = np.empty(order.shape)
    np.put_along_axis(scores, order, sizes[:, None] - 1.0 - np.arange(order.shape[1]), axis=1)
    return scores


def _ranges(starts: NDArray[np.int64], lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """Concatenated ranges: starts[k], starts[k] + 1, ... of the given lengths."""
    before = np.cumsum(lengths) - lengths
    ranges: NDArray[np.int64] = np.arange(lengths.sum()) + np.repeat(starts - before, lengths)
    return ranges


def _in_prior_order(preferences: Preferences) -> tuple[Preferences, NDArray[np.int64] | None]:
    """Preferences with candidates renamed to prior order, and that order unless it is the order of positions."""
    prior, sizes = preferences.prior, preferences.sizes
    if prior is None:
        return preferences, None
    topic = np.repeat(np.arange(len(sizes)), sizes)
    starts = np.cumsum(sizes) - sizes
    order = np.lexsort((-prior, topic))
    if (order == np.arange(len(order))).all():
        return preferences, None
    place = np.empty(len(order), np.int32)
    place[order] = np.arange(len(order)) - np.repeat(starts, sizes)
    shift = np.repeat(starts, np.diff(preferences.offsets))
    renamed = dataclasses.replace(
        preferences,
        first=place[shift + preferences.first],
        second=place[shift + preferences.second],
        prior=prior[order],
    )
    return renamed, order - np.repeat(starts, sizes)


def _prior_scores(preferences: Preferences) -> Array:
    """Evenly spaced scores of topics in prior order, all 0 where the first stage is flat, (sum of sizes,)."""
    sizes = preferences.sizes
    if preferences.prior is None:
        return np.zeros(sizes.sum())
    topic = np.repeat(np.arange(len(sizes)), sizes)
    falls = (topic[1:] == topic[:-1]) & (np.diff(preferences.prior) != 0)
    sloped = np.bincount(topic[1:][falls], minlength=len(sizes)) > 0
    place = _ranges(np.zeros_like(sizes), sizes)
    return np.where(sloped[topic], -place / np.maximum(sizes, 1)[topic], 0.0)


def _informed(preferences: Preferences) -> NDArray[np.bool_]:
    """Whether any comparison of a topic says more than "equal", (Q,)."""
    says = np.abs(preferences.probability - 0.5) > 1e-12
    if preferences.weight is not None:
        says &= preferences.weight > 0
    until = np.concatenate([[0], np.cumsum(says)])
    return np.asarray(np.diff(until[preferences.offsets]) > 0)


def _chunks(sizes: NDArray[np.int64], cells: int) -> Iterator[NDArray[np.int64]]:
    """Topics of similar size, as many as ``cells`` of a padded (q, n, n) array allow; none that is empty."""
    order = np.argsort(sizes, kind="stable")
    order = order[sizes[order] > 0][::-1]
    while len(order):
        count = max(1, int(cells // sizes[order[0]] ** 2))
        yield np.sort(order[:count])
        order = order[count:]


def _settle(scores: Array, mask: NDArray[np.bool_], noise: float, spell_out: bool) -> Array:
    """Makes scores that differ by rounding alone equal; ``spell_out`` puts equals in index order by a hair.

    The hair is needed only where the caller's positions are not in prior order, since equal scores are
    otherwise ranked by position already.
    """
    low = np.where(mask, scores, np.inf).min(axis=1, keepdims=True)
    high = np.where(mask, scores, -np.inf).max(axis=1, keepdims=True)
    tolerance = noise + 1e-9 * (high - low)
    filled = np.where(mask, scores, -np.inf)
    order = np.argsort(-filled, axis=1, kind="stable")
    values = np.take_along_axis(filled, order, axis=1)
    with np.errstate(invalid="ignore"):  # padding: -inf minus -inf
        fresh = np.diff(values, axis=1, prepend=np.inf) < -tolerance
    place = np.arange(values.shape[1])
    leader = np.maximum.accumulate(np.where(fresh, place, 0), axis=1)
    level = np.take_along_axis(values, leader, axis=1)
    if spell_out:
        within = np.lexsort((order, leader), axis=1)
        order = np.take_along_axis(order, within, axis=1)
        level = level - (place - leader) * tolerance / (2 * values.shape[1])
    settled = np.zeros_like(scores)
    np.put_along_axis(settled, order, level, axis=1)
    return settled


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


def hardened(preferences: Preferences) -> Preferences:
    """The same comparisons with probabilities rounded to won, lost and exactly tied."""
    from dataclasses import replace

    return replace(preferences, probability=(np.sign(preferences.probability - 0.5) + 1) / 2)
