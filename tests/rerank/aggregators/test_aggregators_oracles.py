"""Aggregators equal trusted libraries to 1e-6, on made-up and on real comparisons."""

from __future__ import annotations

import csv
import gzip
from pathlib import Path

import choix
import evalica
import numpy as np
import pytest
from games import centred, duels, for_choix, run, single
from places import SHARED
from sparring.rerank.data.preferences import read_preferences
from sparring.rerank.vocabulary import Preferences

DATA = SHARED / "pairwise"


def for_evalica(said: Preferences) -> tuple[list[int], list[int], list[evalica.Winner]]:
    winner = {1.0: evalica.Winner.X, 0.0: evalica.Winner.Y, 0.5: evalica.Winner.Draw}
    return said.first.tolist(), said.second.tolist(), [winner[p] for p in said.probability.tolist()]


def by_item(result) -> np.ndarray:
    return result.scores.sort_index().to_numpy()


# choix


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("alpha", [0.05, 1.0])
def test_bradley_terry_equals_choix(seed, alpha):
    said = duels(seed, games=40)
    expected = choix.opt_pairwise(8, for_choix(said), alpha=alpha, tol=1e-12)
    np.testing.assert_allclose(run(f"bradley_terry(prior={2 * alpha}, mean=0.0)", said), expected, atol=1e-6)


@pytest.mark.parametrize("method", ["newman", "zermelo"])
def test_maximum_likelihood_equals_choix(method):
    said = duels(1)
    expected = choix.ilsr_pairwise(8, for_choix(said), tol=1e-12)
    found = run(f"bradley_terry(prior=0.0, method={method}, steps=20000)", said)
    np.testing.assert_allclose(centred(found), centred(expected), atol=1e-6)


@pytest.mark.parametrize("seed", range(3))
def test_rank_centrality_equals_choix(seed):
    said = duels(seed, games=300)
    expected = choix.rank_centrality(8, for_choix(said))
    found = run("rank_centrality(smoothing=0.0, teleport=1e-10)", said)
    np.testing.assert_allclose(found, centred(expected), atol=1e-6)


# evalica


@pytest.mark.parametrize("seed", range(3))
def test_bradley_terry_with_half_ties_equals_evalica(seed):
    said = duels(seed, ties=0.2)
    expected = by_item(evalica.bradley_terry(*for_evalica(said), tolerance=1e-13, limit=100_000))
    found = run("bradley_terry(prior=0.0, method=newman)", said)
    np.testing.assert_allclose(centred(found), centred(np.log(expected)), atol=1e-6)


@pytest.mark.parametrize("seed", range(3))
def test_davidson_ties_equal_evalica(seed):
    said = duels(seed, ties=0.3)
    expected = by_item(evalica.newman(*for_evalica(said), tolerance=1e-13, limit=100_000))
    found = run("bradley_terry(prior=0.0, method=newman, ties=davidson)", said)
    np.testing.assert_allclose(centred(found), centred(np.log(expected)), atol=1e-6)


@pytest.mark.parametrize("seed", range(3))
def test_counts_and_win_rates_equal_evalica(seed):
    said = duels(seed, games=30, ties=0.2)
    rows = for_evalica(said)
    np.testing.assert_allclose(run("win_rate", said), by_item(evalica.average_win_rate(*rows)), atol=1e-6)
    total = by_item(evalica.counting(*rows, win_weight=1.0, tie_weight=0.5))
    np.testing.assert_allclose(run("additive(total=True)", said), total, atol=1e-6)


@pytest.mark.parametrize("ties", [0.0, 0.2])
def test_pagerank_equals_evalica(ties):
    said = duels(4, games=40, ties=ties)
    expected = by_item(evalica.pagerank(*for_evalica(said), damping=0.85, tolerance=1e-14, limit=10_000))
    np.testing.assert_allclose(run("pagerank(edges=wins)", said), expected, atol=1e-6)


def test_elo_equals_evalica():
    said = duels(5, ties=0.1)
    expected = by_item(evalica.elo(*for_evalica(said), initial=1000, scale=400, k=30))
    np.testing.assert_allclose(run("elo(permutations=1, k=30)", said), expected, atol=1e-6)


