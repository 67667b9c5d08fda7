"""One topic in play: turns what a schedule asks into what the model can answer, and back.

A schedule asks pairs, or groups of any width; a model answers single texts, pairs or lists. All nine meetings
of the two are settled here, so that neither has to know the other:

=============  ==================  ==========================  ===========================
schedule asks  pointwise model     pairwise model              listwise model
=============  ==================  ==========================  ===========================
singles        its score           refused                     a list of one
pairs          sigma(s_i - s_j)    P(i beats j)                sigma of a list of two
groups         members' scores     all pairs of the group      members' scores
=============  ==================  ==========================  ===========================

A pointwise model scores each candidate once per topic, however often it is asked for.
"""

from __future__ import annotations

import hashlib
from collections.abc import Generator
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from .errors import UsageError
from .vocabulary import Candidates, Groups, Outcomes, Preferences, Schedule

Order = Literal["random", "both", "given"]
Edges = tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.float64]]


def topic_rng(seed: int, qid: str) -> np.random.Generator:
    """The generator of one topic, drawn from (seed, qid): results do not depend on order or concurrency."""
    digest = hashlib.blake2b(qid.encode("utf-8", "surrogatepass"), digest_size=16).digest()
    return np.random.default_rng([seed, *np.frombuffer(digest, np.uint32).tolist()])


def check_widths(schedule: Schedule, width: int | None) -> None:
    """Refuses a schedule that a model of ``width`` cannot play, before any work."""
    if schedule.width == 1 and width == 2:
        raise UsageError(
            f"{schedule} scores candidates one by one, but the model compares pairs: choose a schedule of pairs "
            "such as bayes, random(rate=0.1) or all"
        )


