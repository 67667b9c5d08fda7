"""Aggregators that walk at random from losers to winners: PageRank and rank centrality."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from ..pairs.solving import solve
from ..pairs.table import Array, Table, check_prior, ratio, tally
from ..registry import aggregators
from ..vocabulary import Preferences


@aggregators.register("pagerank")
@dataclass(frozen=True)
class PageRank:
    """The time that a surfer who follows edges from losers to winners spends at each candidate (sums to 1).

    Edges of several comparisons add up; a candidate that never lost sends its surfer anywhere. The linear
    system is solved exactly, no power iteration. Reversing the outcomes gives the walk to the losers, which
    need not be the reverse; ``two_sided`` scores by the log ratio of both walks and makes it so.
    Source: Page et al. 1999; for preferences Gienapp et al., ICTIR 2022.

    Args:
        damping: probability of following an edge.
        edges: what a comparison adds. "margin": |2p - 1| from loser to winner, so that a tie adds nothing;
            "winner": max(p, 1 - p), as published, nothing for a tie; "wins": p and 1 - p in both directions.
        prior: pulls the teleport towards the first stage: softmax(prior * z) instead of uniform.
        two_sided: log of the winners' walk minus log of the losers' walk.
    """

    damping: float = 0.85
    edges: Literal["margin", "winner", "wins"] = "margin"
    prior: float = 0.0
    two_sided: bool = False

    def __post_init__(self) -> None:
        check_prior(self.prior)
        if not 0 <= self.damping < 1:
            raise ValueError(f"damping must lie in [0, 1), found {self.damping}")

    def __call__(self, preferences: Preferences) -> Array:
        return solve(preferences, self._scores, noise=1e-10 if self.two_sided else 1e-13)

    def _scores(self, table: Table) -> Array:
        won = self._edges(table)  # won[i, j]: what flows from j to i
        rank = _walk(won, teleport(table, self.prior), table, self.damping)
        if not self.two_sided:
            return rank
        losers = _walk(won.transpose(0, 2, 1), teleport(table, -self.prior), table, self.damping)
        return np.where(table.mask, np.log(np.where(table.mask, rank / np.where(table.mask, losers, 1), 1)), 0)

    def _edges(self, table: Table) -> Array:
        if self.edges == "wins":
            return table.wins
        said = table.preferences
        margin = np.abs(2 * said.probability - 1)
        value = table.weight * (margin if self.edges == "margin" else (1 + margin) / 2 * (margin > 1e-12))
        first_won = said.probability > 0.5
        winner = np.where(first_won, said.first, said.second).astype(np.int64)
        loser = np.where(first_won, said.second, said.first)
        count, n = table.mask.shape
        return tally((table.topic * n + winner) * n + loser, value, (count, n, n))


@aggregators.register("rank_centrality")
@dataclass(frozen=True)
class RankCentrality:
    """The log of the stationary distribution of a walk from j to i at the rate at which i beat j.

    Transition j → i has probability (share of the games of i and j that i won) / (largest number of opponents
    of any candidate); the rest stays. Normalising by the largest degree rather than each own keeps ties neutral
    and works on sparse graphs. Log scores are centred per topic.
    Source: Negahban, Oh, Shah, Operations Research 65(1), 2017.

    Args:
        smoothing: games won added to both sides of every observed pair, against infinite strengths.
        teleport: probability of starting anew, which makes disconnected graphs fine.
        prior: pulls the restart towards the first stage: softmax(prior * z) instead of uniform.
        two_sided: half the difference to the walk towards the losers, so that reversing reverses.
    """

    smoothing: float = 0.1
    teleport: float = 0.05
    prior: float = 0.0
    two_sided: bool = False

    def __post_init__(self) -> None:
        check_prior(self.prior)
        if self.smoothing < 0:
            raise ValueError(f"smoothing must be 0 or more, found {self.smoothing}")
        if not 0 < self.teleport <= 1:
            raise ValueError(f"teleport must lie in (0, 1], found {self.teleport}")

    def __call__(self, preferences: Preferences) -> Array:
        return solve(preferences, self._scores)

    def _scores(self, table: Table) -> Array:
        met = table.games > 0
        smooth = ratio(table.wins + self.smoothing * met, table.games + 2 * self.smoothing * met)
        rate = np.where(met, smooth, 0.0)
        degree = np.maximum(met.sum(axis=2).max(axis=1), 1)[:, None, None]
        up = _log_stationary(rate / degree, table, self.teleport, self.prior)
        if not self.two_sided:
            return up
        down = _log_stationary(rate.transpose(0, 2, 1) / degree, table, self.teleport, -self.prior)
        return (up - down) / 2


def teleport(table: Table, weight: float) -> Array:
    """Where a restarted walk begins: softmax(weight * z) over the real candidates, (q, n)."""
    share = np.exp(weight * (table.prior - table.prior.max(axis=1, keepdims=True))) * table.mask
    return np.asarray(share / share.sum(axis=1, keepdims=True))


def _walk(flow: Array, restart: Array, table: Table, damping: float) -> Array:
    """PageRank of edges ``flow[i, j]`` from j to i, (q, n); candidates without out-edges restart."""
    out = flow.sum(axis=1, keepdims=True)
    step = np.divide(flow, out, out=np.zeros_like(flow), where=out > 0)
    dangling = (out[:, 0] <= 0) & table.mask
    step += restart[:, :, None] * dangling[:, None, :]
    system = np.eye(flow.shape[1]) - damping * step
    return np.linalg.solve(system, (1 - damping) * restart[:, :, None])[:, :, 0]


def _log_stationary(rate: Array, table: Table, restart: float, prior: float) -> Array:
    """Centred log stationary distribution of the walk with ``rate[i, j]`` from j to i, staying otherwise."""
    n = rate.shape[1]
    diagonal = np.arange(n)
    system = -(1 - restart) * rate
    system[:, diagonal, diagonal] += (1 - restart) * rate.sum(axis=1) + restart
    mass = np.linalg.solve(system, restart * teleport(table, prior)[:, :, None])[:, :, 0]
    logs = np.log(np.where(table.mask, np.maximum(mass, 1e-300), 1.0))
    return np.where(table.mask, logs - logs.sum(axis=1, keepdims=True) / table.sizes[:, None], 0.0)
