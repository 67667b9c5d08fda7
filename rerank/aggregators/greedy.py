"""Greedy ordering by potential (Cohen, Schapire, Singer 1999)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..pairs.solving import solve
from ..pairs.table import Array, Table, check_prior, from_order
from ..registry import aggregators
from ..vocabulary import Preferences


@aggregators.register("greedy")
@dataclass(frozen=True)
class Greedy:
    """Takes the candidate that beats the remaining ones by most, removes it, and repeats: O(n^2) per topic.

    The potential of v is the sum over remaining u of P(v beats u) - P(u beats v), for pairs that were compared;
    what was not compared is neutral. The score is the number of candidates taken later.
    The choice looks at the top first, so reversing contradictory outcomes need not reverse the order;
    ``two_sided`` takes the mean with the mirror image and makes it so.
    Source: Cohen, Schapire, Singer, JAIR 10, 1999.

    Args:
        prior: games that every candidate plays against all others as the first stage predicts.
        two_sided: average the positions of taking the best first and taking the worst first.
    """

    prior: float = 0.0
    two_sided: bool = False

    def __post_init__(self) -> None:
        check_prior(self.prior)

    def __call__(self, preferences: Preferences) -> Array:
        return solve(preferences, self._scores)

    def _scores(self, table: Table) -> Array:
        wins, _ = table.with_prior(self.prior)
        net = wins - wins.transpose(0, 2, 1)
        best_first = from_order(_peel(net, table.mask), table.sizes)
        if not self.two_sided:
            return best_first
        mirrored = _peel(-net[:, ::-1, ::-1], table.mask[:, ::-1])
        worst_first = from_order(net.shape[1] - 1 - mirrored, table.sizes)
        return (best_first - worst_first) / 2


def _peel(net: Array, mask: NDArray[np.bool_]) -> NDArray[np.int64]:
    count, n = mask.shape
    rows = np.arange(count)
    potential = np.where(mask, net.sum(axis=2), -1e300)  # padding goes last
    tolerance = 1e-9 * (1 + np.abs(net).max(axis=(1, 2)))[:, None]
    order = np.empty((count, n), np.int64)
    for place in range(n):
        best = np.argmax(potential >= potential.max(axis=1)[:, None] - tolerance, axis=1)
        order[:, place] = best
        potential += net[rows, best]
        potential[rows, best] = -np.inf
    return order
