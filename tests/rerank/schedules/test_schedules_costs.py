"""Comparisons and rounds against the published counts, and the right answer from a judge who never errs."""

from itertools import permutations

import numpy as np
import pytest
from sparring.rerank import registry
from sparring.rerank.contracts.schedules import answers as utility_oracle
from sparring.rerank.contracts.schedules import made_up as collection
from sparring.rerank.contracts.schedules import played as play
from sparring.rerank.schedules.asking import Task
from sparring.rerank.schedules.champions import _champions
from sparring.rerank.schedules.sorts import _bubblesort, _heapsort


def mean_cost(spec: str, n: int = 100, noise: float = 1.0, trials: int = 20) -> tuple[float, float]:
    """Groups asked and rounds, over seeded collections."""
    schedule = registry.schedules.parse(spec)
    costs = []
    for seed in range(trials):
        utility, prior = collection(n, seed, noise)
        asked, _ = play(schedule, prior, utility_oracle(utility), seed)
        costs.append((sum(map(len, asked)), len(asked)))
    return tuple(np.mean(costs, axis=0))


def wanted(task: Task[list[int]], utility: np.ndarray) -> int:
    """Comparisons an algorithm makes without remembering any."""
    count, reply = 0, None
    try:
        while True:
            pairs = next(task) if reply is None else task.send(reply)
            count += len(pairs)
            reply = [float(utility[a] > utility[b]) for a, b in pairs]
    except StopIteration:
        return count


@pytest.mark.parametrize("n", [2, 5, 9, 40, 100])
@pytest.mark.parametrize(
    "spec",
    ["heapsort", "quickselect", "bubblesort", "mergesort", "mergesort(beam=4)", "group_champions", "knockout(k=10)",
     "tournament", "tournament(m=4, r=3, striped=False)", "sliding(size=20, stride=10)"],
)  # fmt: skip
def test_a_judge_who_never_errs_gets_the_true_top_ten(spec: str, n: int) -> None:
    for seed in range(5):
        utility, prior = collection(n, seed, noise=2.0)
        _, final = play(registry.schedules.parse(spec), prior, utility_oracle(utility), seed)
        assert final is not None
        np.testing.assert_array_equal(final[:10], np.argsort(-utility)[:10])


@pytest.mark.parametrize(("noise", "heap", "bubble"), [(0.5, 223, 574), (1, 244, 691), (3, 266, 784)])
def test_heapsort_and_bubblesort_cost_what_is_published(noise: float, heap: int, bubble: int) -> None:
    order = list(range(100))
    utilities = [collection(100, seed, noise)[0] for seed in range(40)]
    assert abs(np.mean([wanted(_heapsort(order[:], 10), u) for u in utilities]) - heap) < 0.03 * heap
    assert {wanted(_bubblesort(order[:], 10), u) for u in utilities} == {945}
    distinct, rounds = mean_cost("bubblesort", noise=noise)
    assert abs(distinct - bubble) < 0.04 * bubble
    assert rounds <= 99 + 2 * 9
    assert mean_cost("heapsort", noise=noise)[0] < heap  # repeated pairs are not asked again


@pytest.mark.parametrize(("noise", "published"), [(0.5, 179), (1, 197), (3, 216)])
def test_quickselect_with_the_prior_pivot(noise: float, published: int) -> None:
    calls, rounds = mean_cost("quickselect", noise=noise, trials=120)
    assert abs(calls - published) < 0.1 * published
    assert rounds <= 10


def test_mergesort_stays_within_its_bound() -> None:
    for n, bound in ((50, 237), (100, 573)):
        for seed in range(5):
            utility, prior = collection(n, seed, noise=100.0)
            asked, _ = play(registry.schedules.parse("mergesort"), prior, utility_oracle(utility))
            assert sum(map(len, asked)) <= bound


def test_the_gate_opens_the_beam_only_where_the_judge_is_unsure() -> None:
    utility, prior = collection(40)
    sure = utility_oracle(utility)
    unsure = utility_oracle(utility, noise=2.0)
    greedy, wide = (registry.schedules.parse(s) for s in ("mergesort", "mergesort(beam=20)"))
    for oracle, more in ((sure, False), (unsure, True)):
        counts = [sum(map(len, play(s, prior, oracle)[0])) for s in (greedy, wide)]
        assert (counts[1] > counts[0]) == more


def test_group_champions_and_brackets() -> None:
    utility, _ = collection(100, 0)
    assert 190 < wanted(_champions(100, 10), utility) < 230
    calls, _ = mean_cost("group_champions")
    assert calls <= 90 + 33 + 60  # n - k, k log2 k and (k - 1)(log2(n/k) + log2 k), nothing asked twice
    assert mean_cost("knockout") == (99, 7)
    assert mean_cost("knockout(k=10)")[0] <= 99 + 10 * np.log2(100)
    brackets, rounds = mean_cost("knockout(brackets=4)")
    assert 0.85 * 4 * 99 < brackets <= 4 * 99 and rounds <= 7


