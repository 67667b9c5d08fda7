"""Aggregators that know several judges (models, prompts, workers): noisy Bradley-Terry and peer weighting."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from ..pairs.solving import standardised_prior
from ..pairs.sparse_newton import strengths
from ..pairs.table import Array, check_prior, tally, warn_unsettled
from ..registry import aggregators
from ..vocabulary import Preferences
from .bradley_terry import BradleyTerry
from .counting import Additive

SETTLED_BT = 1e-5
"""Expectation-maximisation ends once no strength, skill or lean moves by more."""
SETTLED_PEER = 1e-9
"""Peer weighting ends once no judge's weight moves by more."""


@aggregators.register("noisy_bt")
@dataclass(frozen=True)
class NoisyBradleyTerry:
    """Bradley-Terry with a skill and an order bias per judge, fitted by expectation-maximisation.

    Judge w answers by the strengths with probability skill_w and otherwise names the first of the pair with
    probability lean_w: P(i beats j | w) = skill_w sigmoid(s_i - s_j) + (1 - skill_w) lean_w. Judges are shared
    by all topics of a call (`Preferences.source`; one judge where absent). Strengths have the prior
    N(mean * z, 1 / prior) of ``bradley_terry``, skills and leans Beta priors.
    Source: Bugakova et al. 2019; Pavlichenko and Ustalov, arXiv 2110.14990.

    Args:
        prior: weight of the prior on strengths.
        mean: how many logits one standard deviation of first-stage scores is worth.
        trust: pseudo-answers given by the strengths that every judge starts with, against one that was not.
        steps: rounds of expectation-maximisation at most; they end once nothing moves by more than 1e-5, and a
            warning says so where they do not.
    """

    prior: float = 1.0
    mean: float = 1.0
    trust: float = 9.0
    steps: int = 1000

    pooled = True
    """Topics inform each other through the judges they share."""

    def __post_init__(self) -> None:
        if not self.prior > 0 or not self.trust > 0 or self.steps < 1:
            raise ValueError("prior and trust must be positive and steps at least 1")

    def __call__(self, preferences: Preferences) -> Array:
        won, lost, _, _ = self._fit(preferences)
        weight = won + lost
        share = np.divide(won, weight, out=np.full_like(won, 0.5), where=weight > 0)
        share = np.where(np.abs(preferences.probability - 0.5) <= 1e-12, 0.5, share)
        honest = dataclasses.replace(preferences, probability=np.clip(share, 0, 1), weight=weight)
        return BradleyTerry(self.prior, self.mean)(honest)

    def judges(self, preferences: Preferences) -> tuple[NDArray[np.int32], Array, Array]:
        """The judges, ascending, with the skill and the lean towards the first of a pair of each, (judges,)."""
        _, _, skill, lean = self._fit(preferences)
        return _judges(preferences)[0], skill, lean

    def _fit(self, said: Preferences) -> tuple[Array, Array, Array, Array]:
        """Games that first won and lost in honest answers, (E,), and skill and lean of the judges."""
        names, judge = _judges(said)
        mask = np.arange(int(said.sizes.max(initial=0))) < said.sizes[:, None]
        mean = np.zeros(mask.shape)
        mean[mask] = self.mean * standardised_prior(said)
        topic = np.repeat(np.arange(len(said)), np.diff(said.offsets))
        weight = np.ones(len(judge)) if said.weight is None else said.weight
        yes, no = weight * said.probability, weight * (1 - said.probability)
        asked = tally(judge, weight, (len(names),))
        skill = np.full(len(names), self.trust / (self.trust + 1))
        lean = np.full(len(names), 0.5)
        power, moved = mean, 0.0
        for _ in range(self.steps):
            win = expit(power[topic, said.first] - power[topic, said.second])
            a, b = skill[judge], lean[judge]
            won = yes * (a * win / (a * win + (1 - a) * b))
            lost = no * (a * (1 - win) / (a * (1 - win) + (1 - a) * (1 - b)))
            before = power, skill, lean
            power = strengths(said.offsets, said.first, said.second, won, lost, mean, self.prior, power, 1e-7)
            honest = tally(judge, won + lost, skill.shape)
            skill = (honest + self.trust) / (asked + self.trust + 1)
            lean = (tally(judge, yes - won, lean.shape) + 1) / (asked - honest + 2)
            after = power, skill, lean
            moved = max(float(np.abs(new - old).max(initial=0)) for new, old in zip(after, before, strict=True))
            if moved <= SETTLED_BT:
                break
        warn_unsettled(str(self), np.array([moved]), SETTLED_BT, f"{self.steps} steps")
        return won, lost, skill, lean


