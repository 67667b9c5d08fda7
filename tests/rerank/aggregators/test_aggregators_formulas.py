"""Aggregators follow their published formulas: modes, curvatures, least squares, judges, priors."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from games import centred, duels, for_choix, run, single, soft
from scipy.optimize import minimize
from scipy.special import expit, huber
from scipy.stats import norm
from sparring.rerank.aggregators.bradley_terry import posterior
from sparring.rerank.pairs.dense_newton import fit
from sparring.rerank.pairs.sparse_newton import strengths
from sparring.rerank.registry import aggregators
from sparring.rerank.vocabulary import Preferences


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
