"""Aggregators that fit score differences by least squares: HodgeRank, and a robust version."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np

from ..pairs.flow import edge_flow, gradient
from ..pairs.solving import solve
from ..pairs.table import Array, Table, check_prior, warn_unsettled
from ..registry import aggregators
from ..vocabulary import Preferences

SETTLED = 1e-8
"""Reweighting ends once no score of any topic moves by more."""


@aggregators.register("hodgerank")
@dataclass(frozen=True)
class HodgeRank:
    """Scores whose differences are nearest to the preferences in weighted least squares.

    The gradient part of the edge flow y: L s = div y, with the graph Laplacian L of the games. What no scores
    can explain is the cyclic part, whose share `sparring.rerank.pairs.diagnostics` reports. Components of the
    comparison graph are centred at 0 each, unless the prior links them.
    Source: Jiang, Lim, Yao, Ye, Mathematical Programming 127, 2011.

    Args:
        flow: what a probability p says of a difference: 2p - 1 ("linear") or its log odds ("logit").
        prior: weight of a pull towards the standardised first-stage scores.
    """

    flow: Literal["linear", "logit"] = "linear"
    prior: float = 0.0

    def __post_init__(self) -> None:
        check_prior(self.prior)

    def __call__(self, preferences: Preferences) -> Array:
        return solve(preferences, self._scores)

    def _scores(self, table: Table) -> Array:
        flow = edge_flow(table.wins, table.games, self.flow)
        return gradient(flow, table.games, table, self.prior)


@aggregators.register("robust_bt")
@dataclass(frozen=True)
class RobustBradleyTerry:
    """Scores whose differences fit the log odds under Huber's loss, so that corrupted preferences count less.

    Iteratively reweighted least squares: a pair whose residual r exceeds ``threshold`` gets weight
    threshold / |r|. Needs more than about three comparisons per candidate to tell the corrupted ones.
    Source: Huber 1964; a practical stand-in for robust matrix completion (CURATRON, arXiv 2403.02745).

    Args:
        threshold: residual in logits up to which a pair counts fully.
        prior: weight of a pull towards the standardised first-stage scores.
        steps: reweightings at most; they end once no score moves by more than 1e-8, and a warning says so where
            they do not.
    """

    threshold: float = 1.0
    prior: float = 0.1
    steps: int = 50

    def __post_init__(self) -> None:
        check_prior(self.prior)
        if not self.threshold > 0 or self.steps < 1:
            raise ValueError("threshold must be positive and steps at least 1")

    def __call__(self, preferences: Preferences) -> Array:
        moved: list[Array] = []
        scores = solve(preferences, partial(self._scores, moved=moved), noise=1e-7)
        warn_unsettled(str(self), np.concatenate([*moved, np.zeros(0)]), SETTLED, f"{self.steps} reweightings")
        return scores

    def _scores(self, table: Table, moved: list[Array]) -> Array:
        flow = edge_flow(table.wins, table.games, "logit")
        scores = gradient(flow, table.games, table, self.prior)
        move = np.zeros(len(scores))
        for _ in range(self.steps):
            residual = np.abs(flow - (scores[:, :, None] - scores[:, None, :]))
            weight = table.games * np.minimum(1.0, self.threshold / np.maximum(residual, 1e-300))
            before, scores = scores, gradient(flow, weight, table, self.prior)
            move = np.abs(scores - before).max(axis=1)
            if move.max() <= SETTLED:
                break
        moved.append(move)
        return scores
