"""Kemeny: the order that contradicts the least preference weight, by local search or exactly."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..pairs.solving import solve
from ..pairs.table import Array, Table, check_prior, from_order, ratio
from ..registry import aggregators
from ..vocabulary import Preferences

EXACT_LIMIT = 40
"""Candidates up to which the integer programme is solved."""


@aggregators.register("kemeny")
@dataclass(frozen=True)
class Kemeny:
    """An order with little weight of contradicted comparisons: local Kemenisation by best insertions.

    Starts from the win rates and moves, as long as anything improves, the candidate whose move to another
    place helps most (adjacent swaps included), so that no single move can improve the result. The score is
    the number of candidates below.
    Source: Kemeny 1959; Dwork, Kumar, Naor, Sivakumar, WWW 2001.

    Args:
        exact: solve topics of up to 40 candidates to the optimum as an integer programme (seconds each).
        prior: games that every candidate plays against all others as the first stage predicts.
    """

    exact: bool = False
    prior: float = 0.0

    def __post_init__(self) -> None:
        check_prior(self.prior)

    def __call__(self, preferences: Preferences) -> Array:
        return solve(preferences, self._scores)

    def _scores(self, table: Table) -> Array:
        wins, games = table.with_prior(self.prior)
        net = 2 * wins - games
        rate = np.where(table.mask, np.round(ratio(wins.sum(axis=2), games.sum(axis=2)), 9), -1.0)
        order = np.argsort(-rate, axis=1, kind="stable")
        order = best_insertions(net, order)
        if self.exact:
            for topic, size in enumerate(table.sizes):
                if 2 < size <= EXACT_LIMIT:
                    order[topic, :size] = exact_order(net[topic, :size, :size], order[topic, :size])
        return from_order(order, table.sizes)


def contradicted(net: Array, order: NDArray[np.int64]) -> float:
    """Weight that an order of one topic contradicts beyond the unavoidable: -net over pairs it gets wrong."""
    ranked = net[np.ix_(order, order)]
    return float(np.maximum(-np.triu(ranked, 1), 0).sum())


def best_insertions(net: Array, order: NDArray[np.int64]) -> NDArray[np.int64]:
    """Moves single candidates to the place that gains most until no move gains, all topics side by side.

    Args:
        net: antisymmetric net wins, (q, n, n), 0 for padding.
        order: candidates best first, (q, n), padding last.
    """
    order = order.copy()
    count, n = order.shape
    active = np.arange(count)
    places = np.arange(n)
    tolerance = 1e-9 * (1 + np.abs(net).max(axis=(1, 2)))
    while len(active):
        current = order[active]
        ranked = np.take_along_axis(net[active], current[:, :, None], axis=1)
        ranked = np.take_along_axis(ranked, current[:, None, :], axis=2)
        # what row a gains by jumping over column k: forwards when k stands before it, backwards after it
        over = np.where(places[:, None] > places[None, :], ranked, -ranked)
        reach = np.cumsum(over, axis=2)
        own = reach[:, places, places][:, :, None]
        earlier = np.concatenate([np.zeros_like(own), reach[:, :, :-1]], axis=2)
        gain = np.where(places[:, None] > places[None, :], own - earlier, reach - own)
        flat = gain.reshape(len(active), -1)
        best = np.argmax(flat >= flat.max(axis=1, keepdims=True) - 1e-12, axis=1)
        helps = flat[np.arange(len(active)), best] > tolerance[active]
        active, best, current = active[helps], best[helps], current[helps]
        if not len(active):
            break
        source, target = best // n, best % n
        order[active] = np.take_along_axis(current, _moved(source, target, n), axis=1)
    return order


def _moved(source: NDArray[np.int64], target: NDArray[np.int64], n: int) -> NDArray[np.int64]:
    """The permutation that takes place ``source`` out and puts it in at ``target``, per topic (q, n)."""
    places = np.broadcast_to(np.arange(n), (len(source), n))
    source, target = source[:, None], target[:, None]
    shifted = np.where((places >= target) & (places < source), places + 1, places)
    shifted = np.where((places > source) & (places <= target), places - 1, shifted)
    moved = np.empty_like(shifted)
    np.put_along_axis(moved, np.where(places == source, target, shifted), places, axis=1)
    return moved


def exact_order(net: Array, start: NDArray[np.int64]) -> NDArray[np.int64]:
    """The order of least contradicted weight of one topic, by integer programming with lazy triangle cuts.

    Variable x_ij for i < j says that i stands before j; every triple must be free of cycles. Cuts are added
    as they are violated. Among optima of equal weight the solver's choice is arbitrary but deterministic;
    ``start`` is returned when it is as good.
    """
    from scipy.optimize import Bounds, LinearConstraint, milp
    from scipy.sparse import csr_array

    n = len(net)
    left, right = np.triu_indices(n, 1)
    index = np.zeros((n, n), np.int64)
    index[left, right] = np.arange(len(left))
    cuts: list[tuple[int, int, int, float, float]] = []
    while True:
        rows = np.repeat(np.arange(len(cuts)), 3)
        columns = np.array([cut[:3] for cut in cuts], np.int64).ravel()
        signs = np.tile([1.0, 1.0, -1.0], len(cuts))
        limits = None
        if cuts:
            matrix = csr_array((signs, (rows, columns)), shape=(len(cuts), len(left)))
            limits = LinearConstraint(matrix, [cut[3] for cut in cuts], [cut[4] for cut in cuts])
        found = milp(
            -net[left, right], integrality=np.ones(len(left), np.int64), bounds=Bounds(0, 1), constraints=limits
        )
        if found.x is None:
            raise RuntimeError(f"the integer programme of an order of {n} candidates failed: {found.message}")
        before = np.zeros((n, n), dtype=bool)
        before[left, right] = found.x > 0.5
        before[right, left] = found.x <= 0.5
        one, two, three = (axis.ravel() for axis in np.meshgrid(*[np.arange(n)] * 3, indexing="ij"))
        rising = (one < two) & (two < three)
        one, two, three = one[rising], two[rising], three[rising]
        path = before[one, two].astype(int) + before[two, three] - before[one, three]
        wrong = np.flatnonzero((path < 0) | (path > 1))  # 0 <= x_ij + x_jk - x_ik <= 1
        if not len(wrong):
            break
        for i, j, k in zip(one[wrong], two[wrong], three[wrong], strict=True):
            cuts.append((int(index[i, j]), int(index[j, k]), int(index[i, k]), 0.0, 1.0))
    order = np.argsort(-before.sum(axis=1), kind="stable")
    tolerance = 1e-9 * (1 + np.abs(net).sum())
    return start if contradicted(net, start) <= contradicted(net, order) + tolerance else order
