"""What every registered aggregator promises: finite scores, equivariance, reversal, prior order, batches."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy.special import expit
from sparring.rerank.errors import UsageError
from sparring.rerank.pairs.solving import solve
from sparring.rerank.registry import aggregators
from sparring.rerank.vocabulary import Preferences

NAMES = aggregators.names()


def ranking(scores: np.ndarray) -> list[int]:
    """Positions best first, equal scores by position."""
    return np.argsort(-scores, kind="stable").tolist()


def topic(size, first, second, probability, prior=None, weight=None, source=None) -> Preferences:
    def column(values, dtype):
        return None if values is None else np.asarray(values, dtype)

    return Preferences(
        sizes=np.array([size]),
        offsets=np.array([0, len(first)]),
        first=np.asarray(first, np.int32),
        second=np.asarray(second, np.int32),
        probability=np.asarray(probability, float),
        weight=column(weight, float),
        prior=column(prior, float),
        source=column(source, np.int32),
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


def complete(size: int, order: np.ndarray, seed: int, slope: float = 0.3) -> Preferences:
    """Every pair once, shown in a random order, the better by ``order`` always preferred."""
    rng = np.random.default_rng(seed)
    first, second = np.triu_indices(size, 1)
    flip = rng.random(len(first)) < 0.5
    first, second = np.where(flip, second, first), np.where(flip, first, second)
    place = np.argsort(order)
    gap = place[second] - place[first]
    return topic(size, first, second, expit(gap * slope))


@pytest.fixture(params=NAMES)
def aggregator(request):
    return aggregators.parse(request.param)


@pytest.mark.parametrize("name", NAMES)
def test_prints_back_as_written(name):
    assert str(aggregators.parse(name)) == name


@settings(deadline=None, max_examples=6)
@given(seed=st.integers(0, 10**6), size=st.integers(1, 9), games=st.integers(0, 25), prior=st.booleans())
@pytest.mark.parametrize("name", NAMES)
def test_every_candidate_gets_a_finite_score(name, seed, size, games, prior):
    said = some(seed, size, games if size > 1 else 0, prior)
    scores = aggregators.parse(name)(said)
    assert scores.shape == (size,) and scores.dtype == np.float64 and np.isfinite(scores).all()


def test_no_topics_no_candidates_no_comparisons(aggregator):
    empty = Preferences(np.empty(0, np.int64), np.zeros(1, np.int64), *[np.empty(0, np.int32)] * 2, np.empty(0))
    assert aggregator(empty).shape == (0,)
    hollow = Preferences.join([topic(0, [], [], []), some(1, 5, 9, prior=False), topic(0, [], [], [])])
    assert aggregator(hollow).shape == (5,)
    assert aggregator(topic(1, [], [], [])).shape == (1,)


@settings(deadline=None, max_examples=5)
@given(prior=st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=8))
@example(prior=[-6e-235, 0.0])
@example(prior=[1e6, 1e6 + 1e-9])
@example(prior=[1e300, -1e300, 1e299])
@pytest.mark.parametrize("name", NAMES)
def test_without_data_the_order_is_the_prior_order(name, prior):
    scores = aggregators.parse(name)(topic(len(prior), [], [], [], prior))
    assert ranking(scores) == ranking(np.array(prior))


@settings(deadline=None, max_examples=5)
@given(seed=st.integers(0, 10**6), size=st.integers(2, 8), games=st.integers(1, 20), flat=st.booleans())
@pytest.mark.parametrize("name", NAMES)
def test_nothing_but_ties_leaves_the_prior_order(name, seed, size, games, flat):
    said = some(seed, size, games, not flat)
    said = dataclasses.replace(said, probability=np.full(games, 0.5))
    assert ranking(aggregators.parse(name)(said)) == list(range(size))


@settings(deadline=None, max_examples=6)
@given(seed=st.integers(0, 10**6), size=st.integers(2, 9), games=st.integers(1, 25))
@pytest.mark.parametrize("name", NAMES)
def test_relabelling_permutes(name, seed, size, games):
    said = some(seed, size, games)
    to = np.random.default_rng(seed).permutation(size)
    back = np.argsort(to)
    moved = dataclasses.replace(
        said,
        first=to[said.first].astype(np.int32),
        second=to[said.second].astype(np.int32),
        prior=said.prior[back],
    )
    aggregator = aggregators.parse(name)
    scores, permuted = aggregator(said), aggregator(moved)
    np.testing.assert_allclose(permuted[to], scores, atol=1e-7, rtol=1e-7)
    assert [to[i] for i in ranking(scores)] == ranking(permuted)


@settings(deadline=None, max_examples=5)
@given(seed=st.integers(0, 10**6), size=st.integers(2, 9))
@pytest.mark.parametrize("name", NAMES)
def test_noise_free_outcomes_are_ranked_and_reversing_them_reverses(name, seed, size):
    order = np.random.default_rng(seed).permutation(size)
    said = complete(size, order, seed, slope=100 if name == "tsp" else 0.3)  # soft tours reward leaps
    turned = dataclasses.replace(said, probability=1 - said.probability)
    aggregator = aggregators.parse(name)
    assert ranking(aggregator(said)) == order.tolist()
    assert ranking(aggregator(turned)) == order.tolist()[::-1]


ANTISYMMETRIC = [
    "additive",
    "win_rate",
    "copeland",
    "pagerank(two_sided=True)",
    "rank_centrality(two_sided=True)",
    "bradley_terry",
    "bradley_terry(order_bias=True)",
    "bradley_terry(method=newman)",
    "bradley_terry(method=zermelo)",
    "hodgerank",
    "log_odds",
    "log_odds(order_bias=True)",
    "robust_bt",
    "elo(permutations=4)",
    "trueskill(permutations=3)",
    "noisy_bt",
    "peer",
]


@settings(deadline=None, max_examples=6)
@given(seed=st.integers(0, 10**6), size=st.integers(2, 9), games=st.integers(1, 40))
@pytest.mark.parametrize("spec", ANTISYMMETRIC)
def test_reversing_any_outcomes_mirrors_the_scores(spec, seed, size, games):
    said = some(seed, size, games, prior=False)
    turned = dataclasses.replace(said, probability=1 - said.probability)
    aggregator = aggregators.parse(spec)
    there, back = aggregator(said), aggregator(turned)
    np.testing.assert_allclose(there - there.mean(), back.mean() - back, atol=1e-6)


@settings(deadline=None, max_examples=6)
@given(seed=st.integers(0, 10**6), size=st.integers(2, 9))
@pytest.mark.parametrize("spec", [*ANTISYMMETRIC, "greedy(two_sided=True)", "kwiksort", "serialrank"])
def test_reversing_contradictory_outcomes_of_all_pairs_mirrors_the_scores(spec, seed, size):
    said = complete(size, np.arange(size), seed)
    said = dataclasses.replace(said, probability=np.random.default_rng(seed).random(len(said.first)))
    turned = dataclasses.replace(said, probability=1 - said.probability)
    there, back = aggregators.parse(spec)(said), aggregators.parse(spec)(turned)
    np.testing.assert_allclose(there - there.mean(), back.mean() - back, atol=1e-6)


def test_a_batch_of_topics_scores_as_its_topics_alone(aggregator):
    parts = [some(seed, size, 3 * size) for seed, size in enumerate([7, 3, 7, 12, 2, 5])]
    together = aggregator(Preferences.join(parts))
    alone = np.concatenate([aggregator(part) for part in parts])
    if getattr(aggregator, "pooled", False):  # judges are shared by all topics
        return
    np.testing.assert_allclose(together, alone, atol=1e-7, rtol=1e-7)


def test_a_disconnected_graph_is_fine(aggregator):
    said = topic(7, [0, 1, 4, 5], [1, 0, 5, 4], [0.2, 0.9, 0.3, 0.8])
    scores = aggregator(said)
    assert np.isfinite(scores).all()
    assert scores[1] > scores[0] and scores[5] > scores[4]


@pytest.mark.parametrize("name", NAMES)
def test_scores_that_differ_by_rounding_only_are_equal(name):
    """A cycle of three: whatever the order of the sums, the three are level and stay in prior order."""
    said = topic(5, [0, 1, 2, 3, 3], [1, 2, 0, 4, 4], [0.7, 0.7, 0.7, 0.9, 0.4])
    scores = aggregators.parse(name)(said)
    assert np.isfinite(scores).all()
    if name in ("additive", "win_rate", "copeland", "pagerank", "rank_centrality", "bradley_terry", "hodgerank"):
        assert scores[0] == scores[1] == scores[2]


@pytest.mark.parametrize(
    "spec",
    [
        "bradley_terry(prior=-1)",
        "bradley_terry(prior=0)",
        "bradley_terry(method=newman, order_bias=True)",
        "bradley_terry(ties=davidson)",
        "pagerank(damping=1.0)",
        "rank_centrality(teleport=0)",
        "additive(prior=-1)",
        "kwiksort(runs=0)",
        "log_odds(clip=0.5)",
        "elo(k=0)",
        "trueskill(sigma=0)",
        "tsp(prior=0)",
        "robust_bt(threshold=0)",
        "peer(rounds=0)",
        "noisy_bt(trust=0)",
    ],
)
def test_impossible_options_are_usage_errors(spec):
    with pytest.raises(UsageError, match=spec.split("(")[0]):
        aggregators.parse(spec)


def test_davidson_ties_pull_candidates_together():
    said = topic(2, [0] * 6, [1] * 6, [1, 1, 1, 0.5, 0.5, 0.5])
    gap = {
        s: np.ptp(aggregators.parse(f"bradley_terry(method=newman, ties={s})")(said)) for s in ("half", "davidson")
    }
    assert 0 < gap["half"] < gap["davidson"]


def test_large_batches_are_worked_on_in_pieces_of_bounded_size():
    rng = np.random.default_rng(0)
    parts = [some(seed, int(size), 30) for seed, size in enumerate(rng.integers(40, 60, size=30))]
    joined = Preferences.join(parts)
    seen = []

    def scores(table):
        seen.append(table.mask.size * table.mask.shape[1])
        return table.wins.sum(axis=2)

    total = solve(joined, scores, cells=10_000)
    assert len(seen) > 1 and max(seen) <= 10_000
    np.testing.assert_allclose(total, solve(joined, lambda table: table.wins.sum(axis=2)), atol=1e-8)
