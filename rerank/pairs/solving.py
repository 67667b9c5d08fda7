"""How every aggregator scores topics: in batches of similar size, in prior order, with one rule for equals.

Inside a batch the candidates of a topic stand in prior order (best first-stage score first, equal scores by
position), so that "first index wins" is the tie-break everywhere and relabelling candidates changes nothing.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from ..arrays import ragged
from ..vocabulary import Preferences
from .table import Array, Table

CELLS = 1 << 20
"""Cells of one (q, n, n) array of a batch at most (8 MB), unless a single topic is larger."""


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
    """First-stage scores with mean 0 and deviation 1 per topic, (sum of sizes,); 0 where they are flat.

    Of topics with infinite scores the order alone counts.
    """
    sizes = preferences.sizes
    if preferences.prior is None:
        return np.zeros(sizes.sum())
    prior = preferences.prior
    topic = np.repeat(np.arange(len(sizes)), sizes)
    for odd in np.unique(topic[~np.isfinite(prior)]).tolist():
        prior = np.where(topic == odd, by_order(np.where(topic == odd, prior, -np.inf)), prior)
    largest = np.zeros(len(sizes))
    np.maximum.at(largest, topic, np.abs(prior))
    scaled = prior / np.where(largest > 0, largest, 1.0)[topic]  # squares neither overflow nor vanish
    count = np.maximum(sizes, 1)
    centred = scaled - (np.bincount(topic, scaled, len(sizes)) / count)[topic]
    spread = np.sqrt(np.bincount(topic, centred**2, len(sizes)) / count)
    flat = spread <= 1e-12
    return np.where(flat[topic], 0.0, centred / np.where(flat, 1.0, spread)[topic])


def by_order(scores: Array) -> Array:
    """Minus the number of candidates that are better, equal for equal scores, (n,): an order as finite scores."""
    return -np.searchsorted(np.sort(-scores), -scores).astype(np.float64)


def select(preferences: Preferences, topics: NDArray[np.int64]) -> Preferences:
    """The preferences of some topics alone, in the order given."""
    counts = np.diff(preferences.offsets)[topics]
    rows = ragged(preferences.offsets[topics], counts)
    starts = np.cumsum(preferences.sizes) - preferences.sizes
    nodes = ragged(starts[topics], preferences.sizes[topics])

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
    falls = (topic[1:] == topic[:-1]) & (preferences.prior[1:] != preferences.prior[:-1])
    sloped = np.bincount(topic[1:][falls], minlength=len(sizes)) > 0
    place = ragged(np.zeros_like(sizes), sizes)
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
