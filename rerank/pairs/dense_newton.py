"""Prior-regularised Bradley-Terry: one batched Newton solver for schedules and aggregators."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

Array = NDArray[np.float64]

_CELLS = 500_000
"""Matrix cells worked on at once: topics are taken in chunks of this size, which keeps them in the cache."""


@dataclass(frozen=True, slots=True)
class Posterior:
    """Where the strengths of the candidates are believed to be.

    Args:
        strength: posterior mode, (Q, n), padded like the prior mean it was fitted with.
        bias: advantage of being shown first, in logits, (Q,).
        covariance: of the strengths (Laplace approximation, order bias integrated out), (Q, n, n), if asked for.
    """

    strength: Array
    bias: Array
    covariance: Array | None = None


def fit(
    offsets: NDArray[np.int64],
    first: NDArray[np.integer],
    second: NDArray[np.integer],
    probability: Array,
    mean: Array,
    *,
    weight: Array | None = None,
    precision: float | Array = 1.0,
    bias_precision: float = np.inf,
    covariance: bool = False,
    start: Posterior | None = None,
    tolerance: float = 1e-9,
    steps: int = 50,
) -> Posterior:
    """The mode of s ~ N(mean, 1/precision), b ~ N(0, 1/bias_precision), P(first wins) = sigmoid(s_f - s_s + b).

    Outcomes are soft: ``probability`` is the share of a game that the first member won. With a positive
    precision the mode exists, is finite and unique on any graph of comparisons, also an empty one.

    Args:
        offsets: comparisons of topic ``t`` are rows ``offsets[t]:offsets[t+1]``, (Q+1,).
        first, second: positions inside the topic, (E,).
        probability: in [0, 1], (E,).
        mean: prior mean, (Q, n); topics shorter than n are padded with any finite value, which comes back.
        weight: games that a comparison stands for, (E,).
        precision: of the prior on strengths, positive, a number or anything that broadcasts to (Q, n).
        bias_precision: of the prior on the order bias; infinite leaves the bias out.
        covariance: whether to return the posterior covariance too.
        start: where to begin; a previous posterior makes the next one cheaper.
        tolerance: largest Newton step, in logits, that counts as converged.
        steps: most Newton steps.

    Raises:
        ValueError: if a precision is not positive.
    """
    mean = np.asarray(mean, np.float64)
    precision = np.broadcast_to(np.asarray(precision, np.float64), mean.shape)
    if not (precision > 0).all() or not bias_precision > 0:
        raise ValueError("precisions must be positive: without a prior the maximum need not exist")
    weight = np.ones(len(first)) if weight is None else weight
    count, n = mean.shape
    strength, bias = np.empty((count, n)), np.empty(count)
    spread = np.empty((count, n, n)) if covariance else None
    size = max(1, _CELLS // max(1, n * n))
    for low in range(0, count, size):
        part = slice(low, min(low + size, count))
        edges = slice(offsets[part.start], offsets[part.stop])
        problem = _Problem(
            np.repeat(np.arange(part.stop - low), np.diff(offsets[part.start : part.stop + 1])),
            np.asarray(first[edges], np.int64),
            np.asarray(second[edges], np.int64),
            probability[edges],
            weight[edges],
            _with_bias(mean[part], 0.0, bias_precision),
            _with_bias(precision[part], bias_precision, bias_precision),
            n,
        )
        begin = (
            problem.mean
            if start is None
            else _with_bias(start.strength[part], start.bias[part, None], bias_precision)
        )
        mode = problem.solve(begin, tolerance, steps)
        strength[part] = mode[:, :n]
        bias[part] = mode[:, n] if mode.shape[1] > n else 0.0
        if spread is not None:
            spread[part] = np.linalg.inv(problem.hessian(mode))[:, :n, :n]
    return Posterior(strength, bias, spread)


def _with_bias(values: Array, extra: float | Array, bias_precision: float) -> Array:
    """Adds the column of the order bias, unless an infinite precision pins it to zero."""
    if np.isinf(bias_precision):
        return values
    return np.concatenate([values, np.broadcast_to(extra, (len(values), 1))], axis=1)


def _total(cell: NDArray[np.int64], value: Array, size: int) -> Array:
    """Sums of ``value`` by ``cell``; unlike a bare bincount also a float array where there is nothing to sum."""
    return np.bincount(cell, value, size).astype(np.float64, copy=False)


@dataclass(frozen=True, slots=True)
class _Problem:
    """The penalised log-loss of some topics in x = (strengths, bias), (Q, m) with m = n or n + 1."""

    topic: NDArray[np.int64]
    first: NDArray[np.int64]
    second: NDArray[np.int64]
    probability: Array
    weight: Array
    mean: Array
    precision: Array
    n: int

    def solve(self, x: Array, tolerance: float, steps: int) -> Array:
        """Newton with step halving: the loss is strictly convex and never allowed to rise."""
        margin = self.margin(x)
        loss = self.loss(x, margin)
        for _ in range(steps):
            step = np.linalg.solve(self.hessian(x, margin), self.gradient(x, margin)[..., None])[..., 0]
            largest = np.abs(step).max(initial=0.0)
            scale = np.ones((len(x), 1))
            for _ in range(30):
                trial = x - scale * step
                margin = self.margin(trial)
                found = self.loss(trial, margin)
                worse = found > loss + 1e-12 * (1 + np.abs(loss))
                if not worse.any():
                    break
                scale[worse] /= 2
            x, loss = trial, found
            if largest <= tolerance:
                break
        return x

    def margin(self, x: Array) -> Array:
        margin: Array = x[self.topic, self.first] - x[self.topic, self.second]
        if x.shape[1] > self.n:
            margin += x[self.topic, self.n]
        return margin

    def loss(self, x: Array, margin: Array) -> Array:
        fit = self.weight * (np.logaddexp(0, margin) - self.probability * margin)
        away = (self.precision * (x - self.mean) ** 2).sum(1) / 2
        total: Array = _total(self.topic, fit, len(x)) + away
        return total

    def gradient(self, x: Array, margin: Array) -> Array:
        count, m = x.shape
        error = self.weight * (expit(margin) - self.probability)
        flat = _total(self.topic * m + self.first, error, count * m)
        flat -= _total(self.topic * m + self.second, error, count * m)
        slope: Array = flat.reshape(count, m) + self.precision * (x - self.mean)
        if m > self.n:
            slope[:, self.n] += _total(self.topic, error, count)
        return slope

    def hessian(self, x: Array, margin: Array | None = None) -> Array:
        count, m = x.shape
        win = expit(self.margin(x) if margin is None else margin)
        curve = self.weight * win * (1 - win)
        links = _total((self.topic * m + self.first) * m + self.second, curve, count * m * m)
        links = links.reshape(count, m, m)
        links = links + links.transpose(0, 2, 1)
        result: Array = -links
        diagonal = np.arange(m)
        result[:, diagonal, diagonal] = links.sum(2) + self.precision
        if m > self.n:
            lean = _total(self.topic * m + self.first, curve, count * m)
            lean -= _total(self.topic * m + self.second, curve, count * m)
            result[:, self.n, :] += lean.reshape(count, m)
            result[:, :, self.n] += lean.reshape(count, m)
            result[:, self.n, self.n] += _total(self.topic, curve, count)
        return result