# networkx


@pytest.mark.parametrize("edges", ["margin", "winner"])
def test_pagerank_equals_networkx(edges):
    import networkx

    rng = np.random.default_rng(0)
    size, games = 12, 40
    first = rng.integers(size, size=games)
    second = (first + rng.integers(1, size, size=games)) % size
    said = single(size, first, second, rng.random(games))
    graph = networkx.DiGraph()
    graph.add_nodes_from(range(size))
    for a, b, p in zip(first.tolist(), second.tolist(), said.probability, strict=True):
        winner, loser = (a, b) if p > 0.5 else (b, a)
        value = abs(2 * p - 1) if edges == "margin" else max(p, 1 - p)
        known = graph.get_edge_data(loser, winner, {"weight": 0.0})["weight"]
        graph.add_edge(loser, winner, weight=known + value)
    expected = networkx.pagerank(graph, alpha=0.85, tol=1e-14, max_iter=10_000)
    found = run(f"pagerank(edges={edges})", said)
    np.testing.assert_allclose(found, [expected[i] for i in range(size)], atol=1e-6)


# real data


def read(path: Path) -> tuple[list[str], Preferences]:
    if not path.exists():
        pytest.skip(f"{path} is absent: real preferences are tested where the collections are")
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rt", encoding="utf-8") as stream:
        rows = [row for row in csv.DictReader(stream) if row["left"] != row["right"]]
    items = sorted({row[side] for row in rows for side in ("left", "right")})
    place = {item: index for index, item in enumerate(items)}
    said = {"left": 1.0, "right": 0.0, "tie": 0.5}
    return items, single(
        len(items),
        [place[row["left"]] for row in rows],
        [place[row["right"]] for row in rows],
        [said[row["winner"]] for row in rows],
        np.array([float(row.get("weight") or 1) for row in rows]),
    )


GOLDEN = {
    "average_win_rate": "win_rate",
    "counting": "additive(total=True)",
    "bradley_terry": "bradley_terry(prior=0.0, method=newman)",
    "newman": "bradley_terry(prior=0.0, method=newman, ties=davidson)",
    "pagerank": "pagerank(edges=wins)",
    "elo": "elo(permutations=1, k=4)",
}


@pytest.mark.parametrize("algorithm", GOLDEN)
@pytest.mark.parametrize(
    ("data", "golden"),
    [
        ("small-tests/evalica-food.csv", "small-tests/golden/evalica-food-golden.csv"),
        ("small-tests/evalica-simple.csv", "small-tests/golden/evalica-simple-golden.csv"),
        ("llmfao/crowd.csv", "llmfao/evalica-llmfao-golden.csv"),
    ],
)
def test_golden_scores_of_evalica(algorithm, data, golden):
    items, said = read(DATA / data)
    with (DATA / golden).open(encoding="utf-8") as stream:
        known = {
            row["item"]: float(row["score"]) for row in csv.DictReader(stream) if row["algorithm"] == algorithm
        }
    assert set(known) == set(items)
    expected, found = np.array([known[item] for item in items]), run(GOLDEN[algorithm], said)
    if "bradley" in algorithm or algorithm == "newman":
        expected, found = centred(np.log(expected)), centred(found)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)  # the golden files stop at 1e-6 per sweep


SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("baboons", "cs_depts", "hyenas", "monkeys")]


@pytest.mark.parametrize("name", ["dogs", "mice", "sparrows", *SLOW])
def test_real_matches_are_ranked_like_the_libraries_rank_them(name):
    items, said = read(DATA / "newman-jerdee" / f"{name}.csv")
    rows = [pair for pair, games in zip(for_choix(said), said.weight, strict=True) for _ in range(int(games))]
    expected = choix.opt_pairwise(len(items), rows, alpha=0.5, tol=1e-10)
    np.testing.assert_allclose(run("bradley_terry(mean=0.0)", said), expected, atol=1e-6)
    xs, ys, winners = for_evalica(said)
    rank = evalica.pagerank(xs, ys, winners, weights=said.weight.tolist(), tolerance=1e-13, limit=10_000)
    np.testing.assert_allclose(run("pagerank", said), by_item(rank), atol=1e-6)
    rate = evalica.average_win_rate(xs, ys, winners, weights=said.weight.tolist())
    np.testing.assert_allclose(run("win_rate", said), by_item(rate), atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["business_depts", "history_depts", "chess", "soccer", "tennis"])
