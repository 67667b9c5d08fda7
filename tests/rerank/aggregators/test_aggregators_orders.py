"""Orders and tours: the best of all where that can be counted, and no single move improves the rest."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from games import run, soft
from scipy.optimize import Bounds, LinearConstraint, milp
from sparring.rerank.aggregators.kemeny import best_insertions, contradicted, exact_order
from sparring.rerank.aggregators.kwiksort import _quicksort
from sparring.rerank.aggregators.tsp import held_karp, improve, tour_worth


def net_wins(seed: int, size: int) -> np.ndarray:
    upper = np.triu(np.random.default_rng(seed).normal(size=(size, size)), 1)
    return upper - upper.T


@pytest.mark.parametrize("seed", range(4))
def test_exact_kemeny_is_the_best_of_all_orders(seed):
    net = net_wins(seed, 6)
    best = min(contradicted(net, np.array(order)) for order in itertools.permutations(range(6)))
    assert contradicted(net, exact_order(net, np.arange(6))) == pytest.approx(best, abs=1e-9)


@pytest.mark.parametrize("seed", range(2))
def test_exact_kemeny_equals_the_full_integer_programme(seed):
    size = 9
    net = net_wins(seed, size)
    pairs = {pair: place for place, pair in enumerate(itertools.permutations(range(size), 2))}
    rows = []
    for i, j in itertools.combinations(range(size), 2):
        rows.append((np.bincount([pairs[i, j], pairs[j, i]], minlength=len(pairs)), 1, 1))
    for i, j, k in itertools.permutations(range(size), 3):
        rows.append((np.bincount([pairs[i, j], pairs[j, k], pairs[k, i]], minlength=len(pairs)), 1, 2))
    matrix, low, high = zip(*rows, strict=True)
    cost = [max(net[j, i], 0) for i, j in pairs]
    found = milp(
        cost,
        integrality=np.ones(len(pairs)),
        bounds=Bounds(0, 1),
        constraints=LinearConstraint(np.array(matrix), low, high),
    )
    assert contradicted(net, exact_order(net, np.arange(size))) == pytest.approx(found.fun, abs=1e-6)


@pytest.mark.parametrize("seed", range(3))
def test_no_single_move_improves_local_kemenisation(seed):
    net = net_wins(seed, 10)
    order = best_insertions(net[None], np.arange(10)[None])[0]
    cost = contradicted(net, order)
    for source, target in itertools.permutations(range(10), 2):
        moved = np.insert(np.delete(order, source), target, order[source])
        assert contradicted(net, moved) >= cost - 1e-9


def test_exact_kemeny_is_never_worse_than_local():
    said = soft(5, size=14, games=150)
    wins, games, _ = said.dense()
    net = (2 * wins - games)[0]
    local, exact = (np.argsort(-run(spec, said), kind="stable") for spec in ("kemeny", "kemeny(exact=True)"))
    assert contradicted(net, exact) <= contradicted(net, local) + 1e-9


@pytest.mark.parametrize("seed", range(3))
def test_held_karp_is_the_best_of_all_tours_and_local_moves_come_close(seed):
    worth = np.random.default_rng(seed).random((1, 7, 7))
    orders = np.array(list(itertools.permutations(range(7))))
    best = tour_worth(np.repeat(worth, len(orders), axis=0), orders).max()
    start = np.arange(7)[None]
    assert tour_worth(worth, held_karp(worth, start))[0] == pytest.approx(best)
    local = improve(worth, start)
    assert sorted(local[0]) == list(range(7))
    assert tour_worth(worth, start)[0] < tour_worth(worth, local)[0] <= best + 1e-9


@pytest.mark.parametrize("seed", range(3))
def test_local_tours_admit_no_better_reversal_or_shift(seed):
    worth = np.random.default_rng(seed).random((1, 18, 18))
    order = improve(worth, np.arange(18)[None])[0]
    value = tour_worth(worth, order[None])[0]
    for i, j in itertools.combinations(range(19), 2):
        turned = np.concatenate([order[:i], order[i:j][::-1], order[j:]])
        assert tour_worth(worth, turned[None])[0] <= value + 1e-9
    for source, target in itertools.permutations(range(18), 2):
        moved = np.insert(np.delete(order, source), target, order[source])
        assert tour_worth(worth, moved[None])[0] <= value + 1e-9


def test_greedy_follows_the_published_loop():
    said = soft(6, size=10, games=60)
    wins = said.dense()[0][0]
    left, order = set(range(10)), []
    while left:
        best = max(left, key=lambda v: (sum(wins[v, u] - wins[u, v] for u in left), -v))
        order.append(best)
        left.remove(best)
    assert np.argsort(-run("greedy", said), kind="stable").tolist() == order


@pytest.mark.parametrize("seed", range(5))
def test_quicksort_in_rounds_is_quicksort(seed):
    rng = np.random.default_rng(seed)
    size = 9
    upper = np.triu(rng.random((size, size)) < 0.5, 1)
    ahead = upper | np.tril(~upper.T, -1)
    turn = rng.permutation(size)

    def sort(items):
        if not items:
            return []
        pivot = min(items, key=lambda i: turn[i])
        before = [i for i in items if i != pivot and ahead[i, pivot]]
        after = [i for i in items if i != pivot and not ahead[i, pivot]]
        return [*sort(before), pivot, *sort(after)]

    found = _quicksort(ahead[None], turn[None])[0]
    assert np.argsort(-found).tolist() == sort(list(range(size)))
