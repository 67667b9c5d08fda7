"""SerialRank: ranking by similarity of outcomes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..pairs.solving import solve
from ..pairs.table import Array, Table, by_size, check_prior
from ..registry import aggregators
from ..vocabulary import Preferences


@aggregators.register("serialrank")
@dataclass(frozen=True)
class SerialRank:
    """Candidates with similar outcomes against the others stand together: the Fiedler vector of the similarity.

    With a_ij the mean of 2p - 1 over the games of i and j (0 without games, 1 for i = j), similarity is
    (n + A A^T) / 2. The vector's direction is the one that fewer comparisons contradict. Where the second
    eigenvalue is multiple, the pairs won decide within its space.
    Source: Fogel, d'Aspremont, Vojnovic, NeurIPS 2014.

    Args:
        prior: games that every candidate plays against all others as the first stage predicts.
    """

    prior: float = 0.0

    def __post_init__(self) -> None:
        check_prior(self.prior)

    def __call__(self, preferences: Preferences) -> Array:
        return solve(preferences, self._scores, noise=1e-8)

    def _scores(self, table: Table) -> Array:
        wins, games = table.with_prior(self.prior)
        lead = np.divide(2 * wins - games, games, out=np.zeros_like(wins), where=games > 0)
        scores = np.zeros(table.mask.shape)
        for rows, size in by_size(table):
            if size > 1:
                scores[rows, :size] = _fiedler(lead[rows, :size, :size])
        return scores


def _fiedler(lead: Array) -> Array:
    n = lead.shape[1]
    signed = lead + np.eye(n)
    similarity = (n + signed @ signed.transpose(0, 2, 1)) / 2
    laplacian = -similarity
    diagonal = np.arange(n)
    laplacian[:, diagonal, diagonal] += similarity.sum(axis=2)
    values, vectors = np.linalg.eigh(laplacian)
    second = values[:, 1:2]
    inside = np.abs(values - second) <= 1e-9 * np.maximum(values[:, -1:], 1.0)
    inside[:, 0] = False
    won = lead.sum(axis=2)
    share = (vectors * won[:, :, None]).sum(axis=1) * inside
    projected = (vectors * share[:, None, :]).sum(axis=2)
    single = inside.sum(axis=1) == 1
    vector = np.where(single[:, None], vectors[:, :, 1], projected)
    length = np.linalg.norm(vector, axis=1, keepdims=True)
    vector = np.divide(vector, length, out=np.zeros_like(vector), where=length > 1e-9)
    agree = (lead * np.sign(vector[:, :, None] - vector[:, None, :])).sum(axis=(1, 2))
    level = np.abs(agree) <= 1e-9 * n
    sense = np.where(level, (vector * won).sum(axis=1), agree)
    return np.asarray(vector * np.where(sense < 0, -1.0, 1.0)[:, None])
