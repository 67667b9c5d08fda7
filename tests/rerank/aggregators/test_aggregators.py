"""What every registered aggregator promises, by the checks that strangers can call; and what some promise more."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from sparring.rerank.contracts import aggregators as contracts
from sparring.rerank.contracts import check_component
from sparring.rerank.contracts.aggregators import complete, some, topic
from sparring.rerank.errors import UsageError
from sparring.rerank.pairs.solving import solve
from sparring.rerank.registry import aggregators
from sparring.rerank.vocabulary import Preferences

NAMES = aggregators.names()


@pytest.fixture(params=NAMES)
def aggregator(request):
    return aggregators.parse(request.param)


SEEDS = st.integers(0, 10**6)


@pytest.mark.parametrize("name", NAMES)
def test_prints_back_as_written(name):
    check_component(aggregators.parse(name), aggregators)
    assert str(aggregators.parse(name)) == name


@settings(deadline=None, max_examples=6)
@given(seed=SEEDS)
@pytest.mark.parametrize("name", NAMES)
def test_every_candidate_gets_a_finite_score(name, seed):
    contracts.check_finite(aggregators.parse(name), seed)


def test_no_topics_no_candidates_no_comparisons(aggregator):
    contracts.check_hollow(aggregator)


@settings(deadline=None, max_examples=5)
@given(prior=st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=8))
@example(prior=[-6e-235, 0.0])
@example(prior=[1e6, 1e6 + 1e-9])
@example(prior=[1e300, -1e300, 1e299])
@pytest.mark.parametrize("name", NAMES)
def test_without_data_the_order_is_the_prior_order(name, prior):
    contracts.check_prior_order(aggregators.parse(name), prior)


@settings(deadline=None, max_examples=5)
@given(seed=SEEDS)
@pytest.mark.parametrize("name", NAMES)
def test_nothing_but_ties_leaves_the_prior_order(name, seed):
    contracts.check_ties(aggregators.parse(name), seed)


@settings(deadline=None, max_examples=6)
@given(seed=SEEDS)
@pytest.mark.parametrize("name", NAMES)
def test_relabelling_permutes(name, seed):
    contracts.check_relabelling(aggregators.parse(name), seed)


@settings(deadline=None, max_examples=5)
@given(seed=SEEDS)
@pytest.mark.parametrize("name", NAMES)
def test_noise_free_outcomes_are_ranked_and_reversing_them_reverses(name, seed):
    # soft tours reward leaps
    contracts.check_noise_free(aggregators.parse(name), seed, slope=100 if name == "tsp" else 0.3)


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
    contracts.check_batches(aggregator)


def test_a_disconnected_graph_is_fine(aggregator):
    contracts.check_disconnected(aggregator)


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
