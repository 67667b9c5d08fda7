"""Aggregators equal trusted libraries to 1e-6, or their published formulas written out plainly."""

from __future__ import annotations

import csv
import gzip
import itertools
from pathlib import Path

import choix
import evalica
import numpy as np
import pytest
from places import SHARED
from scipy.optimize import Bounds, LinearConstraint, milp, minimize
from scipy.special import expit, huber
from scipy.stats import norm
from sparring.rerank.aggregators.bradley_terry import posterior
from sparring.rerank.aggregators.kemeny import best_insertions, contradicted, exact_order
from sparring.rerank.aggregators.kwiksort import _quicksort
from sparring.rerank.aggregators.tsp import held_karp, improve, tour_worth
from sparring.rerank.data.preferences import read_preferences
from sparring.rerank.pairs.dense_newton import fit
from sparring.rerank.pairs.sparse_newton import strengths
from sparring.rerank.registry import aggregators
from sparring.rerank.vocabulary import Preferences

DATA = SHARED / "pairwise"


def single(size, first, second, probability, weight=None, prior=None, source=None) -> Preferences:
    return Preferences(
        np.array([size]),
        np.array([0, len(first)]),
        np.asarray(first, np.int32),
        np.asarray(second, np.int32),
        np.asarray(probability, float),
        weight,
        prior,
        source,
    )


def duels(seed: int, size: int = 8, games: int = 120, ties: float = 0.0) -> Preferences:
    """Hard outcomes, with ties at the rate asked for, dense enough that maximum likelihood exists."""
    rng = np.random.default_rng(seed)
    skill = rng.normal(size=size) * 0.7
    first = rng.integers(size, size=games)
    second = (first + rng.integers(1, size, size=games)) % size
    said = (rng.random(games) < expit(skill[first] - skill[second])).astype(float)
    said[rng.random(games) < ties] = 0.5
    return single(size, first, second, said)


def run(spec: str, preferences: Preferences) -> np.ndarray:
    return aggregators.parse(spec)(preferences)


def centred(values) -> np.ndarray:
    return np.asarray(values) - np.mean(values)


def for_choix(said: Preferences) -> list[tuple[int, int]]:
    rows = zip(said.first.tolist(), said.second.tolist(), said.probability, strict=True)
    return [(a, b) if p > 0.5 else (b, a) for a, b, p in rows]


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


# optimisers


def soft(seed: int, size: int = 9, games: int = 40, sources: int = 0) -> Preferences:
    rng = np.random.default_rng(seed)
    first = rng.integers(size, size=games)
    second = (first + rng.integers(1, size, size=games)) % size
    return single(
        size,
        first,
        second,
        rng.random(games),
        rng.uniform(0.5, 2, games),
        np.sort(rng.normal(size=size))[::-1],
        rng.integers(sources, size=games).astype(np.int32) if sources else None,
    )


@pytest.mark.parametrize("order_bias", [False, True])
def test_bradley_terry_is_the_mode_and_posterior_its_curvature(order_bias):
    said = soft(2)
    z = (said.prior - said.prior.mean()) / said.prior.std()

    def loss(x):
        margin = x[said.first] - x[said.second] + (x[-1] if order_bias else 0)
        fitted = said.weight * (np.logaddexp(0, margin) - said.probability * margin)
        return fitted.sum() + 0.7 * ((x[:-1] - 1.5 * z) ** 2).sum() / 2 + 0.05 * x[-1] ** 2 / 2

    found = minimize(loss, np.zeros(10), method="BFGS", options={"gtol": 1e-9}).x[:-1]
    spec = f"bradley_terry(prior=0.7, mean=1.5, order_bias={order_bias})"
    np.testing.assert_allclose(run(spec, said), found, atol=1e-6)
    mode, deviation = posterior(said, prior=0.7, mean=1.5, order_bias=order_bias)
    np.testing.assert_allclose(mode, found, atol=1e-6)
    assert (deviation > 0).all() and (deviation < 1 / np.sqrt(0.7)).all()


def test_posterior_deviation_without_data_is_the_prior():
    _, deviation = posterior(single(4, [], [], []), prior=4.0)
    np.testing.assert_allclose(deviation, 0.5)


