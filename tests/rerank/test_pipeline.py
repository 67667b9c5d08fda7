"""The pipeline: every kind of schedule meets every kind of model, and costs and orders are as promised."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest
from numpy.typing import NDArray
from sparring.rerank.errors import UsageError
from sparring.rerank.pipeline import Ranked, rerank
from sparring.rerank.registry import schedules
from sparring.rerank.rounds import Order, pairs_within, topic_rng
from sparring.rerank.vocabulary import Candidates, Groups, Outcomes, Preferences, Scorer, Sink


@dataclass
class Table:
    """A scorer that knows each text's strength (the text itself) and favours what is shown first by ``bias``."""

    width: int | None
    bias: float = 0.0
    broken: str | None = None
    fingerprint: str = "table"
    seen: int = 0

    def __call__(
        self, topics: Sequence[Candidates], groups: Sequence[Groups], sink: Sink | None = None
    ) -> list[Outcomes]:
        self.seen += sum(len(g) for g in groups)
        return [self._answer(topic, g) for topic, g in zip(topics, groups, strict=True)]

    def _answer(self, topic: Candidates, groups: Groups) -> Outcomes:
        strength = np.array([np.nan if t == self.broken else float(t) for t in topic.texts])
        member = np.where(groups >= 0, strength[groups], np.nan)
        if self.width == 2:
            return np.asarray(1 / (1 + np.exp(member[:, 1] - member[:, 0] - self.bias)))
        return member


@dataclass(frozen=True)
class Fixed:
    """Asks the given groups in one round."""

    groups: tuple[tuple[int, ...], ...]
    width: int | None = 2
    oriented: bool = False

    def __str__(self) -> str:
        return "fixed"

    def rounds(
        self, prior: NDArray[np.float64], rng: np.random.Generator
    ) -> Generator[Groups, Outcomes, NDArray[np.int32] | None]:
        said = yield np.array(self.groups, np.int32)
        heard.append(said)
        return None


@dataclass(frozen=True)
class WinRate:
    """Mean probability of winning; candidates never asked lie at one half."""

    spec_name: ClassVar[str] = "winrate"

    def __call__(self, preferences: Preferences) -> NDArray[np.float64]:
        wins, games, _ = preferences.dense()
        total = games.sum(2)
        return preferences.ragged(np.where(total > 0, wins.sum(2) / np.maximum(total, 1e-9), 0.5))


heard: list[Outcomes] = []


def topic(strengths: Sequence[float], qid: str = "q") -> Candidates:
    n = len(strengths)
    return Candidates(
        qid, "query", tuple(f"d{i}" for i in range(n)), [str(s) for s in strengths], np.arange(n, 0.0, -1.0)
    )


def play(
    schedule: Fixed, scorer: Scorer, strengths: Sequence[float], order: Order = "random", **options: int
) -> Ranked:
    heard.clear()
    (ranked,) = rerank([topic(strengths)], scorer, schedule, WinRate(), order=order, **options)  # type: ignore[arg-type]
    return ranked


ALL = tuple((i, j) for i in range(4) for j in range(4) if i < j)
STRENGTHS = (0.0, 2.0, -1.0, 1.0)
BEST_FIRST = [1, 3, 0, 2]


@pytest.mark.parametrize("width", [1, 2, None])
@pytest.mark.parametrize(
    "schedule", [Fixed(ALL), Fixed(((0, 1, 2), (1, 2, 3), (0, 3, -1)), None)], ids=["pairs", "lists"]
)
def test_every_model_plays_every_schedule(width: int | None, schedule: Fixed) -> None:
    ranked = play(schedule, Table(width), STRENGTHS)
    assert np.argsort(-ranked.scores).tolist() == BEST_FIRST
    assert np.isfinite(ranked.scores).all()


def test_pointwise_schedule_keeps_raw_scores_and_asks_once() -> None:
    scorer = Table(1)
    schedule = Fixed(((0,), (1,), (2,), (3,)), 1)
    (ranked,) = rerank([topic(STRENGTHS)], scorer, schedule)
    assert ranked.scores.tolist() == list(STRENGTHS)
    assert scorer.seen == 4 and ranked.calls == 4 and ranked.rounds == 1


