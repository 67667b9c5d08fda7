"""Bradley-Terry: maximum a posteriori by Newton, or Newman's and Zermelo's iterations, with Davidson's ties."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np

from ..pairs import dense_newton as bradley_terry
from ..pairs.graph import islands
from ..pairs.solving import solve, standardised_prior
from ..pairs.sparse_newton import strengths
from ..pairs.sweeps import SETTLED, fit_by_sweeps
from ..pairs.table import Array, Table, tally, warn_unsettled
from ..registry import aggregators
from ..vocabulary import Preferences

ORDER_BIAS_PRECISION = 0.05
"""Prior precision of the order bias in logits: N(0, 20)."""


@aggregators.register("bradley_terry")
@dataclass(frozen=True)
class BradleyTerry:
    """Strengths s with P(i beats j) = sigmoid(s_i - s_j), regularised towards the first stage; the default.

    Outcomes are soft: p is the share of a game won. With ``method="newton"`` the strengths are the mode under
    s ~ N(mean * z, 1 / prior), z being standardised first-stage scores. The iterations put instead ``prior``
    virtual wins and losses of every candidate against an opponent of strength mean * z; with ``prior=0`` they
    are maximum likelihood, which exists only where wins lead from every candidate to every other that it is
    linked to. Candidates that no comparisons link then stand to each other as the first stage says.
    Sources: Zermelo 1929; Davidson, JASA 65, 1970; Newman, JMLR 24(238), 2023.

    Args:
        prior: weight of the prior.
        mean: how many logits one standard deviation of first-stage scores is worth; 0 ignores the first stage.
        method: "newton" (exact, fastest on sparse comparisons), "newman" or "zermelo".
        order_bias: also fit, per topic, the advantage of being shown first. Only for comparisons whose order
            was random: in data that lists the winner first it would explain away the outcomes.
        ties: "half" counts a tie as half a win for both; "davidson" models p = 0.5 as a third outcome with
            probability proportional to the geometric mean of both strengths (method "newman" only).
        steps: sweeps of the iterations at most; they end once no strength moves by more than 1e-10, and a
            warning says so where they do not.
    """

    prior: float = 1.0
    mean: float = 1.0
    method: Literal["newton", "newman", "zermelo"] = "newton"
    order_bias: bool = False
    ties: Literal["half", "davidson"] = "half"
    steps: int = 1000

    def __post_init__(self) -> None:
        if not self.prior >= 0 or self.steps < 1:
            raise ValueError("prior must be 0 or more and steps at least 1")
        if self.method == "newton" and not self.prior > 0:
            raise ValueError("method=newton needs a positive prior: without one the maximum need not exist")
        if self.order_bias and self.method != "newton":
            raise ValueError("order_bias needs method=newton")
        if self.ties == "davidson" and self.method != "newman":
            raise ValueError("ties=davidson needs method=newman")

    def __call__(self, preferences: Preferences) -> Array:
        if self.method == "newton":
            return solve(preferences, self._newton, noise=1e-8)
        moved: list[Array] = []
        scores = solve(preferences, partial(self._iterate, moved=moved), noise=1e-7)
        warn_unsettled(str(self), np.concatenate([*moved, np.zeros(0)]), SETTLED, f"{self.steps} sweeps")
        return scores

    def _newton(self, table: Table) -> Array:
        said, mean = table.preferences, self.mean * table.prior
        if self.order_bias:
            return _fit(said, mean, self.prior, order_bias=True).strength
        if len(said.first) > table.mask.size * table.mask.shape[1] / 2:  # dense: one row per pair, not per game
            topic, first, second = np.nonzero(np.triu(table.games))
            wins, losses = table.wins[topic, first, second], table.wins[topic, second, first]
            offsets = np.searchsorted(topic, np.arange(len(said) + 1))
            return strengths(offsets, first, second, wins, losses, mean, self.prior)
        wins = table.weight * said.probability
        return strengths(said.offsets, said.first, said.second, wins, table.weight - wins, mean, self.prior)

    def _iterate(self, table: Table, moved: list[Array]) -> Array:
        wins, ties = table.wins, np.zeros_like(table.wins)
        if self.ties == "davidson":
            wins, ties = _decided(table)
        found = fit_by_sweeps(
            wins,
            ties,
            self.mean * table.prior,
            islands(table) if self.prior == 0 else None,
            prior=self.prior,
            blend=1.0 if self.method == "zermelo" else 0.0,
            steps=self.steps,
        )
        moved.append(found.moved)
        return np.where(table.mask, found.strength, 0.0)


def posterior(
    preferences: Preferences, prior: float = 1.0, mean: float = 1.0, order_bias: bool = False
) -> tuple[Array, Array]:
    """Posterior mode and standard deviation of every candidate's strength, each (sum of sizes,).

    The model of ``bradley_terry(prior, mean, order_bias)``, with the Laplace approximation. Unlike the
    aggregator it does not treat topics without information specially: they return the prior.
    """
    mask = np.arange(int(preferences.sizes.max(initial=0))) < preferences.sizes[:, None]
    centre = np.zeros(mask.shape)
    centre[mask] = mean * standardised_prior(preferences)
    found = _fit(preferences, centre, prior, order_bias, covariance=True)
    if found.covariance is None:  # pragma: no cover - asked for above
        raise RuntimeError("the fit returned no covariance")
    variance = np.diagonal(found.covariance, axis1=1, axis2=2)
    return found.strength[mask], np.sqrt(variance[mask])


def _fit(
    said: Preferences, mean: Array, prior: float, order_bias: bool, covariance: bool = False
) -> bradley_terry.Posterior:
    return bradley_terry.fit(
        said.offsets,
        said.first,
        said.second,
        said.probability,
        mean,
        weight=said.weight,
        precision=prior,
        bias_precision=ORDER_BIAS_PRECISION if order_bias else np.inf,
        covariance=covariance,
    )


def _decided(table: Table) -> tuple[Array, Array]:
    """Wins of decided games and numbers of ties (p = 0.5), each (q, n, n); ties are symmetric."""
    said, (count, n) = table.preferences, table.mask.shape
    tie = np.abs(said.probability - 0.5) <= 1e-12
    flat = (table.topic * n + said.first) * n + said.second
    shown = tally(flat, table.weight * tie, (count, n, n))
    ties = shown + shown.transpose(0, 2, 1)
    return table.wins - ties / 2, ties
