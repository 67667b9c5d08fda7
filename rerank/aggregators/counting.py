"""Aggregators that count: the mean preference, win rates and Copeland's pairs won minus pairs lost."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..pairs.solving import solve
from ..pairs.table import Array, Table, as_verdicts, check_prior, ratio, verdicts
from ..registry import aggregators
from ..vocabulary import Preferences


@aggregators.register("additive")
@dataclass(frozen=True)
class Additive:
    """The mean probability of being better, over the comparisons a candidate took part in (sym-sum).

    Every comparison counts for both sides: p for the first, 1 - p for the second. The mean, not the sum, so
    that being asked about more often is no advantage. A candidate without comparisons gets 0.5.
    Source: Gienapp et al., ICTIR 2022; Pradeep et al. 2021.

    Args:
        prior: games that every candidate plays against all others as the first stage predicts.
        total: the published sum instead of the mean.
    """

    prior: float = 0.0
    total: bool = False

    def __post_init__(self) -> None:
        check_prior(self.prior)

    def __call__(self, preferences: Preferences) -> Array:
        return solve(preferences, self._scores)

    def _scores(self, table: Table) -> Array:
        wins, games = table.with_prior(self.prior)
        won, played = wins.sum(axis=2), games.sum(axis=2)
        return won if self.total else ratio(won, played)


@aggregators.register("win_rate")
@dataclass(frozen=True)
class WinRate:
    """The mean over opponents of the share of games won, so that a frequent opponent counts once.

    Unlike `Additive`, which averages over games. A candidate without comparisons gets 0.5.

    Args:
        prior: games that every candidate plays against all others as the first stage predicts.
        hard: count a game as won, lost or (at exactly 0.5) tied, rather than by its probability.
    """

    prior: float = 0.0
    hard: bool = False

    def __post_init__(self) -> None:
        check_prior(self.prior)

    def __call__(self, preferences: Preferences) -> Array:
        return solve(as_verdicts(preferences) if self.hard else preferences, self._scores)

    def _scores(self, table: Table) -> Array:
        wins, games = table.with_prior(self.prior)
        met = games > 0
        return ratio((ratio(wins, games) * met).sum(axis=2), met.sum(axis=2).astype(float))


@aggregators.register("copeland")
@dataclass(frozen=True)
class Copeland:
    """Pairs won minus pairs lost; a pair is won by the majority of its games, and a tied pair counts nothing.

    Args:
        prior: games that every candidate plays against all others as the first stage predicts.
    """

    prior: float = 0.0

    def __post_init__(self) -> None:
        check_prior(self.prior)

    def __call__(self, preferences: Preferences) -> Array:
        return solve(preferences, self._scores)

    def _scores(self, table: Table) -> Array:
        return np.asarray(verdicts(*table.with_prior(self.prior)).sum(axis=2))
