"""The only place where candidates, schedule, model and aggregator meet.

    candidates → schedule ⇄ scorer → preferences → aggregator → scores

Many topics are in flight at once and their rounds are merged into one call of the scorer, so that schedules
which ask a little at a time still fill the device.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from . import registry
from .rounds import Order, Play, check_widths, topic_rng
from .vocabulary import Aggregator, Candidates, Judge, Preferences, Schedule


@dataclass(frozen=True, slots=True)
class Ranked:
    """One topic's result: a finite score for every candidate, (n,), and what it cost."""

    candidates: Candidates
    scores: NDArray[np.float64]
    preferences: Preferences
    calls: int
    rounds: int
    quarantined: NDArray[np.int64]


def rerank(
    topics: Iterable[Candidates],
    scorer: Judge,
    schedule: Schedule,
    aggregator: Aggregator | None = None,
    *,
    order: Order = "random",
    seed: int = 0,
    budget: int | None = None,
    in_flight: int = 256,
) -> Iterator[Ranked]:
    """Ranks every topic; yields results in input order, keeping at most ``in_flight`` topics in memory.

    Args:
        aggregator: ranks from the preferences. None takes the order that the schedule returns, or the model's
            own scores where it scored every candidate by itself or in one list, else ``log_odds`` of pairs
            and ``bradley_terry`` of the pairs that lists imply.
        order: in which order a pair is shown: "random" tosses a fair coin, "both" asks twice and takes the
            mean, "given" keeps the schedule's. Schedules that choose the order themselves keep it unless "both".
        budget: at most so many comparisons (groups, for listwise models) per topic; a schedule that is cut
            short is ranked from what was asked and the prior.

    Raises:
        UsageError: the schedule asks what the model cannot answer.
    """
    check_widths(schedule, scorer.width)
    stream = iter(topics)
    while wave := list(itertools.islice(stream, in_flight)):
        plays = [Play(topic, schedule, scorer.width, order, topic_rng(seed, topic.qid), budget) for topic in wave]
        _play_out(plays, scorer)
        yield from _conclude(plays, aggregator)


def _play_out(plays: Sequence[Play], scorer: Judge) -> None:
    active = [(play, groups) for play in plays if (groups := play.start()) is not None]
    while active:
        outcomes = scorer([play.candidates for play, _ in active], [groups for _, groups in active])
        replies = [(play, play.answer(said)) for (play, _), said in zip(active, outcomes, strict=True)]
        active = [(play, groups) for play, groups in replies if groups is not None]


def _conclude(plays: Sequence[Play], aggregator: Aggregator | None) -> Iterator[Ranked]:
    preferences = [play.preferences() for play in plays]
    scores = [None if aggregator is not None else _own_scores(play) for play in plays]
    rest = [index for index, known in enumerate(scores) if known is None]
    if rest:
        # a list's implied wins are 0 or 1, a pair model's probabilities say how sure it is
        judge = aggregator or registry.aggregators.parse("log_odds" if plays[0].width == 2 else "bradley_terry")
        joined = judge(Preferences.join(preferences[index] for index in rest))
        ends = np.cumsum([len(plays[index].candidates) for index in rest])
        for index, part in zip(rest, np.split(joined, ends[:-1]), strict=True):
            scores[index] = part
    for play, known, said in zip(plays, scores, preferences, strict=True):
        final = np.array(known, dtype=np.float64)
        unscored = np.flatnonzero(np.isnan(final))
        if len(unscored):  # below everything that was scored, in first-stage order
            floor = np.nanmin(final) if len(unscored) < len(final) else 0.0
            final[unscored] = floor - 1.0 - np.arange(len(unscored))
        yield Ranked(play.candidates, final, said, play.calls, play.rounds, unscored)


def _own_scores(play: Play) -> NDArray[np.float64] | None:
    """Scores without an aggregator: the schedule's final order, or the model's scores if each is comparable."""
    n = len(play.candidates)
    if play.final is not None:
        scores = np.empty(n)
        scores[play.final] = np.arange(n, 0, -1)
        return scores
    comparable = play.schedule.width == 1 or (
        play.schedule.width is None and (play.width == 1 or (play.width is None and play.calls == 1))
    )
    return play.scores if comparable else None
