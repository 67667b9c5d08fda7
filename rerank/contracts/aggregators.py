"""What every aggregator promises: finite scores, prior order without data, blindness to names, batches."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from ..registry import aggregators
from ..vocabulary import Preferences
from .component import check_component, promise

Array = NDArray[np.float64]
AWKWARD = ([-6e-235, 0.0], [1e6, 1e6 + 1e-9], [1e300, -1e300, 1e299], [1.0, 1.0, 1.0], [3.0])
"""First-stage scores that differ by little, by much, or not at all."""


def check_aggregator(aggregator: Any, *, slope: float = 0.3, tries: int = 6) -> None:
    """Puts made-up comparisons to an aggregator; raises ContractError where it breaks a promise.

    Args:
        slope: how much surer each rank between two makes their comparison, where an order must be found.
        tries: how many random examples each promise is tried on.
    """
    check_component(aggregator, aggregators)
    check_hollow(aggregator)
    check_batches(aggregator)
    check_disconnected(aggregator)
    for prior in AWKWARD:
        check_prior_order(aggregator, prior)
    for seed in range(tries):
        check_finite(aggregator, seed)
        check_prior_order(aggregator, np.random.default_rng(seed).normal(size=1 + seed).tolist())
        check_ties(aggregator, seed)
        check_relabelling(aggregator, seed)
        check_noise_free(aggregator, seed, slope)


def check_finite(aggregator: Any, seed: int = 0) -> None:
    """Every candidate gets a finite float64 score, with and without first-stage scores."""
    rng = np.random.default_rng(seed)
    size = int(rng.integers(1, 10))
    said = some(seed, size, int(rng.integers(0, 26)) if size > 1 else 0, prior=bool(rng.integers(2)))
    scores = aggregator(said)
    promise(isinstance(scores, np.ndarray), aggregator, "it returns an array", type(scores).__name__)
    promise(scores.dtype == np.float64, aggregator, "scores are float64", scores.dtype)
    promise(scores.shape == (size,), aggregator, f"each of {size} candidates has a score", scores.shape)
    promise(np.isfinite(scores).all(), aggregator, "every score is finite", scores)


def check_hollow(aggregator: Any) -> None:
    """No topics, topics without candidates and candidates without comparisons are fine."""
    none, ints = np.empty(0), np.empty(0, np.int32)
    cases = [
        ("no topics", Preferences(np.empty(0, np.int64), np.zeros(1, np.int64), ints, ints, none), 0),
        ("empty topics", Preferences.join([topic(0), some(1, 5, 9, prior=False), topic(0)]), 5),
        ("no comparisons", topic(1), 1),
    ]
    for what, said, size in cases:
        scores = aggregator(said)
        promise(scores.shape == (size,), aggregator, f"with {what} there are {size} scores", scores.shape)


def check_prior_order(aggregator: Any, prior: list[float]) -> None:
    """Without comparisons the order is that of the first stage."""
    scores = aggregator(topic(len(prior), prior=prior))
    expected, found = ranking(np.array(prior)), ranking(scores)
    promise(found == expected, aggregator, f"without data the order is that of {prior}, {expected}", found)


def check_ties(aggregator: Any, seed: int = 0) -> None:
    """Where all comparisons are ties the first-stage order stays."""
    rng = np.random.default_rng(seed)
    size, games = int(rng.integers(2, 9)), int(rng.integers(1, 21))
    said = dataclasses.replace(some(seed, size, games, bool(rng.integers(2))), probability=np.full(games, 0.5))
    found = ranking(aggregator(said))
    promise(found == list(range(size)), aggregator, f"ties alone leave {size} candidates in order", found)


def check_relabelling(aggregator: Any, seed: int = 0) -> None:
    """Other positions for the same candidates give the same scores to the same candidates."""
    rng = np.random.default_rng(seed)
    size = int(rng.integers(2, 10))
    said = some(seed, size, int(rng.integers(1, 26)))
    to = rng.permutation(size)
    prior = said.prior if said.prior is not None else np.zeros(size)
    moved = dataclasses.replace(
        said,
        first=to[said.first].astype(np.int32),
        second=to[said.second].astype(np.int32),
        prior=prior[np.argsort(to)],
    )
    scores, permuted = aggregator(said), aggregator(moved)
    same = np.allclose(permuted[to], scores, atol=1e-7, rtol=1e-7)
    promise(same, aggregator, "relabelling permutes the scores", f"{scores} and {permuted[to]}")
    orders = [int(to[i]) for i in ranking(scores)], ranking(permuted)
    promise(orders[0] == orders[1], aggregator, "relabelling permutes the order", f"{orders[0]} and {orders[1]}")


def check_noise_free(aggregator: Any, seed: int = 0, slope: float = 0.3) -> None:
    """Comparisons of all pairs that agree with an order give it, and turned round they give it backwards."""
    rng = np.random.default_rng(seed)
    size = int(rng.integers(2, 10))
    order = rng.permutation(size)
    said = complete(size, order, seed, slope)
    turned = dataclasses.replace(said, probability=1 - said.probability)
    for what, given, expected in (
        ("a noise-free order is found", said, order.tolist()),
        ("turned round it is found backwards", turned, order.tolist()[::-1]),
    ):
        found = ranking(aggregator(given))
        promise(found == expected, aggregator, f"{what}: {expected}", found)


def check_batches(aggregator: Any) -> None:
    """Topics together are scored as each alone, unless the aggregator says that it is ``pooled``."""
    parts = [some(seed, size, 3 * size) for seed, size in enumerate([7, 3, 7, 12, 2, 5])]
    together = aggregator(Preferences.join(parts))
    alone = np.concatenate([aggregator(part) for part in parts])
    promise(together.shape == alone.shape, aggregator, "topics together have all their scores", together.shape)
    if getattr(aggregator, "pooled", False):  # judges are shared by all topics
        return
    same = np.allclose(together, alone, atol=1e-7, rtol=1e-7)
    promise(same, aggregator, "topics together are scored as alone", np.abs(together - alone).max())


def check_disconnected(aggregator: Any) -> None:
    """Candidates that no chain of comparisons links are fine, and winners stand above losers."""
    scores = aggregator(topic(7, [0, 1, 4, 5], [1, 0, 5, 4], [0.2, 0.9, 0.3, 0.8]))
    promise(np.isfinite(scores).all(), aggregator, "a disconnected graph gives finite scores", scores)
    above = scores[1] > scores[0] and scores[5] > scores[4]
    promise(above, aggregator, "whoever won all comparisons stands above who lost them", scores)


def ranking(scores: Array) -> list[int]:
    """Positions best first, equal scores by position."""
    found: list[int] = np.argsort(-scores, kind="stable").tolist()
    return found


def topic(
    size: int, first: Any = (), second: Any = (), probability: Any = (), prior: Any = None, source: Any = None
) -> Preferences:
    """The preferences of one topic from plain sequences."""
    return Preferences(
        sizes=np.array([size]),
        offsets=np.array([0, len(first)]),
        first=np.asarray(first, np.int32),
        second=np.asarray(second, np.int32),
        probability=np.asarray(probability, np.float64),
        prior=None if prior is None else np.asarray(prior, np.float64),
        source=None if source is None else np.asarray(source, np.int32),
    )


def some(seed: int, size: int, games: int, prior: bool = True, sources: int = 0) -> Preferences:
    """Random comparisons without ties of candidates that stand in prior order."""
    rng = np.random.default_rng(seed)
    first = rng.integers(size, size=games)
    second = (first + rng.integers(1, max(size, 2), size=games)) % size
    skill = rng.normal(size=size)
    noise = rng.normal(size=games)
    probability = 1 / (1 + np.exp(skill[second] - skill[first] + noise))
    return topic(
        size,
        first,
        second,
        probability,
        prior=np.sort(rng.normal(size=size))[::-1] if prior else None,
        source=rng.integers(sources, size=games) if sources else None,
    )


def complete(size: int, order: NDArray[np.int64], seed: int, slope: float = 0.3) -> Preferences:
    """Every pair once, shown in a random order, the better by ``order`` always preferred."""
    rng = np.random.default_rng(seed)
    first, second = np.triu_indices(size, 1)
    flip = rng.random(len(first)) < 0.5
    first, second = np.where(flip, second, first), np.where(flip, first, second)
    place = np.argsort(order)
    return topic(size, first, second, expit(np.asarray((place[second] - place[first]) * slope, np.float64)))