@aggregators.register("peer")
@dataclass(frozen=True)
class PeerWeighted:
    """The mean preference with every judge weighted by its agreement with the weighted consensus, iterated.

    Agreement is the share of a judge's preference weight |2p - 1| on which the consensus of each topic takes
    the same side (a level pair counts half). Judges are shared by all topics of a call.
    Source: Li, Patel, Du, PRD, TMLR 2024.

    Args:
        rounds: reweightings at most; it settles within a few, and a warning says so where it does not.
        normalise: "minmax" as published, where the weakest judge gets weight 0, or "share", proportional.
        prior: games that every candidate plays against all others as the first stage predicts.
    """

    rounds: int = 10
    normalise: Literal["minmax", "share"] = "minmax"
    prior: float = 0.0

    pooled = True
    """Topics inform each other through the judges they share."""

    def __post_init__(self) -> None:
        check_prior(self.prior)
        if self.rounds < 1:
            raise ValueError(f"rounds must be at least 1, found {self.rounds}")

    def __call__(self, preferences: Preferences) -> Array:
        _, weight = self.judges(preferences)
        return Additive(self.prior)(_weighed(preferences, weight))

    def judges(self, preferences: Preferences) -> tuple[NDArray[np.int32], Array]:
        """The judges, ascending, and their weights, which sum to 1 (judges,)."""
        names, judge = _judges(preferences)
        weight = np.full(len(names), 1 / max(len(names), 1))
        starts = np.cumsum(preferences.sizes) - preferences.sizes
        shift = np.repeat(starts, np.diff(preferences.offsets))
        lead = 2 * preferences.probability - 1
        given = np.ones(len(lead)) if preferences.weight is None else preferences.weight
        stake = tally(judge, given * np.abs(lead), weight.shape)
        moved = 0.0
        for _ in range(self.rounds):
            consensus = Additive(self.prior)(_weighed(preferences, weight))
            side = np.sign(consensus[shift + preferences.first] - consensus[shift + preferences.second])
            agreed = tally(judge, given * np.abs(lead) * (1 + side * np.sign(lead)) / 2, weight.shape)
            agreement = np.divide(agreed, stake, out=np.full_like(agreed, 0.5), where=stake > 0)
            before, weight = weight, self._normalised(agreement)
            moved = float(np.abs(weight - before).max(initial=0))
            if moved <= SETTLED_PEER:
                break
        warn_unsettled(str(self), np.array([moved]), SETTLED_PEER, f"{self.rounds} rounds")
        return names, weight

    def _normalised(self, agreement: Array) -> Array:
        if self.normalise == "minmax" and np.ptp(agreement) > 1e-9:
            agreement = agreement - agreement.min()
        total = agreement.sum()
        return agreement / total if total > 0 else np.full_like(agreement, 1 / len(agreement))


def _judges(preferences: Preferences) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """All judges, ascending, and the index of each comparison's judge among them, (E,)."""
    if preferences.source is None:
        return np.zeros(1, np.int32), np.zeros(len(preferences.first), np.int64)
    names, index = np.unique(preferences.source, return_inverse=True)
    return names, index.astype(np.int64)


def _weighed(preferences: Preferences, judges: Array) -> Preferences:
    """The same comparisons, weights multiplied by the weight of their judge."""
    _, judge = _judges(preferences)
    given = 1.0 if preferences.weight is None else preferences.weight
    return dataclasses.replace(preferences, weight=given * judges[judge])
