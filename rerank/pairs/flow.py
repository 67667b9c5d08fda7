"""Comparisons as flows on the edges of a graph."""

from __future__ import annotations

import numpy as np

from .graph import islands
from .table import Array, Table, ratio

CLIP = 0.01
"""Probabilities are clipped to [CLIP, 1 - CLIP] before logit, so that certainty stays finite."""


def edge_flow(wins: Array, games: Array, kind: str) -> Array:
    """The antisymmetric flow between compared candidates, 0 elsewhere, (q, n, n)."""
    share = ratio(wins, games)
    if kind == "linear":
        return np.asarray(2 * share - 1)
    share = np.clip(share, CLIP, 1 - CLIP)
    return np.asarray(np.log(share / (1 - share)))


def gradient(flow: Array, weight: Array, table: Table, prior: float) -> Array:
    """The scores with differences nearest to ``flow``, (q, n): one linear solve per topic.

    Without a prior the Laplacian is singular once per component: adding a constant inside each component
    makes it regular and gives the solution that is centred there.
    """
    n = table.mask.shape[1]
    system = -weight
    if prior:
        link = np.zeros_like(weight)
    else:
        island = islands(table)
        link = (island[:, :, None] == island[:, None, :]) & table.mask[:, :, None]
    diagonal = np.arange(n)
    system = system + link
    system[:, diagonal, diagonal] += weight.sum(axis=2) + np.where(table.mask, prior, 1.0)
    target = (weight * flow).sum(axis=2) + prior * table.prior
    return np.linalg.solve(system, target[:, :, None])[:, :, 0]