def test_large_sets_of_matches_are_ranked_like_evalica_ranks_them(name):
    items, said = read(DATA / "newman-jerdee" / f"{name}.csv")
    xs, ys, winners = for_evalica(said)
    weights = said.weight.tolist()
    rank = evalica.pagerank(xs, ys, winners, weights=weights, tolerance=1e-13, limit=10_000)
    np.testing.assert_allclose(run("pagerank", said), by_item(rank), atol=1e-6)
    rate = evalica.average_win_rate(xs, ys, winners, weights=weights)
    np.testing.assert_allclose(run("win_rate", said), by_item(rate), atol=1e-6)
    assert np.isfinite(run("bradley_terry(mean=0.0)", said)).all() and len(items) > 100


@pytest.mark.parametrize("name", ["gpt3", "gpt4", "gpt3-crowd", "gpt4-crowd"])
def test_a_leaderboard_of_language_models_is_ranked_like_the_libraries_rank_it(name):
    _, said = read(DATA / "llmfao" / f"{name}.csv")
    xs, ys, winners = for_evalica(said)
    np.testing.assert_allclose(
        run("win_rate", said), by_item(evalica.average_win_rate(xs, ys, winners)), atol=1e-6
    )
    rank = evalica.pagerank(xs, ys, winners, damping=0.85, tolerance=1e-13, limit=10_000)
    np.testing.assert_allclose(run("pagerank(edges=wins)", said), by_item(rank), atol=1e-6)
    if (said.probability != 0.5).all():
        expected = choix.opt_pairwise(int(said.sizes[0]), for_choix(said), alpha=0.5, tol=1e-10)
        np.testing.assert_allclose(run("bradley_terry(mean=0.0)", said), expected, atol=1e-6)


@pytest.mark.parametrize("year", [19, pytest.param(21, marks=pytest.mark.slow)])
def test_votes_of_a_language_model_on_passages_are_ranked_topic_by_topic_like_choix_ranks_them(year):
    path = DATA / "trec-dl-gpt4o" / f"dl{year}-gpt4o.csv.gz"
    if not path.exists():
        pytest.skip(f"{path} is absent: real preferences are tested where the collections are")
    stored = read_preferences(path)
    scores = np.split(run("bradley_terry(mean=0.0)", stored.preferences), np.cumsum(stored.preferences.sizes))
    for t in range(0, len(stored.qids), 5):
        said = stored.preferences.topic(t)
        if (said.probability == 0.5).any():
            continue
        expected = choix.opt_pairwise(int(said.sizes[0]), for_choix(said), alpha=0.5, tol=1e-10)
        np.testing.assert_allclose(scores[t], expected, atol=1e-6)


def test_a_complete_matrix_of_photos_is_ranked_alike_by_all_methods():
    _, said = read(DATA / "photo200" / "photo200.csv.gz")
    reference = run("bradley_terry", said)
    xs, ys, winners = for_evalica(said)
    expected = by_item(evalica.bradley_terry(xs, ys, winners, tolerance=1e-12, limit=10_000))
    found = run("bradley_terry(prior=0.0, method=newman)", said)
    np.testing.assert_allclose(centred(found), centred(np.log(expected)), atol=1e-6)
    for spec in ("additive", "win_rate", "copeland", "greedy", "pagerank", "rank_centrality", "hodgerank",
                 "log_odds", "robust_bt", "kemeny", "kwiksort"):  # fmt: skip
        order = [np.argsort(np.argsort(scores)) for scores in (reference, run(spec, said))]
        assert np.corrcoef(*order)[0, 1] > 0.85, spec
