"""The belief of the Bayesian schedule as an aggregator: nothing to set, whatever the comparator's scale."""

from __future__ import annotations

from dataclasses import dataclass

from scipy.special import logit

from ..pairs.beliefs import believe
from ..pairs.solving import solve
from ..pairs.table import Array, Table
from ..registry import aggregators
from ..vocabulary import Preferences


@aggregators.register("log_odds")
@dataclass(frozen=True)
class LogOdds:
    """Posterior mean of Gaussian strengths seen through noisy log-odds; what `bayes` ranks by.

    How far to trust the first stage and how noisy the comparator is follows from the outcomes of each topic, so
    that multiplying all log-odds by a number changes no order. Scores are in log-odds.
    Source: Thurstone 1927; type-II likelihood as in MacKay, Neural Computation 4, 1992.

    Args:
        clip: outcomes are moved into [clip, 1 - clip], so that log-odds are finite.
        order_bias: also learn, per topic, the advantage of being shown first. Only for comparisons whose order
            was random: in data that lists the winner first it would explain away the outcomes.
    """

    clip: float = 0.005
    order_bias: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.clip < 0.5:
            raise ValueError("clip must lie between 0 and 0.5")

    def __call__(self, preferences: Preferences) -> Array:
        return solve(preferences, self._scores, noise=1e-8)

    def _scores(self, table: Table) -> Array:
        said = table.preferences
        return believe(
            said.offsets,
            said.first,
            said.second,
            logit(said.probability.clip(self.clip, 1 - self.clip)),
            table.prior,
            weight=said.weight,
            order_bias=self.order_bias,
        ).strength
