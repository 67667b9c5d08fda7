"""Bradley-Terry for thousands of sparse topics at once: Newton steps by conjugate gradients on the edges.

The same mode as `sparring.rerank.pairs.dense_newton.fit`, which factors dense matrices to return covariances and
the order bias. Comparison graphs drawn at random are expanders, so a handful of matrix-vector products replaces
the factorisation, and work grows with the comparisons rather than with n^3.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .table import Array

EDGES = 40_000
"""Comparisons worked on at once, so that the arrays stay in the processor's cache."""


def strengths(
    offsets: NDArray[np.int64],
    first: NDArray[np.integer],
    second: NDArray[np.integer],
    wins: Array,
    losses: Array,
    mean: Array,
    precision: float,
    start: Array | None = None,
    tolerance: float = 1e-9,
) -> Array:
    """The mode of s ~ N(mean, 1/precision) given ``wins`` and ``losses`` of first against second, (Q, n).

    Args:
        offsets: comparisons of topic ``t`` are rows ``offsets[t]:offsets[t+1]``, (Q+1,).
        first, second: positions inside the topic, (E,).
        wins, losses: games that first won and lost, not negative, (E,).
        mean: prior mean, (Q, n); padding comes back as it went in.
        precision: of the prior, positive.
        start: where to begin, (Q, n).
        tolerance: error of a strength, in logits, that counts as converged.
    """
    result = np.array(mean if start is None else start)
    count = len(mean)
    per_topic = max(1.0, len(first) / max(count, 1), mean.shape[1])
    step = max(1, int(EDGES // per_topic))
    for low in range(0, count, step):
        part = slice(low, min(low + step, count))
        rows = slice(offsets[low], offsets[part.stop])
        if rows.start < rows.stop:
            problem = _Edges(
                np.diff(offsets[low : part.stop + 1]),
                first[rows],
                second[rows],
                wins[rows],
                losses[rows],
                mean[part],
                precision,
            )
            result[part] = problem.solve(result[part], tolerance)
        else:
            result[part] = mean[part]
    return result


class _Edges:
    """Comparisons of a few topics as sparse rows: every candidate's opponents lie side by side."""

    def __init__(
        self,
        counts: NDArray[np.int64],
        first: NDArray[np.integer],
        second: NDArray[np.integer],
        wins: Array,
        losses: Array,
        mean: Array,
        precision: float,
    ) -> None:
        self.precision, self.mean = precision, mean
        nodes = mean.size
        base = np.repeat(np.arange(len(mean)) * mean.shape[1], counts)
        one, two = base + first, base + second
        rows = np.concatenate([one, two])
        # 16-bit keys are sorted by radix, several times faster
        order = np.argsort(rows.astype(np.uint16) if nodes < 1 << 16 else rows, kind="stable")
        self.degree = np.bincount(rows, minlength=nodes)
        self.opponent = np.concatenate([two, one]).astype(np.int32)[order]
        games = wins + losses
        self.games = None if (games == 1).all() else np.concatenate([games, games])[order]
        self.lead = np.concatenate([wins - losses, losses - wins])[order] / 2
        self.indptr = np.concatenate([[0], np.cumsum(self.degree)]).astype(np.int32)
        self.played = np.flatnonzero(self.degree)

    def solve(self, start: Array, tolerance: float) -> Array:
        """Newton's method; a step after which a topic's gradient has grown is halved."""
        x = accepted = start
        direction = np.zeros_like(x)
        last, scale = np.full(len(x), np.inf), np.ones((len(x), 1))
        for _ in range(200):
            slope, curve, diagonal = self._derivatives(x)
            norm = _dot(slope, slope)
            worse = norm > last * (1 + 1e-9) + 1e-24
            if worse.any():
                scale[worse] /= 2
                x = np.where(worse[:, None], accepted - scale * direction, x)
                continue
            error = float(np.abs(slope / diagonal).max())
            if error <= tolerance:
                break
            direction = self._conjugate_gradients(slope, curve, diagonal, min(0.1, error))
            accepted, last, scale = x, norm, np.ones_like(scale)
            x = x - direction
            if np.abs(direction).max() ** 2 <= tolerance:  # Newton squares the error: the next is smaller still
                break
        return x

    def _derivatives(self, x: Array) -> tuple[Array, Array, Array]:
        """The gradient (q, n), the curvature per comparison, the diagonal of the Hessian (q, n)."""
        flat = x.ravel()
        half = np.repeat(flat, self.degree)
        half -= flat.take(self.opponent)
        half *= 0.5
        np.tanh(half, half)
        half *= 0.5  # P(win) - 1/2
        curve = 0.25 - half * half
        if self.games is not None:
            curve *= self.games
            half *= self.games
        half -= self.lead
        slope = self._row_sums(half) + self.precision * (x - self.mean)
        return slope, curve, self._row_sums(curve) + self.precision

    def _conjugate_gradients(self, slope: Array, curve: Array, diagonal: Array, accuracy: float) -> Array:
        """The Newton direction to a relative ``accuracy``, preconditioned by the diagonal, topics side by side."""
        from scipy.sparse import csr_array

        links = csr_array((curve, self.opponent, self.indptr), shape=(slope.size, slope.size))
        inverse = 1 / diagonal
        residual, found = slope, np.zeros_like(slope)
        ahead = scaled = residual * inverse
        size = _dot(residual, scaled)
        enough = accuracy**2 * size + 1e-300
        for _ in range(10 * slope.shape[1]):
            image = diagonal * ahead
            image -= np.asarray(links @ ahead.ravel()).reshape(slope.shape)
            length = (size / np.maximum(_dot(ahead, image), 1e-300))[:, None]
            found += length * ahead
            residual = residual - length * image
            scaled = residual * inverse
            before, size = size, _dot(residual, scaled)
            if (size <= enough).all():
                break
            ahead = scaled + (size / np.maximum(before, 1e-300))[:, None] * ahead
        return found

    def _row_sums(self, values: Array) -> Array:
        sums = np.zeros(self.mean.size)
        sums[self.played] = np.add.reduceat(values, self.indptr[self.played])
        return sums.reshape(self.mean.shape)


def _dot(left: Array, right: Array) -> Array:
    """Inner products per topic, (q,)."""
    return np.asarray(np.einsum("qn,qn->q", left, right))
