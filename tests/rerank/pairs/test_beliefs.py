"""The Gaussian model of log-odds against its definition, written out with dense matrices."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from scipy.stats import multivariate_normal
from sparring.rerank.pairs import beliefs as log_odds
from sparring.rerank.pairs.beliefs import Belief, believe


def outcomes(seed: int, n: int = 6, games: int = 20) -> tuple[np.ndarray, ...]:
    rng = np.random.default_rng(seed)
    first = rng.integers(n, size=games)
    second = (first + rng.integers(1, n, size=games)) % n
    skill, prior = rng.normal(size=(2, n))
    prior = (prior - prior.mean()) / prior.std()
    said = skill[first] - skill[second] + 0.4 + 0.7 * rng.normal(size=games)
    return first, second, said, prior, rng.uniform(0.5, 2, games)


def by_definition(first, second, said, prior, weight, order_bias) -> tuple[np.ndarray, np.ndarray, float]:
    """Mean, covariance and noise of the mixture, by numerical maximisation and the textbook formulas."""
    n, games = len(prior), len(said)
    design = np.zeros((games, n + order_bias))
    design[np.arange(games), first] += 1
    design[np.arange(games), second] -= 1
    if order_bias:
        design[:, n] = 1
    centre = np.append(prior, 0.0) if order_bias else prior
    parts = []
    for ratio, trust in itertools.product(log_odds._RATIO, log_odds._TRUST):
        scatter = np.diag(1 / weight) + ratio * design @ design.T

        def negative(size, ratio=ratio, trust=trust, scatter=scatter):
            noise = np.exp(size)
            mean = trust * np.sqrt(ratio) * noise * design @ centre
            return -multivariate_normal(mean, noise**2 * scatter).logpdf(said)

        found = minimize_scalar(negative, bounds=(-6, 6), method="bounded", options={"xatol": 1e-10})
        noise = np.exp(found.x)
        spread = np.sqrt(ratio) * noise
        gain = spread**2 * design.T @ np.linalg.inv(noise**2 * scatter)
        mean = trust * spread * centre
        posterior = mean + gain @ (said - design @ mean)
        covariance = spread**2 * (np.eye(len(centre)) - gain @ design)
        parts.append((-found.fun, posterior, covariance, noise))
    odds = np.exp([part[0] - max(p[0] for p in parts) for part in parts])
    odds /= odds.sum()
    mean = sum(o * part[1] for o, part in zip(odds, parts, strict=True))
    covariance = sum(
        o * (part[2] + np.outer(part[1] - mean, part[1] - mean)) for o, part in zip(odds, parts, strict=True)
    )
    return mean[:n], covariance[:n, :n], float(sum(o * part[3] for o, part in zip(odds, parts, strict=True)))


def one(first, second, said, prior, weight=None, order_bias=True) -> Belief:
    return believe(
        np.array([0, len(said)]),
        first,
        second,
        said,
        prior[None],
        weight=weight,
        order_bias=order_bias,
        covariance=True,
    )


@pytest.mark.parametrize("order_bias", [False, True])
def test_the_belief_is_that_of_the_definition(order_bias: bool) -> None:
    first, second, said, prior, weight = outcomes(0)
    belief = one(first, second, said, prior, weight, order_bias)
    mean, covariance, noise = by_definition(first, second, said, prior, weight, order_bias)
    np.testing.assert_allclose(belief.strength[0], mean, atol=1e-6)
    np.testing.assert_allclose(belief.covariance[0], covariance, atol=1e-6)
    assert belief.noise[0] == pytest.approx(noise, rel=1e-6)


def test_only_the_ratios_of_log_odds_matter() -> None:
    first, second, said, prior, _ = outcomes(1)
    there, back = one(first, second, said, prior), one(first, second, 37 * said, prior)
    np.testing.assert_allclose(back.strength, 37 * there.strength, rtol=1e-9)
    np.testing.assert_allclose(back.covariance, 37**2 * there.covariance, rtol=1e-9)


def test_topics_of_a_batch_are_believed_alone() -> None:
    parts = [outcomes(seed, n, games) for seed, (n, games) in enumerate([(6, 20), (4, 3), (6, 0), (2, 9)])]
    prior = np.zeros((4, 6))
    for row, part in zip(prior, parts, strict=True):
        row[: len(part[3])] = part[3]
    offsets = np.cumsum([0, *(len(part[2]) for part in parts)])
    joined = (np.concatenate([part[column] for part in parts]) for column in range(3))
    together = believe(offsets, *joined, prior, covariance=True)
    for t, (first, second, said, own, _) in enumerate(parts):
        alone = one(first, second, said, own)
        n = len(own)
        np.testing.assert_allclose(together.strength[t, :n], alone.strength[0], atol=1e-9)
        np.testing.assert_allclose(together.covariance[t, :n, :n], alone.covariance[0], atol=1e-9)
        assert (together.strength[t, n:] == 0).all()


def test_without_outcomes_and_with_ties_alone_the_first_stage_is_all_there_is() -> None:
    prior = np.array([1.2, 0.3, -1.5])
    nothing = one(np.empty(0, int), np.empty(0, int), np.empty(0), prior)
    ties = one(np.array([0, 1]), np.array([1, 2]), np.zeros(2), prior)
    for belief in (nothing, ties):
        assert (np.diff(belief.strength[0]) < 0).all() and np.isfinite(belief.covariance).all()
    assert nothing.strength[0] == pytest.approx(log_odds._TRUST.mean() * prior)
    assert np.ptp(ties.strength[0]) < np.ptp(nothing.strength[0])