def test_a_pointwise_comparator_scores_each_candidate_once() -> None:
    scorer = Table(1)
    ranked = play(Fixed(ALL), scorer, STRENGTHS)
    assert scorer.seen == 4 and len(ranked.preferences.first) == 6
    np.testing.assert_allclose(heard[0][0], 1 / (1 + np.exp(2.0)))


def test_pointwise_schedule_refuses_a_pairwise_model() -> None:
    with pytest.raises(UsageError, match="compares pairs"):
        list(rerank([topic(STRENGTHS)], Table(2), Fixed(((0,),), 1)))


def test_order_both_removes_the_bias_and_costs_twice() -> None:
    ranked = play(Fixed(((0, 1),)), Table(2, bias=3.0), (0.0, 0.0), order="both")
    assert ranked.calls == 2
    np.testing.assert_allclose(heard[0], [0.5])


def test_order_given_asks_as_yielded_and_random_flips_half() -> None:
    pairs = tuple((0, i) for i in range(1, 200))
    given = play(Fixed(pairs), Table(2), [0.0] * 200, order="given")
    assert (given.preferences.first == 0).all()
    flipped = play(Fixed(pairs), Table(2, bias=1.0), [0.0] * 200, order="random")
    assert 0.3 < (flipped.preferences.first == 0).mean() < 0.7
    # what the schedule hears is about the pair as it yielded it
    first = flipped.preferences.first == 0
    np.testing.assert_allclose(heard[0], np.where(first, 1 / (1 + np.exp(-1.0)), 1 / (1 + np.exp(1.0))))


@pytest.mark.parametrize("order,kept", [("random", 5), ("both", 2)])
def test_a_budget_is_never_exceeded(order: Order, kept: int) -> None:
    scorer = Table(2)
    ranked = play(Fixed(ALL), scorer, STRENGTHS, order=order, budget=5)
    assert ranked.calls == scorer.seen <= 5
    assert (
        len({tuple(sorted(e)) for e in zip(ranked.preferences.first, ranked.preferences.second, strict=True)})
        == kept
    )


def test_a_round_that_the_budget_cuts_ends_the_play_of_a_pointwise_model_too() -> None:
    """All candidates are scored in the first round; the second is cut, and there is nothing left to ask."""
    strengths = np.random.default_rng(0).normal(size=6).tolist()  # three pairs a round
    (ranked,) = rerank([topic(strengths)], Table(1), schedules.parse("swiss(rounds=3)"), WinRate(), budget=5)
    assert len(ranked.preferences.first) == 5 and ranked.calls == 6


def test_quarantined_groups_stay_out_of_the_preferences() -> None:
    ranked = play(Fixed(ALL), Table(2, broken="2.0"), STRENGTHS)
    assert len(ranked.preferences.first) == 3
    (pointwise,) = rerank([topic(STRENGTHS)], Table(1, broken="2.0"), Fixed(((0,), (1,), (2,), (3,)), 1))
    assert pointwise.quarantined.tolist() == [1]
    assert np.argsort(-pointwise.scores).tolist() == [3, 0, 2, 1]


def test_results_do_not_depend_on_what_is_in_flight() -> None:
    topics = [topic(np.random.default_rng(i).normal(size=4).tolist(), f"q{i}") for i in range(7)]
    runs = [
        [r.scores.tolist() for r in rerank(topics, Table(2, bias=0.5), Fixed(ALL), WinRate(), in_flight=flight)]
        for flight in (1, 3, 100)
    ]
    assert runs[0] == runs[1] == runs[2]


def test_topic_rng_depends_on_seed_and_topic() -> None:
    draws = {topic_rng(seed, qid).integers(1 << 60) for seed in (0, 1) for qid in ("1", "2", "01")}
    assert len(draws) == 6
    assert topic_rng(0, "1").integers(1 << 60) == topic_rng(0, "1").integers(1 << 60)


def test_pairs_within_skips_padding_and_repeats() -> None:
    groups = np.array([[0, 1, 2], [1, 2, -1]], np.int32)
    assert pairs_within(groups).tolist() == [[0, 1], [0, 2], [1, 2]]
