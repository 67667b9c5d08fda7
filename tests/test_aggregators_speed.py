"""Bradley-Terry of many sparse topics in one call against the libraries' loops, in processor time."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import pytest
from scipy.special import expit
from sparring.rerank.registry import aggregators
from sparring.rerank.vocabulary import Preferences

pytestmark = pytest.mark.slow


def sampled(topics: int, candidates: int, comparisons: int, seed: int = 0) -> Preferences:
    """Random hard outcomes of random pairs."""
    rng = np.random.default_rng(seed)
    skill = rng.normal(size=(topics, candidates))
    first = rng.integers(candidates, size=topics * comparisons)
    second = (first + rng.integers(1, candidates, size=len(first))) % candidates
    topic = np.repeat(np.arange(topics), comparisons)
    won = rng.random(len(first)) < expit(skill[topic, first] - skill[topic, second])
    return Preferences(
        np.full(topics, candidates),
        np.arange(topics + 1) * comparisons,
        first.astype(np.int32),
        second.astype(np.int32),
        won.astype(float),
    )


def seconds(work: Callable[[], object]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def libraries(said: Preferences, topics: int) -> dict[str, float]:
    """Seconds per topic of each library's loop, on lists made beforehand, over the first few topics."""
    import choix
    import evalica

    size = int(said.sizes[0])
    spent = dict.fromkeys(
        ("choix.opt_pairwise", "choix.ilsr_pairwise", "evalica.newman", "evalica.bradley_terry"), 0.0
    )
    for topic in range(topics):
        rows = slice(said.offsets[topic], said.offsets[topic + 1])
        xs, ys, won = said.first[rows].tolist(), said.second[rows].tolist(), said.probability[rows] > 0.5
        winners = [evalica.Winner.X if w else evalica.Winner.Y for w in won]
        pairs = [(x, y) if w else (y, x) for x, y, w in zip(xs, ys, won, strict=True)]
        calls = (
            lambda: choix.opt_pairwise(size, pairs, alpha=0.5),  # noqa: B023 - called at once
            lambda: choix.ilsr_pairwise(size, pairs, alpha=0.1),  # noqa: B023
            lambda: evalica.newman(xs, ys, winners),  # noqa: B023
            lambda: evalica.bradley_terry(xs, ys, winners),  # noqa: B023
        )
        for name, call in zip(spent, calls, strict=True):
            spent[name] += seconds(call)
    return {name: total / topics for name, total in spent.items()}


def ratios(topics: int = 1000, candidates: int = 100, comparisons: int = 1000) -> dict[str, float]:
    """How many times faster one batched call is than a loop over the same topics; the call's seconds beside it."""
    said = sampled(topics, candidates, comparisons)
    aggregator = aggregators.parse("bradley_terry(mean=0.0)")
    aggregator(sampled(2, candidates, comparisons))
    own = min(seconds(lambda: aggregator(said)) for _ in range(3))
    return {"seconds": own} | {name: each * topics / own for name, each in libraries(said, 5).items()}


def test_one_batched_call_is_ten_times_faster_than_the_libraries_loops():
    found = ratios()
    assert min(found["choix.opt_pairwise"], found["choix.ilsr_pairwise"], found["evalica.newman"]) >= 10, found


@pytest.mark.parametrize("name", ["additive", "win_rate", "copeland", "greedy", "pagerank", "rank_centrality",
                                  "bradley_terry", "hodgerank", "robust_bt", "kemeny", "kwiksort", "serialrank"])  # fmt: skip
def test_all_pairs_of_43_topics_of_100_are_aggregated_in_seconds(name):
    first, second = np.nonzero(~np.eye(100, dtype=bool))
    rng = np.random.default_rng(0)
    said = Preferences(
        np.full(43, 100),
        np.arange(44) * len(first),
        np.tile(first, 43).astype(np.int32),
        np.tile(second, 43).astype(np.int32),
        rng.random(43 * len(first)),
    )
    assert seconds(lambda: aggregators.parse(name)(said)) < 5
