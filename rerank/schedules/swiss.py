"""Tournaments without elimination: everyone keeps meeting opponents of like standing."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

from .. import registry
from ..pairs.solving import by_order
from .asking import Rounds, answered, require

register = registry.schedules.register
Array = NDArray[np.float64]


@register("swiss")
@dataclass(frozen=True)
class Swiss:
    """Every round, everyone meets the nearest neighbour in the standings not met before (PRP-Graph, ACL 2024).

    Scores start at 1 - 0.01 rank; in round t a candidate gains P(it wins) times the opponent's score / t. About
    n/2 pairs per round. Ranked by the aggregator (PageRank in the paper).

    Args:
        rounds: how many rounds.
    """

    rounds_: int = 10
    width: ClassVar[int | None] = 2
    oriented: ClassVar[bool] = False

    def __post_init__(self) -> None:
        require(self.rounds_ >= 1, "rounds must be at least 1")

    def rounds(self, prior: Array, rng: np.random.Generator) -> Rounds[None]:
        n = len(prior)
        score = 1 - 0.01 * np.arange(n)
        met = np.eye(n, dtype=np.bool_)
        for turn in range(1, self.rounds_ + 1):
            matches = _neighbours(np.argsort(-score, kind="stable"), met)
            if not len(matches):
                return
            first, second = matches.T
            met[first, second] = met[second, first] = True
            win = answered((yield matches))
            gain = win * score[second], (1 - win) * score[first]
            score[first] += gain[0] / turn
            score[second] += gain[1] / turn

    def at_budget(self, calls: int, n: int) -> Swiss:
        """As many rounds as ``calls`` pay for among ``n`` candidates, at least one."""
        return replace(self, rounds_=max(1, calls // max(1, n // 2)))


@register("kwise")
@dataclass(frozen=True)
class Kwise:
    """Groups of like skill play all against all, and skills are Gaussian beliefs (K-Sort Arena, CVPR 2025).

    A ranking of ``size`` is taken as its pairs in a TrueSkill-type update. Groups are cut from the order of
    skills drawn from the beliefs: the well-known meet their equals, the unknown roam. Returns the final order.

    Args:
        size: candidates per group.
        rounds: how many rounds of n / size groups.
        alpha: how far the first-stage z-scores move the initial skills, in units of their deviation.
    """

    size: int = 4
    rounds_: int = 4
    alpha: float = 1.0
    width: ClassVar[int | None] = None
    oriented: ClassVar[bool] = True

    def __post_init__(self) -> None:
        require(self.size >= 2 and self.rounds_ >= 1, "size must be at least 2 and rounds at least 1")

    def rounds(self, prior: Array, rng: np.random.Generator) -> Rounds[NDArray[np.int32]]:
        n = len(prior)
        mean, variance = self.alpha * zscore(prior), np.ones(n)
        asked: set[frozenset[int]] = set()
        for _ in range(self.rounds_ if n > 1 else 0):
            order = np.argsort(-(mean + np.sqrt(variance) * rng.standard_normal(n)), kind="stable")
            count = -(-n // self.size)
            groups = np.full((count, min(self.size, n)), -1, np.int32)
            groups.ravel()[: min(n, groups.size)] = order
            fresh = [g for g in groups if (g >= 0).sum() > 1 and frozenset(g.tolist()) not in asked]
            if not fresh:
                continue
            asked.update(frozenset(g.tolist()) for g in fresh)
            matches = np.array(fresh, np.int32)
            _update(mean, variance, matches, (yield matches))
        return np.argsort(-mean, kind="stable").astype(np.int32)

    def at_budget(self, calls: int, n: int) -> Kwise:
        """As many rounds as ``calls`` pay for in pairs among ``n`` candidates, at least one."""
        size = min(self.size, n)
        full, rest = divmod(n, max(size, 1))
        cost = full * (size * (size - 1) // 2) + rest * (rest - 1) // 2
        return replace(self, rounds_=max(1, calls // max(cost, 1)))


def zscore(prior: Array) -> Array:
    """First-stage scores with mean 0 and deviation 1; zeros where all are equal.

    Where some are infinite, or too large to be squared, their order alone counts.
    """
    if not len(prior):
        return np.zeros(0)
    filled = prior if (np.abs(prior) < 1e150).all() else by_order(prior)
    deviation = filled.std()
    if deviation <= 1e-12 * max(1.0, np.abs(filled).max()):
        return np.zeros(len(prior))
    return np.asarray((filled - filled.mean()) / deviation)


def _neighbours(order: NDArray[np.int64], met: NDArray[np.bool_]) -> NDArray[np.int32]:
    """Pairs from the top down, each with the nearest free candidate not met before."""
    free = [int(item) for item in order]
    matches = []
    while free:
        item = free.pop(0)
        opponent = next((other for other in free if not met[item, other]), None)
        if opponent is not None:
            free.remove(opponent)
            matches.append((item, opponent))
    return np.array(matches, np.int32).reshape(-1, 2)


def _update(mean: Array, variance: Array, groups: NDArray[np.int32], scores: Array) -> None:
    """Gaussian skills after all pairs of every group, each pair seen from the beliefs before the round."""
    before, spread = mean.copy(), variance.copy()
    for left, right in zip(*np.triu_indices(groups.shape[1], 1), strict=True):
        first, second = groups[:, left], groups[:, right]
        margin = scores[:, left] - scores[:, right]
        decided = np.nan_to_num(margin) != 0
        won = margin[decided] > 0
        winner = np.where(won, first[decided], second[decided])
        loser = np.where(won, second[decided], first[decided])
        scale = np.sqrt(2 * _BETA**2 + spread[winner] + spread[loser])
        t = (before[winner] - before[loser]) / scale
        v = np.exp(-(t**2) / 2) / np.sqrt(2 * np.pi) / np.maximum(ndtr(t), 1e-12)
        shrink = v * (v + t)
        mean[winner] += spread[winner] * v / scale
        mean[loser] -= spread[loser] * v / scale
        variance[winner] *= np.maximum(1 - spread[winner] * shrink / scale**2, 1e-3)
        variance[loser] *= np.maximum(1 - spread[loser] * shrink / scale**2, 1e-3)


_BETA = 0.5
"""Deviation of one performance around the skill, half of the initial deviation of skills as in TrueSkill."""
