"""Strengths seen through noisy log-odds: a Gaussian model that learns its scales from the outcomes.

With P the probability that the first of a pair wins, z the standardised first-stage scores and e standard normal,

    logit P = s_first - s_second + b + noise * e,    s ~ N(trust * spread * z, spread^2),    b ~ N(0, spread^2)

The likelihood of the outcomes weighs a grid of signal-to-noise ratios (spread / noise) and of trusts in the first
stage; the scale of the log-odds is set to its likeliest value at every point of the grid. So nothing depends on
whether a comparator is bold or timid, only on how consistent it is and how far the first stage agrees with it.
One eigendecomposition per topic serves the whole grid.

Reference: Thurstone 1927 for the model; MacKay, Neural Computation 4, 1992, for the evidence.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

_RATIO = np.geomspace(0.5, 16, 11) ** 2
"""(spread / noise)^2, (R,)."""

_CORRELATION = np.linspace(0, 0.8, 5)
_TRUST = _CORRELATION / np.sqrt(1 - _CORRELATION**2)
"""Trust at equally likely correlations of first stage and strengths, (A,)."""


@dataclass(frozen=True, slots=True)
class Belief:
    """What the outcomes say of the strengths, averaged over the grid.

    Args:
        strength: posterior mean in log-odds, (Q, n).
        noise: standard deviation of one outcome around the difference of strengths, (Q,).
        covariance: of the strengths, (Q, n, n), if asked for.
    """

    strength: Array
    noise: Array
    covariance: Array | None = None


def believe(
    offsets: NDArray[np.int64],
    first: NDArray[np.integer],
    second: NDArray[np.integer],
    log_odds: Array,
    prior: Array,
    *,
    weight: Array | None = None,
    order_bias: bool = True,
    covariance: bool = False,
) -> Belief:
    """The posterior of every topic, by closed formulas.

    Topics without comparisons, or with nothing but ties, have no scale: there the spread counts as 1.

    Args:
        offsets: comparisons of topic ``t`` are rows ``offsets[t]:offsets[t+1]``, (Q+1,).
        first, second: positions inside the topic, (E,).
        log_odds: finite, of the first winning, (E,).
        prior: standardised first-stage scores, (Q, n), 0 where padded; padding comes back as 0.
        weight: how many outcomes of this noise a comparison is worth, (E,).
        order_bias: whether being shown first may be an advantage.
        covariance: whether to return it.
    """
    count, n = prior.shape
    m = n + order_bias
    topic = np.repeat(np.arange(count), np.diff(offsets))
    weight = np.ones(len(first)) if weight is None else weight
    laplacian, flow = _moments(topic, first, second, weight, weight * log_odds, count, n, m)
    square = np.bincount(topic, weight * log_odds**2, count).astype(np.float64)
    games = np.bincount(topic, weight > 0, count).astype(np.float64)
    centre = np.zeros((count, m))
    centre[:, :n] = prior
    # in the eigenbasis of the Laplacian every formula below is a sum
    value, basis = np.linalg.eigh(laplacian)
    value = np.maximum(value, 0.0)
    flow, centre = (np.einsum("qij,qi->qj", basis, x) for x in (flow, centre))
    shrink = 1 / (1 + _RATIO[:, None] * value[:, None, :])  # (Q, R, m)
    scale, odds = _evidence(value, shrink, flow, centre, square, games)
    lean = scale * np.sqrt(_RATIO)[:, None] * _TRUST  # (Q, R, A)
    means = shrink[:, :, None] * (
        _RATIO[:, None, None] * flow[:, None, None] + lean[..., None] * centre[:, None, None]
    )
    mean = np.einsum("qra,qrai->qi", odds, means)
    strength = np.einsum("qij,qj->qi", basis, mean)[:, :n]
    noise = (odds * scale).sum(axis=(1, 2))
    if not covariance:
        return Belief(strength, noise)
    apart = means - mean[:, None, None]
    within = np.einsum("qra,qrm->qm", odds * scale**2, _RATIO[:, None] * shrink)
    spread = np.einsum("qra,qrai,qraj->qij", odds, apart, apart, optimize=True)
    spread[:, np.arange(m), np.arange(m)] += within
    spread = basis @ spread @ basis.transpose(0, 2, 1)
    return Belief(strength, noise, spread[:, :n, :n])


def _moments(
    topic: NDArray[np.int64],
    first: NDArray[np.integer],
    second: NDArray[np.integer],
    weight: Array,
    pull: Array,
    count: int,
    n: int,
    m: int,
) -> tuple[Array, Array]:
    """X'WX, (Q, m, m), and X'Wy, (Q, m), of the design X: +1 for the first, -1 for the second, 1 for the bias."""
    rows = [(first, 1.0), (second, -1.0), *([(np.full(len(first), n), 1.0)] if m > n else [])]
    square, line = np.zeros(count * m * m), np.zeros(count * m)
    for left, sign in rows:
        line += sign * np.bincount(topic * m + left, pull, count * m)
        for right, other in rows:
            square += sign * other * np.bincount((topic * m + left) * m + right, weight, count * m * m)
    return square.reshape(count, m, m), line.reshape(count, m)


def _evidence(
    value: Array, shrink: Array, flow: Array, centre: Array, square: Array, games: Array
) -> tuple[Array, Array]:
    """The likeliest noise at every point of the grid, and the share of belief it deserves, both (Q, R, A)."""
    own = square[:, None] - np.einsum("r,qrm,qm->qr", _RATIO, shrink, flow**2)
    cross = np.einsum("qrm,qm->qr", shrink, flow * centre)[:, :, None] * np.sqrt(_RATIO)[:, None] * _TRUST
    prior = np.einsum("qrm,qm->qr", shrink, value * centre**2)[:, :, None] * _RATIO[:, None] * _TRUST**2
    own, total = np.maximum(own, 0.0)[:, :, None], np.maximum(games, 1.0)[:, None, None]
    # d/ds of -total log s - own / 2s^2 + cross / s = 0
    scale = (np.sqrt(cross**2 + 4 * total * own) - cross) / (2 * total)
    informed = (square > 1e-18 * games)[:, None, None]
    scale = np.where(informed, np.maximum(scale, 1e-9), 1 / np.sqrt(_RATIO)[:, None])
    fit = -total * np.log(scale) - own / (2 * scale**2) + cross / scale - prior / 2
    fit = fit + np.log(shrink).sum(axis=2)[:, :, None] / 2
    fit = np.where(informed, fit, 0.0)
    odds = np.exp(fit - fit.max(axis=(1, 2), keepdims=True))
    return scale, odds / odds.sum(axis=(1, 2), keepdims=True)
