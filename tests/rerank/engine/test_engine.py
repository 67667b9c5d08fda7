"""The engine's promises: neighbours do not matter, nothing is lost, and bad scores never pass."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_models
import torch
from fake_model import Fake
from sparring.rerank.engine.engine import Engine
from sparring.rerank.errors import SparringError, UsageError
from sparring.rerank.models.loading import load
from sparring.rerank.vocabulary import Candidates, Scorer
from tiny_models import everything, tiny_topics, tokenised


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_models.save_classifier(tmp_path_factory.mktemp("electra"), "electra")


def engine_of(folder: Path, **options: Any) -> Engine:
    return Engine(load(str(folder)), **{"device": "cpu", "dtype": "float32", "progress": False} | options)


def fake_engine(width: int | None, **options: Any) -> Engine:
    keys = {key: options.pop(key) for key in ("score", "largest") if key in options}
    return Engine(Fake(width, **keys), device="cpu", dtype="float32", progress=False, **options)


def test_an_engine_is_a_scorer(folder: Path) -> None:
    assert isinstance(engine_of(folder), Scorer)


def test_scores_do_not_depend_on_budget_order_or_neighbours(folder: Path) -> None:
    topics = tiny_topics(4, 15)
    groups = everything(topics)
    reference = engine_of(folder, token_budget=1)(topics, groups)
    rng = np.random.default_rng(0)
    for budget in (64, 500, 100_000):
        shuffled = [rng.permutation(rows) for rows in groups]
        order = rng.permutation(len(topics))
        outcomes = engine_of(folder, token_budget=budget)([topics[i] for i in order], [shuffled[i] for i in order])
        for i, found in zip(order, outcomes, strict=True):
            np.testing.assert_allclose(found[:, 0], reference[i][shuffled[i][:, 0], 0], atol=1e-5, rtol=0)


def test_deterministic_runs_repeat_bit_for_bit(folder: Path) -> None:
    topics = tiny_topics(3, 10)
    runs = [engine_of(folder, deterministic=True, token_budget=200)(topics, everything(topics)) for _ in range(2)]
    assert all((a == b).all() for a, b in zip(*runs, strict=True))


def test_bfloat16_stays_near_full_precision(folder: Path) -> None:
    topics = tiny_topics(3, 10)
    full = np.concatenate(engine_of(folder)(topics, everything(topics)))
    half = np.concatenate(engine_of(folder, dtype="bfloat16")(topics, everything(topics)))
    assert np.corrcoef(full[:, 0], half[:, 0])[0, 1] > 0.99
    assert len(np.unique(half)) > 0.9 * len(half)  # the head is fp32: few ties


def test_pairs_are_probabilities_in_the_order_asked() -> None:
    topics = tiny_topics(2, 6)
    groups = [np.array([[0, 1], [1, 0], [4, 2]], np.int32), np.array([[5, 3]], np.int32)]
    outcomes = fake_engine(2, token_budget=150)(topics, groups)
    assert [o.shape for o in outcomes] == [(3,), (1,)]
    alone = [
        fake_engine(2)([t], [g[r : r + 1]])[0][0]
        for t, g in zip(topics, groups, strict=True)
        for r in range(len(g))
    ]
    np.testing.assert_allclose(np.concatenate(outcomes), alone, atol=1e-6)
    assert all(0 <= p <= 1 for p in alone)


def test_groups_of_any_width_stay_together_and_padding_is_nan() -> None:
    topics = tiny_topics(3, 7)
    groups = [
        np.array([[0, 1, 2, 3], [4, 5, -1, -1]], np.int32),
        np.array([[6], [2]], np.int32),
        np.empty((0, 3), np.int32),
    ]
    heard: dict[tuple[int, int], list[float]] = {}

    def sink(topic: Any, row: Any, outcomes: Any) -> None:
        for t, r, values in zip(topic.tolist(), row.tolist(), outcomes.tolist(), strict=True):
            heard[t, r] = values

    outcomes = fake_engine(None, token_budget=60)(topics, groups, sink)
    assert [o.shape for o in outcomes] == [(2, 4), (2, 1), (0, 3)]
    assert np.isnan(outcomes[0]).tolist() == [[False] * 4, [False, False, True, True]]
    for members in ([0, 1, 2, 3], [4, 5]):
        alone = fake_engine(None)([topics[0]], [np.array([members], np.int32)])[0][0]
        row = 0 if len(members) == 4 else 1
        np.testing.assert_allclose(outcomes[0][row, : len(members)], alone, rtol=1e-6)
    for (t, r), values in heard.items():
        finite = [v for v in values if not np.isnan(v)]
        assert finite == outcomes[t][r][~np.isnan(outcomes[t][r])].tolist()
    assert len(heard) == 4


def test_out_of_memory_halves_the_budget_and_loses_nothing() -> None:
    topics = tiny_topics(3, 20)
    expected = fake_engine(1)(topics, everything(topics))
    engine = fake_engine(1, largest=120, token_budget=1000)
    outcomes = engine(topics, everything(topics))
    assert all((a == b).all() for a, b in zip(expected, outcomes, strict=True))
    assert engine.stats.retries > 0 and engine.token_budget <= 500 and not engine.stats.quarantined


def test_a_group_that_never_fits_is_quarantined_and_named() -> None:
    topics = tiny_topics(2, 10, words=3)
    topics[1] = replace(topics[1], texts=[*topics[1].texts[:4], "mountain " * 40, *topics[1].texts[5:]])
    engine = fake_engine(1, largest=40, token_budget=200)
    outcomes = engine(topics, everything(topics))
    assert engine.stats.quarantined == [("q1", ("d4",))]
    assert np.isnan(outcomes[1][:, 0]).nonzero()[0].tolist() == [4] and np.isfinite(outcomes[0]).all()
    assert "1 quarantined" in engine.stats.summary()


def test_what_is_not_finite_is_computed_again_in_fp32() -> None:
    def overflow(model: Fake, scores: torch.Tensor) -> torch.Tensor:
        return scores if model.dtypes[-1] == torch.float32 else torch.where(scores > 5, torch.inf, scores)

    topics = tiny_topics(2, 10)
    engine = Engine(Fake(1, overflow), device="cpu", dtype="float16", progress=False, token_budget=100)
    outcomes = engine(topics, everything(topics))
    expected = fake_engine(1)(topics, everything(topics))
    assert all((a == b).all() for a, b in zip(expected, outcomes, strict=True))
    assert engine.stats.retries > 0 and engine.model.dtypes[-1] == torch.float16


def test_scores_that_stay_nan_stop_the_run_and_name_the_pair() -> None:
    def broken(model: Fake, scores: torch.Tensor) -> torch.Tensor:
        return torch.full_like(scores, torch.nan)

    topics = tiny_topics(1, 3)
    with pytest.raises(SparringError, match=r"fake: .*topic q0, document d\d: the score is nan in float32:"):
        fake_engine(1, score=broken)(topics, everything(topics))


@pytest.mark.parametrize("width", [1, 2])
def test_scores_that_do_not_depend_on_the_document_stop_the_run(width: int) -> None:
    topics = tiny_topics(4, 10)
    groups = (
        everything(topics) if width == 1 else [np.array([[0, 1], [2, 3], [4, 5], [6, 7], [8, 9]], np.int32)] * 4
    )
    with pytest.raises(SparringError, match="scores do not depend on the document"):
        fake_engine(width, score=lambda model, scores: torch.ones_like(scores))(topics, groups)


def test_equal_texts_may_have_equal_scores() -> None:
    topic = Candidates("q", "river", tuple("abcdefghijklmnopqrst"), ["same text"] * 20, np.zeros(20))
    outcomes = fake_engine(1)([topic], everything([topic]))
    assert len(np.unique(outcomes[0])) == 1


def test_a_resumed_call_skips_whole_batches_and_gives_the_same_bits(folder: Path) -> None:
    topics, stored = tiny_topics(3, 20), []
    whole = engine_of(folder, token_budget=150)
    complete = whole(topics, everything(topics), lambda t, r, o: stored.append((t, r, o)))
    known = [np.full((20, 1), np.nan) for _ in topics]
    for topic, row, outcomes in stored[: len(stored) // 2]:
        for t, r, o in zip(topic, row, outcomes, strict=True):
            known[t][r] = o
    resumed = engine_of(folder, token_budget=150)
    outcomes = resumed(topics, everything(topics), known=known)
    assert all((a == b).all() for a, b in zip(complete, outcomes, strict=True))
    assert 0 < resumed.stats.computed < whole.stats.computed


def test_counts_are_true(folder: Path) -> None:
    texts = ["", "  ", None, "river", "mountain " * 300, "ocean"]
    topic = Candidates("q", "coffee " * 200, tuple("abcdef"), texts, np.zeros(6))  # type: ignore[arg-type]
    engine = engine_of(folder)
    outcome = engine([topic], everything([topic]))[0]
    assert np.isfinite(outcome).all()
    stats = engine.stats
    assert (stats.groups, stats.sequences, stats.empty_texts) == (6, 6, 3)
    assert (stats.truncated_passages, stats.truncated_queries) == (1, 1)
    assert stats.computed == stats.tokens and stats.padding_share == 0
    assert stats.tied == 2  # three empty texts, one score
    assert stats.as_dict()["tie_rate"] == round(2 / 6, 6) and "6 groups" in stats.summary()


def test_each_text_is_tokenised_once_over_many_calls(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = tokenised(monkeypatch)
    topics = tiny_topics(2, 5)
    topics.append(replace(topics[0], qid="again", texts=topics[1].texts))
    engine = engine_of(folder)
    first = engine(topics, everything(topics))
    again = engine(topics, [rows[::-1] for rows in everything(topics)])
    for one, other in zip(first, again, strict=True):
        np.testing.assert_allclose(other, one[::-1], atol=1e-5)
    assert given == dict.fromkeys({text for topic in topics for text in (topic.query, *topic.texts)}, 1)


def test_wrong_groups_are_errors(folder: Path) -> None:
    topics = tiny_topics(1, 4)
    engine = engine_of(folder)
    for rows, message in (
        (np.zeros((2, 2), np.int32), r"scores groups of 1 candidates, found groups of shape \(2, 2\)"),
        (np.array([[4]], np.int32), "outside its 4 candidates"),
        (np.array([[-1]], np.int32), "outside its 4 candidates"),
    ):
        with pytest.raises(UsageError, match=message):
            engine(topics, [rows])
    assert engine(topics, [np.empty((0, 1), np.int32)])[0].shape == (0, 1)
    assert engine([], []) == []


def test_rounded_weights_are_not_passed_off_as_full_precision(folder: Path) -> None:
    model = load(str(folder))
    Engine(model, device="cpu", dtype="float32", progress=False)
    Engine(model, device="cpu", dtype="bfloat16", progress=False)
    with pytest.raises(
        UsageError, match="rounded to bfloat16 by another engine; load the model again to use float32"
    ):
        Engine(model, device="cpu", dtype="float32", progress=False)


def test_devices_and_dtypes_are_checked(folder: Path) -> None:
    for options, message in (
        ({"device": "tpu"}, "unknown device 'tpu'"),
        ({"dtype": "bloat16"}, "did you mean 'bfloat16'"),
        ({"token_budget": 0}, "token budget 0"),
    ):
        with pytest.raises(UsageError, match=message):
            engine_of(folder, **options)


def test_an_error_in_the_assembly_thread_reaches_the_caller(folder: Path) -> None:
    class Exploding(list):
        def __getitem__(self, index: Any) -> str:
            raise OSError("the corpus is gone")

    topic = Candidates("q", "river", ("a", "b"), Exploding(["x", "y"]), np.zeros(2))
    with pytest.raises(OSError, match="the corpus is gone"):
        engine_of(folder)([topic], everything([topic]))