@pytest.mark.parametrize(
    ("spec", "n", "low", "high"),
    [("tournament(m=5, r=1)", 100, 52, 52), ("tournament(m=5, r=2)", 100, 80, 94),
     ("tournament(m=10, r=2)", 100, 40, 40), ("tournament(m=20, r=2)", 100, 24, 24),
     ("tournament(m=5, r=2)", 1000, 380, 425), ("tournament(m=20, r=2)", 1000, 83, 84),
     ("tournament(m=5, r=1, k=1)", 100, 25, 25), ("tournament(m=5, r=2, k=1)", 100, 34, 35),
     ("tournament(m=10, r=2, k=1)", 100, 13, 13), ("tournament(m=20, r=2, k=1)", 100, 6, 6)],
)  # fmt: skip
def test_tournament_calls(spec: str, n: int, low: int, high: int) -> None:
    calls, _ = mean_cost(spec, n, trials=5)
    assert low <= calls <= high


def test_swiss_rounds() -> None:
    utility, prior = collection(100)
    asked, _ = play(registry.schedules.parse("swiss(rounds=20)"), prior, utility_oracle(utility, 1.0))
    assert len(asked) == 20 and sum(map(len, asked)) >= 950
    for matches in asked:  # nobody plays twice in a round
        assert len(np.unique(matches)) == matches.size


@pytest.mark.parametrize(
    ("spec", "n", "first_order", "second_order"),
    [("blocks(size=10, design=latin)", 100, 0.18, 0.56), ("blocks(size=10)", 100, 0.17, 0.46),
     ("blocks(size=10, replicas=3)", 100, 0.25, 0.71), ("blocks(size=10, design=triangular)", 55, 0.33, 0.72),
     ("blocks(size=20)", 100, 0.35, 0.82), ("blocks(size=20, replicas=4)", 100, 0.57, 0.94)],
)  # fmt: skip
def test_coverage_of_block_designs(spec: str, n: int, first_order: float, second_order: float) -> None:
    """First order: pairs that met. Second order: also those known through one that lies between them."""
    found = []
    for seed in range(10):
        oracle = utility_oracle(np.random.default_rng(seed).normal(size=n))
        (groups,), _ = play(registry.schedules.parse(spec), np.zeros(n), oracle, seed)
        utility = oracle(np.arange(n)[None, :], None)[0]
        beats = np.zeros((n, n))
        for block in groups:
            for a, b in permutations(block[block >= 0], 2):
                beats[a, b] = utility[a] > utility[b]
        pairs = n * (n - 1) / 2
        found.append((beats.sum() / pairs, ((beats + beats @ beats) > 0).sum() / pairs))
    np.testing.assert_allclose(np.mean(found, axis=0), (first_order, second_order), atol=0.06)


@pytest.mark.parametrize("n", [7, 23, 50, 100])
@pytest.mark.parametrize("design", ["equi", "latin", "triangular", "sliding"])
@pytest.mark.parametrize("striped", [False, True])
def test_blocks_connect_everyone(design: str, striped: bool, n: int) -> None:
    for size in (2, 5, 10):
        schedule = registry.schedules.parse(f"blocks(size={size}, design={design}, striped={striped})")
        for seed in range(5):
            (groups,), _ = play(schedule, np.zeros(n), lambda g, w: np.zeros(g.shape), seed)
            reach = np.eye(n)
            for block in groups:
                members = block[block >= 0]
                reach[np.ix_(members, members)] = 1
            assert (np.linalg.matrix_power(reach, n) > 0).all()


def test_equi_replicate_blocks_use_everyone_equally() -> None:
    (groups,), _ = play(registry.schedules.parse("blocks(size=10, replicas=3)"), np.zeros(50), lambda g, w: g, 1)
    assert (np.bincount(groups.ravel()) == 3).all()


def test_striped_blocks_hold_candidates_from_everywhere() -> None:
    schedule = registry.schedules.parse("blocks(size=10, replicas=1, striped=True)")
    (groups,), _ = play(schedule, np.zeros(100), lambda g, w: g, 1)
    for block in groups[:10]:
        assert sorted(block // 10) == list(range(10))


def test_static_samples_have_the_size_they_are_asked_for() -> None:
    for spec, calls in (("random(rate=0.1)", 245), ("random_global(rate=0.1)", 245), ("window(m=7)", 350),
                        ("window(m=7, skip=10)", 350), ("biased_random(rate=0.04)", 98), ("all", 2450),
                        ("anchors(count=5)", 235), ("grouped(groups=5)", 5 * 45 + 4 * 100)):  # fmt: skip
        assert mean_cost(spec, 50, trials=2) == (calls, 1)


def test_random_opponents_are_shared_out_fairly() -> None:
    (pairs,), _ = play(registry.schedules.parse("random(rate=0.1)"), np.zeros(50), lambda g, w: np.zeros(len(g)))
    firsts = np.bincount(pairs[:, 0], minlength=50)
    assert firsts.max() - firsts.min() <= 1


def test_biased_samples_lean_the_way_they_say() -> None:
    def sample(spec: str) -> np.ndarray:
        return play(registry.schedules.parse(spec), np.zeros(60), lambda g, w: np.zeros(len(g)))[0][0]

    def gap(pairs: np.ndarray) -> float:
        return float(np.abs(pairs[:, 0] - pairs[:, 1]).mean())

    assert (
        gap(sample("random_global(exponent=-2)"))
        < gap(sample("random_global"))
        < gap(sample("random_global(exponent=2)"))
    )
    assert gap(sample("biased_random(spread=20)")) < gap(sample("biased_random(spread=0)"))
    assert sample("biased_random(bias=5)").mean() < sample("biased_random(bias=0)").mean()