@pytest.mark.parametrize("precision", [1e-3, 1.0, 100.0])
@pytest.mark.parametrize("games", [0, 5, 60, 2000])
def test_sparse_and_dense_newton_agree(precision, games):
    rng = np.random.default_rng(games)
    size = np.array([0, games // 3, games])
    first, second = rng.integers(30, size=games), rng.integers(29, size=games)
    second += second >= first
    p = (rng.random(games) < 0.9 * (first < second)).astype(float)
    mean, weight = rng.normal(size=(2, 30)), rng.exponential(size=games) * 3
    sparse = strengths(size, first, second, weight * p, weight * (1 - p), mean, precision)
    dense = fit(size, first, second, p, mean, weight=weight, precision=precision, steps=200).strength
    np.testing.assert_allclose(sparse, dense, atol=1e-6)


def test_newman_with_prior_is_the_mode_under_virtual_games():
    said = soft(3)
    z = (said.prior - said.prior.mean()) / said.prior.std()

    def loss(x):
        margin = x[said.first] - x[said.second]
        fitted = said.weight * (np.logaddexp(0, margin) - said.probability * margin)
        return fitted.sum() + 0.5 * (np.logaddexp(0, x - z) + np.logaddexp(0, z - x)).sum()

    found = minimize(loss, np.zeros(9), method="BFGS", options={"gtol": 1e-9}).x
    for method in ("newman", "zermelo"):
        np.testing.assert_allclose(run(f"bradley_terry(prior=0.5, method={method})", said), found, atol=1e-6)


def test_hodgerank_is_least_squares():
    said = single(6, [0, 1, 2, 3, 0, 4], [1, 2, 0, 0, 3, 5], [0.9, 0.7, 0.4, 0.2, 0.7, 0.8])
    wins, games, _ = said.dense()
    rows, flow = [], []
    for i, j in itertools.combinations(range(6), 2):
        if games[0, i, j]:
            root = np.sqrt(games[0, i, j])
            rows.append(root * (np.eye(6)[i] - np.eye(6)[j]))
            flow.append(root * (2 * wins[0, i, j] / games[0, i, j] - 1))
    expected = np.linalg.lstsq(np.array(rows), np.array(flow), rcond=None)[0]  # least norm: components centred
    np.testing.assert_allclose(run("hodgerank", said), expected, atol=1e-9)


def test_robust_bradley_terry_minimises_hubers_loss():
    said = soft(4)
    wins, games, _ = said.dense()
    with np.errstate(invalid="ignore"):
        share = np.clip(np.where(games > 0, wins / games, 0.5), 0.01, 0.99)[0]
    flow, z = np.log(share / (1 - share)), (said.prior - said.prior.mean()) / said.prior.std()

    def loss(x):
        rest = flow - (x[:, None] - x[None, :])
        return (games[0] * huber(1.0, rest)).sum() / 2 + 0.1 * ((x - z) ** 2).sum() / 2

    found = minimize(loss, np.zeros(9), method="BFGS", options={"gtol": 1e-9}).x
    np.testing.assert_allclose(run("robust_bt(steps=1000)", said), found, atol=1e-6)


def test_a_few_corrupted_preferences_hardly_move_the_robust_scores():
    rng = np.random.default_rng(0)
    skill = np.linspace(2, -2, 20)
    first, second = np.triu_indices(20, 1)
    said = expit(skill[first] - skill[second])
    corrupted = np.where((rng.random(len(said)) < 0.1) & (first < 4), 0.01, said)
    spread = {
        spec: np.abs(centred(run(spec, single(20, first, second, corrupted))) - skill).max()
        for spec in ("robust_bt(prior=0.0)", "hodgerank(flow=logit)")
    }
    assert spread["robust_bt(prior=0.0)"] < 0.5 * spread["hodgerank(flow=logit)"]


# orders


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


def test_serialrank_is_the_fiedler_vector():
    rng = np.random.default_rng(0)
    upper = np.triu(rng.choice([-1.0, 1.0], size=(9, 9), p=[0.2, 0.8]), 1)
    lead = upper - upper.T
    first, second = np.triu_indices(9, 1)
    found = run("serialrank", single(9, first, second, (lead[first, second] + 1) / 2))
    signed = lead + np.eye(9)
    similarity = (9 + signed @ signed.T) / 2
    vectors = np.linalg.eigh(np.diag(similarity.sum(axis=1)) - similarity)[1]
    assert abs(found @ vectors[:, 1]) == pytest.approx(1)
    assert (lead * np.sign(found[:, None] - found[None, :])).sum() > 0


def test_trueskill_follows_its_update():
    said = duels(7, size=5, games=30)
    mu, variance, beta = np.full(5, 25.0), np.full(5, (25 / 3) ** 2), 25 / 6
    for winner, loser in for_choix(said):
        c = np.sqrt(2 * beta**2 + variance[winner] + variance[loser])
        t = (mu[winner] - mu[loser]) / c
        v = norm.pdf(t) / norm.cdf(t)
        u = v * (v + t)
        mu[winner] += variance[winner] * v / c
        mu[loser] -= variance[loser] * v / c
        variance[winner], variance[loser] = (variance[i] * (1 - variance[i] * u / c**2) for i in (winner, loser))
    np.testing.assert_allclose(run("trueskill(permutations=1)", said), mu, atol=1e-6)
    cautious = run("trueskill(permutations=1, caution=3)", said)
    np.testing.assert_allclose(cautious, mu - 3 * np.sqrt(variance), atol=1e-6)


# judges


def crowd(seed: int) -> tuple[Preferences, np.ndarray]:
    """Three honest judges and one that always names the first."""
    rng = np.random.default_rng(seed)
    skill = rng.normal(size=15) * 1.5
    games = 800
    first = rng.integers(15, size=games)
    second = (first + rng.integers(1, 15, size=games)) % 15
    judge = rng.integers(4, size=games).astype(np.int32)
    said = (rng.random(games) < expit(skill[first] - skill[second])).astype(float)
    return single(15, first, second, np.where(judge == 3, 1.0, said), source=judge), skill


def test_noisy_bradley_terry_finds_the_judge_that_always_names_the_first():
    said, skill = crowd(0)
    names, trust, lean = aggregators.parse("noisy_bt").judges(said)
    assert names.tolist() == [0, 1, 2, 3]
    assert trust[3] < 0.4 < 0.8 < trust[:3].min() and lean[3] > 0.9
    wrong = {
        spec: np.abs(centred(run(spec, said)) - centred(skill)).mean() for spec in ("noisy_bt", "bradley_terry")
    }
    assert wrong["noisy_bt"] < wrong["bradley_terry"]


def test_noisy_bradley_terry_is_a_mode_of_its_posterior():
    said, _ = crowd(1)
    scores = run("noisy_bt(steps=2000)", said)
    _, trust, lean = aggregators.parse("noisy_bt(steps=2000)").judges(said)

    def loss(x):
        a, b = trust[said.source], lean[said.source]
        likely = a * expit(x[said.first] - x[said.second]) + (1 - a) * b
        return -np.log(np.where(said.probability > 0.5, likely, 1 - likely)).sum() + (x**2).sum() / 2

    slope = [(loss(scores + h) - loss(scores - h)) / 2e-5 for h in 1e-5 * np.eye(15)]
    assert np.abs(slope).max() < 1e-3


def test_peers_outvote_the_judge_that_contradicts_them():
    said, skill = crowd(2)
    names, weight = aggregators.parse("peer").judges(said)
    assert weight[3] == 0 and weight.sum() == pytest.approx(1) and names.tolist() == [0, 1, 2, 3]
    share = aggregators.parse("peer(normalise=share)").judges(said)[1]
    assert 0 < share[3] < share[:3].min()
    alone = np.corrcoef(run("peer", said), skill)[0, 1]
    assert alone > np.corrcoef(run("additive", said), skill)[0, 1]


# the prior


@pytest.mark.parametrize(
    "spec",
    ["additive", "win_rate", "copeland", "greedy", "kwiksort", "pagerank", "rank_centrality", "hodgerank",
     "robust_bt", "serialrank", "kemeny", "elo", "trueskill", "bradley_terry", "noisy_bt", "peer", "tsp"],
)  # fmt: skip
def test_a_heavy_prior_decides(spec):
    said = soft(8, size=8, games=10)
    weight = {"elo": 1e4, "pagerank": 100.0, "rank_centrality": 100.0}.get(spec, 1e6)
    scores = run(f"{spec}(prior={weight})", said)
    if spec not in ("pagerank", "rank_centrality", "trueskill", "tsp"):  # there the prior is only the start
        assert np.argsort(-scores, kind="stable").tolist() == list(range(8))
    assert scores[0] > scores[-1]


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
    if not known:
        pytest.skip(f"{golden} has no scores of {algorithm}")
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
