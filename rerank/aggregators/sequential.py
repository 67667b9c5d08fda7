"""Aggregators that replay games one after another: Elo ratings and Gaussian skills (TrueSkill)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, log_ndtr

from ..pairs.solving import solve
from ..pairs.table import Array, Table, check_prior
from ..registry import aggregators
from ..vocabulary import Preferences

GAMES = 1 << 23
"""Games of all orders replayed side by side at most."""


@aggregators.register("elo")
@dataclass(frozen=True)
class Elo:
    """Elo ratings after all games, averaged over random orders of the games.

    Expected score E = 1 / (1 + 10^((R_b - R_a) / scale)), update R_a += k (p - E), R_b the opposite, times the
    weight of the game. One order alone is volatile: 100 orders cut the standard deviation tenfold.
    Source: Elo 1978; Boubdir et al., arXiv 2311.17295.

    Args:
        permutations: orders to average; 1 keeps the order in which games were stored.
        k: size of one update.
        scale: rating difference that is worth odds of 10 to 1.
        initial: rating before any game.
        prior: rating points that one standard deviation of first-stage scores is worth at the start.
        seed: of the orders; each depends on the number of games of the topic alone.
    """

    permutations: int = 100
    k: float = 8.0
    scale: float = 400.0
    initial: float = 1000.0
    prior: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        check_prior(self.prior)
        if self.permutations < 1 or not self.k > 0 or not self.scale > 0:
            raise ValueError("permutations must be at least 1, k and scale positive")

    def __call__(self, preferences: Preferences) -> Array:
        return solve(preferences, self._scores, noise=1e-7)

    def _scores(self, table: Table) -> Array:
        rating = self.prior * table.prior
        steep = np.log(10) / self.scale
        total = np.zeros_like(rating)
        for topics, lanes, replay in _replays(table, self.permutations, self.seed):
            state = np.repeat(rating[topics], self.permutations, axis=0).ravel()
            for first, second, said, weight in replay:
                a, b = state.take(first), state.take(second)
                move = self.k * weight * (said - expit((a - b) * steep))
                state[first] = a + move
                state[second] = b - move
            total[topics] = state.reshape(lanes).mean(axis=1)
        return self.initial + total


@aggregators.register("trueskill")
@dataclass(frozen=True)
class TrueSkill:
    """Gaussian skills N(mu, sigma^2) updated game by game (assumed-density filtering), averaged over orders.

    With c^2 = 2 beta^2 + sigma_w^2 + sigma_l^2, t = (mu_w - mu_l) / c, v = phi(t) / Phi(t), u = v (v + t):
    mu_w += sigma_w^2 v / c, mu_l -= sigma_l^2 v / c, sigma^2 *= 1 - sigma^2 u / c^2. A soft outcome p takes
    the expectation of the updates for a win (p) and a loss (1 - p). The score is mu - caution * sigma.
    Source: Herbrich, Minka, Graepel, NeurIPS 2006; Weng and Lin, JMLR 12, 2011.

    Args:
        permutations: orders of the games to average; 1 keeps the order in which they were stored.
        mu, sigma: skill before any game.
        beta: standard deviation of a performance around the skill.
        caution: standard deviations subtracted from the mean; leaderboards use 3.
        prior: how many sigmas one standard deviation of first-stage scores is worth at the start.
        seed: of the orders; each depends on the number of games of the topic alone.
    """

    permutations: int = 10
    mu: float = 25.0
    sigma: float = 25 / 3
    beta: float = 25 / 6
    caution: float = 0.0
    prior: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        check_prior(self.prior)
        if self.permutations < 1 or not self.sigma > 0 or not self.beta > 0 or self.caution < 0:
            raise ValueError("permutations must be at least 1, sigma and beta positive, caution 0 or more")

    def __call__(self, preferences: Preferences) -> Array:
        return solve(preferences, self._scores, noise=1e-8)

    def _scores(self, table: Table) -> Array:
        start = self.prior * self.sigma * table.prior
        total = np.zeros_like(start)
        for topics, lanes, replay in _replays(table, self.permutations, self.seed):
            mu = np.repeat(start[topics], self.permutations, axis=0).ravel()
            variance = np.full_like(mu, self.sigma**2)
            for first, second, said, weight in replay:
                a, b = variance.take(first), variance.take(second)
                c2 = 2 * self.beta**2 + a + b
                c = np.sqrt(c2)
                t = (mu.take(first) - mu.take(second)) / c
                won, lost = _hazard(t), _hazard(-t)
                move = weight * (said * won - (1 - said) * lost) / c
                known = weight * (said * won * (won + t) + (1 - said) * lost * (lost - t)) / c2
                mu[first] += a * move
                mu[second] -= b * move
                variance[first] = a * np.maximum(1 - a * known, 1e-3)
                variance[second] = b * np.maximum(1 - b * known, 1e-3)
            score = mu - self.caution * (np.sqrt(variance) - self.sigma)
            total[topics] = score.reshape(lanes).mean(axis=1)
        return self.mu - self.caution * self.sigma + total


Games = tuple[NDArray[np.int64], NDArray[np.int64], Array, Array]
"""The next game of every lane: first and second as places in the flat state, probability, weight, (lanes,)."""


def _replays(
    table: Table, permutations: int, seed: int
) -> Iterator[tuple[NDArray[np.int64], tuple[int, int, int], Iterator[Games]]]:
    """Groups of topics with their games in several orders, one lane per topic and order.

    Yields the topics (g,), the shape (g, permutations, n) of the lanes' state, and the games step by step.
    """
    counts = np.diff(table.preferences.offsets)
    ranked = np.argsort(-counts, kind="stable")
    while len(ranked):
        most = max(int(counts[ranked[0]]), 1)
        group = ranked[: max(1, GAMES // (most * permutations))]
        ranked = ranked[len(group) :]
        yield group, (len(group), permutations, table.mask.shape[1]), _steps(table, group, permutations, seed)


def _steps(table: Table, topics: NDArray[np.int64], permutations: int, seed: int) -> Iterator[Games]:
    said, counts = table.preferences, np.diff(table.preferences.offsets)[topics]
    rows = np.zeros((counts.max(initial=0), len(topics), permutations), np.int32)
    for count in np.unique(counts):
        order = np.tile(np.arange(count), (permutations, 1))
        if permutations > 1:
            order = np.random.default_rng((seed, int(count))).permuted(order, axis=1)
        same = np.flatnonzero(counts == count)
        rows[:count, same] = order.T[:, None, :] + said.offsets[topics[same], None]
    base = np.arange(len(topics) * permutations) * table.mask.shape[1]
    for step, row in enumerate(rows):
        live = int(np.searchsorted(-counts, -step, side="left"))  # topics stand by falling number of games
        game = row[:live].ravel()
        lane = base[: len(game)]
        first, second = lane + said.first.take(game), lane + said.second.take(game)
        yield first, second, said.probability.take(game), table.weight.take(game)


def _hazard(t: Array) -> Array:
    """phi(t) / Phi(t), stable far into the tail."""
    return np.asarray(np.exp(-0.5 * t * t - 0.5 * np.log(2 * np.pi) - log_ndtr(t)))