@dataclass(slots=True)
class Play:
    """The state of one topic while its schedule runs."""

    candidates: Candidates
    schedule: Schedule
    width: int | None
    order: Order
    rng: np.random.Generator
    budget: int | None = None
    rounds: int = 0
    calls: int = 0
    final: NDArray[np.int32] | None = None
    scores: NDArray[np.float64] = field(init=False)
    asked: Groups | None = None
    _rounds: Generator[Groups, Outcomes, NDArray[np.int32] | None] = field(init=False)
    _edges: list[Edges] = field(default_factory=list)
    _truncated: bool = False
    _members: Groups = field(init=False)

    def __post_init__(self) -> None:
        self.scores = np.full(len(self.candidates), np.nan)
        self._rounds = self.schedule.rounds(self.candidates.scores, self.rng)

    def start(self) -> Groups | None:
        """The groups to put to the model first, or None if the schedule asks nothing."""
        return self._advance(None)

    def answer(self, outcomes: Outcomes) -> Groups | None:
        """Takes the model's outcomes of the groups last put to it; returns the next groups, or None at the end."""
        self.rounds += 1
        reply = self._take(outcomes)
        if self._truncated:
            self._rounds.close()
            return None
        return self._advance(reply)

    def preferences(self) -> Preferences:
        """All comparisons so far, in the order in which they were asked; quarantined ones are left out."""
        first, second, probability = (
            np.concatenate([edges[column] for edges in self._edges] or [np.empty(0)]) for column in range(3)
        )
        valid = ~np.isnan(probability)
        return Preferences(
            sizes=np.array([len(self.candidates)]),
            offsets=np.array([0, valid.sum()]),
            first=first[valid].astype(np.int32),
            second=second[valid].astype(np.int32),
            probability=probability[valid],
            prior=self.candidates.scores,
        )

    def _advance(self, reply: Outcomes | None) -> Groups | None:
        while True:
            try:
                members = next(self._rounds) if reply is None else self._rounds.send(reply)
            except StopIteration as stop:
                self.final = stop.value
                return None
            self._members = self._cut(members)
            if not len(self._members):
                self._rounds.close()
                return None
            self.asked = self._translate()
            self.calls += len(self.asked)
            if len(self.asked):
                return self.asked
            reply = self._take(np.empty(0))  # a pointwise model has scored all of these already
            if self._truncated:
                self._rounds.close()
                return None

    def _cut(self, members: Groups) -> Groups:
        """Keeps what the budget still pays for: ordered pairs for pairs, groups otherwise."""
        if self.budget is None:
            return members
        spent = sum(len(edges[0]) for edges in self._edges) if self._pairs else self.calls
        if self._pairs:
            price = 2 if self.order == "both" else 1
        else:
            size = members.shape[1]
            price = size * (size - 1) // 2 if self.width == 2 else 1
        room = max(0, (self.budget - spent) // price)
        self._truncated = room < len(members)
        return members[:room]

    @property
    def _pairs(self) -> bool:
        return self.schedule.width == 2

    def _translate(self) -> Groups:
        """What to put to the model for ``_members``: new singles, pairs in the order of asking, or groups."""
        if self.width == 1:
            wanted = np.unique(self._members[self._members >= 0])
            return wanted[np.isnan(self.scores[wanted])].astype(np.int32)[:, None]
        if not self._pairs:
            return pairs_within(self._members) if self.width == 2 else self._members
        pairs = self._members
        if self.order == "random" and not self.schedule.oriented:
            flip = self.rng.random(len(pairs)) < 0.5
            return np.where(flip[:, None], pairs[:, ::-1], pairs)
        if self.order == "both":
            return unique_rows(np.concatenate([pairs, pairs[:, ::-1]]))
        return pairs

    def _take(self, outcomes: Outcomes) -> Outcomes:
        """Stores what the model said and gives it the shape the schedule expects."""
        asked = self.asked if self.asked is not None else np.empty((0, 1), np.int32)
        if self.width == 1:
            self.scores[asked[:, 0]] = outcomes.reshape(-1)
            return self._from_scores(np.where(self._members >= 0, self.scores[self._members], np.nan))
        if self.width is None:
            if self._pairs:
                outcomes = win_probability(outcomes[:, 0] - outcomes[:, 1])
            else:
                self._remember(outcomes)
                return self._from_scores(outcomes)
        self._edges.append((asked[:, 0], asked[:, 1], outcomes))
        return self._wins(asked, outcomes)

    def _remember(self, outcomes: Outcomes) -> None:
        valid = self._members >= 0
        self.scores[self._members[valid]] = outcomes[valid]

    def _from_scores(self, scores: Outcomes) -> Outcomes:
        """Scores of members → outcomes of the schedule's kind, keeping the implied pairs as preferences."""
        if self.schedule.width == 1:
            return scores
        if self._pairs:
            probability = win_probability(scores[:, 0] - scores[:, 1])
            self._edges.append((self._members[:, 0], self._members[:, 1], probability))
            return probability
        left, right = np.triu_indices(self._members.shape[1], 1)
        first, second = self._members[:, left].ravel(), self._members[:, right].ravel()
        margin = (scores[:, left] - scores[:, right]).ravel()
        real = (first >= 0) & (second >= 0)
        # an earlier place in the list beats a later one, by however little (JointRank, ICTIR 2025)
        self._edges.append((first[real], second[real], 0.5 + 0.5 * np.sign(margin[real])))
        return scores

    def _wins(self, asked: Groups, probability: Outcomes) -> Outcomes:
        """Pair outcomes → P(first better) of the pairs as yielded, or each member's share of wins in its group."""
        n = len(self.candidates)
        table = np.full((n, n), np.nan)
        table[asked[:, 0], asked[:, 1]] = probability
        debiased = pair_mean(table, 1 - table.T)
        if self._pairs:
            return np.asarray(debiased[self._members[:, 0], self._members[:, 1]])
        rows, columns = self._members[:, :, None], self._members[:, None, :]
        real = (rows >= 0) & (columns >= 0) & (rows != columns)
        shares = np.where(real, debiased[rows, columns], np.nan)
        count = np.maximum((~np.isnan(shares)).sum(axis=2), 1)
        return np.where(self._members >= 0, np.nansum(shares, axis=2) / count, np.nan)


def pairs_within(groups: Groups) -> Groups:
    """All pairs of members of each group, earlier member first, each pair once, (p, 2)."""
    left, right = np.triu_indices(groups.shape[1], 1)
    pairs = np.stack([groups[:, left].ravel(), groups[:, right].ravel()], axis=1)
    return unique_rows(pairs[(pairs >= 0).all(axis=1)])


def unique_rows(pairs: Groups) -> Groups:
    """The distinct rows, in order of first appearance."""
    _, index = np.unique(pairs, axis=0, return_index=True)
    return pairs[np.sort(index)]


def pair_mean(one: NDArray[np.float64], other: NDArray[np.float64]) -> NDArray[np.float64]:
    """The mean of two arrays where both are known, else whichever is."""
    both = (one + other) / 2
    return np.where(np.isnan(one), other, np.where(np.isnan(other), one, both))


def win_probability(margin: NDArray[np.float64]) -> NDArray[np.float64]:
    """P(first is better) of differences of scores."""
    from scipy.special import expit  # here, so that rounds are light to import

    probability: NDArray[np.float64] = expit(margin)
    return probability
