"""Bradley-Terry strengths by Newman's and Zermelo's iterations, one strength at a time, many topics at once.

Newman's iteration is proved for updates that see the strengths updated before them. Where all are updated at
once it swings between two wrong answers on bipartite comparison graphs (two candidates, a star, a path).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

SETTLED = 1e-10
"""Topics in which no strength moves by more, in logits, are done."""
EXTREME = 230.0
"""Strengths in logits that likelihoods without a maximum do not pass."""


@dataclass(frozen=True, slots=True)
class Swept:
    """Log strengths (q, n), and the largest move of any of them in the last sweep of each topic (q,)."""

    strength: Array
    moved: Array


def fit_by_sweeps(
    wins: Array,
    ties: Array,
    centre: Array,
    islands: NDArray[np.int64] | None,
    *,
    prior: float,
    blend: float,
    steps: int,
) -> Swept:
    """Strengths after as many sweeps as they need, at most ``steps``.

    Args:
        wins: decided games that i won against j, (q, n, n).
        ties: games of i and j without a winner, symmetric (q, n, n).
        centre: log strengths to begin with, and of the opponents of the virtual games, (q, n).
        islands: the connected component of every candidate, numbered within the topic (q, n); the mean of each
            stays what it is in ``centre``. None where the virtual games link all.
        prior: virtual wins, and as many losses, of every candidate against its opponent.
        blend: 0 is Newman's iteration, 1 Zermelo's.
    """
    strength, moved = centre.copy(), np.zeros(len(centre))
    half = wins + ties / 2
    width = np.where(ties.any(axis=(1, 2)), 0.5, 0.0)[:, None]
    live = np.arange(len(centre))
    for _ in range(steps):
        before = strength[live]
        power = np.exp(before)
        _sweep(power, half[live], width[live], np.exp(centre[live]), prior, blend)
        fresh = np.clip(np.log(power), -EXTREME, EXTREME)
        if islands is not None:
            fresh += _island_means(centre[live] - fresh, islands[live])
        if ties.any():
            width[live] = _tie_width(wins[live], ties[live], np.exp(fresh), width[live])
        strength[live] = fresh
        moved[live] = np.abs(fresh - before).max(axis=1, initial=0.0)
        live = live[moved[live] > SETTLED]
        if not len(live):
            break
    return Swept(strength, moved)


def _sweep(power: Array, half: Array, width: Array, rival: Array, prior: float, blend: float) -> None:
    """Updates the strengths ``power`` (q, n) in place, candidate by candidate.

    With h_ij the wins of i against j plus half their ties, nu the width of ties, root = sqrt(pi_i pi_j) and
    D = pi_i + pi_j + 2 nu root:
        pi_i <- sum_j h_ij (blend pi_i + pi_j + nu root) / D + prior (blend pi_i + rival_i) / (pi_i + rival_i)
                over sum_j (blend h_ij + h_ji (1 + nu sqrt(pi_j / pi_i))) / D + prior (1 + blend) / (...)
    """
    tied = bool(width.any())
    for i in range(power.shape[1]):
        own = power[:, i, None]
        share: Array | float = 1.0
        total = own + power
        numerator = blend * own + power
        if tied:
            root = width * np.sqrt(own * power)
            total, numerator, share = total + 2 * root, numerator + root, 1 + root / own
        won, lost = half[:, i] / total, half[:, :, i] / total
        against = prior / (own[:, 0] + rival[:, i])
        gain = (won * numerator).sum(axis=1) + against * (blend * own[:, 0] + rival[:, i])
        cost = (blend * won + lost * share).sum(axis=1) + against * (1 + blend)
        played = gain + cost > 0
        with np.errstate(divide="ignore", invalid="ignore"):
            fresh = np.where(played, gain / cost, own[:, 0])
        power[:, i] = np.clip(fresh, np.exp(-EXTREME), np.exp(EXTREME))


def _tie_width(wins: Array, ties: Array, power: Array, width: Array) -> Array:
    """Davidson's nu of every topic, (q, 1), at these strengths: ties seen over ties that a nu of 1 would give."""
    own, other = power[:, :, None], power[:, None, :]
    root = np.sqrt(own * other)
    total = own + other + 2 * width[:, :, None] * root
    leeway = 2 * (wins * root / total).sum(axis=(1, 2))[:, None]
    drawn = (ties * (own + other) / total).sum(axis=(1, 2))[:, None] / 2
    return np.where(leeway > 0, drawn / np.maximum(leeway, np.finfo(np.float64).tiny), width)


def _island_means(values: Array, islands: NDArray[np.int64]) -> Array:
    """The mean of ``values`` over the island of every candidate, (q, n)."""
    flat = (np.arange(len(islands))[:, None] * islands.shape[1] + islands).ravel()
    count = np.bincount(flat, minlength=islands.size)
    total = np.bincount(flat, values.ravel(), islands.size)
    return np.asarray((total / np.maximum(count, 1))[flat].reshape(values.shape))
