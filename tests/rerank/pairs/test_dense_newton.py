"""The batched solver finds the one maximum, as a reference does, on any graph of comparisons."""

import choix
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sparring.rerank.pairs.dense_newton import fit


def games(rng: np.random.Generator, n: int, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    first = rng.integers(0, n, count)
    second = (first + rng.integers(1, n, count)) % n
    return first, second, rng.random(count)


def test_equals_choix_with_a_zero_mean_prior() -> None:
    rng = np.random.default_rng(3)
    first, second, p = games(rng, 12, 60)
    won = p > 0.5
    reference = choix.opt_pairwise(
        12,
        [(int(a), int(b)) if w else (int(b), int(a)) for a, b, w in zip(first, second, won, strict=True)],
        alpha=0.35,
        tol=1e-10,
    )
    found = fit(np.array([0, 60]), first, second, won.astype(float), np.zeros((1, 12)), precision=0.7)
    np.testing.assert_allclose(found.strength[0], reference, atol=1e-6)


def test_topics_of_one_batch_do_not_touch_each_other() -> None:
    rng = np.random.default_rng(4)
    topics = [games(rng, 7, count) for count in (0, 5, 30)]
    mean = rng.normal(size=(3, 7))
    offsets = np.array([0, 0, 5, 35])
    first, second, p = (np.concatenate([t[i] for t in topics]) for i in range(3))
    together = fit(offsets, first, second, p, mean, bias_precision=2.0, covariance=True)
    assert together.covariance is not None
    for t, (a, b, q) in enumerate(topics):
        alone = fit(np.array([0, len(a)]), a, b, q, mean[t : t + 1], bias_precision=2.0, covariance=True)
        assert alone.covariance is not None
        np.testing.assert_allclose(together.strength[t], alone.strength[0], atol=1e-7)
        np.testing.assert_allclose(together.bias[t], alone.bias[0], atol=1e-7)
        np.testing.assert_allclose(together.covariance[t], alone.covariance[0], atol=1e-6)


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 9), st.integers(0, 40), st.integers(0, 2**31), st.booleans())
def test_the_gradient_vanishes_and_the_covariance_inverts_the_curvature(
    n: int, count: int, seed: int, biased: bool
) -> None:
    rng = np.random.default_rng(seed)
    first, second, p = games(rng, n, count)
    weight, mean = rng.uniform(0.1, 9, count), rng.normal(0, 3, (1, n))
    precision, bias_precision = rng.uniform(0.05, 5, (1, n)), 1.5 if biased else np.inf
    found = fit(
        np.array([0, count]), first, second, p, mean,
        weight=weight, precision=precision, bias_precision=bias_precision, covariance=True,
    )  # fmt: skip
    design = np.zeros((count, n + 1))
    design[np.arange(count), first] += 1
    design[np.arange(count), second] -= 1
    design[:, n] = biased
    mode = np.append(found.strength[0], found.bias[0])
    win = 1 / (1 + np.exp(-design @ mode))
    prior = np.append(precision[0], 1.5)
    slope = design.T @ (weight * (win - p)) + prior * (mode - np.append(mean[0], 0.0))
    assert np.abs(slope).max() < 1e-6
    curvature = (design * (weight * win * (1 - win))[:, None]).T @ design + np.diag(prior)
    assert found.covariance is not None
    np.testing.assert_allclose(found.covariance[0], np.linalg.inv(curvature)[:n, :n], atol=1e-6)


def test_no_comparisons_give_the_prior_mean_and_a_start_changes_nothing() -> None:
    rng = np.random.default_rng(5)
    mean = rng.normal(size=(2, 6))
    nothing = np.zeros(0, int)
    prior = fit(np.zeros(3, int), nothing, nothing, np.zeros(0), mean, bias_precision=1.0)
    np.testing.assert_array_equal(prior.strength, mean)
    a, b, p = games(rng, 6, 20)
    offsets = np.array([0, 10, 20])
    cold = fit(offsets, a, b, p, mean, bias_precision=1.0)
    warm = fit(offsets, a, b, p, mean, bias_precision=1.0, start=cold)
    np.testing.assert_allclose(cold.strength, warm.strength, atol=1e-8)


def test_an_order_bias_is_told_apart_from_strength() -> None:
    rng = np.random.default_rng(6)
    truth, n = rng.normal(size=20), 20
    first, second = (x.ravel() for x in np.meshgrid(np.arange(n), np.arange(n)))
    keep = first != second
    first, second = first[keep], second[keep]
    p = 1 / (1 + np.exp(-(truth[first] - truth[second] + 0.8)))
    found = fit(np.array([0, len(p)]), first, second, p, np.zeros((1, n)), precision=1e-3, bias_precision=1e-3)
    assert abs(found.bias[0] - 0.8) < 0.01
    np.testing.assert_allclose(found.strength[0], truth - truth.mean(), atol=0.02)


@pytest.mark.parametrize("options", [{"precision": 0.0}, {"bias_precision": 0.0}, {"precision": -1.0}])
def test_a_prior_must_be_proper(options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="precisions must be positive"):
        fit(np.array([0, 0]), np.zeros(0, int), np.zeros(0, int), np.zeros(0), np.zeros((1, 3)), **options)
