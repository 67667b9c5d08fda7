"""The ledger: exact, never stale, and as large as the topics at work."""

from __future__ import annotations

import os
import shutil
import time

import numpy as np
import pytest
from faults import FaultyScorer, groups_of, topics_of
from hypothesis import given, settings
from hypothesis import strategies as st
from sparring.rerank.errors import InputError
from sparring.rerank.ledger import store as pages
from sparring.rerank.ledger.keys import group_keys, text_hashes
from sparring.rerank.ledger.ledger import Ledger
from sparring.rerank.vocabulary import Candidates, Groups, Scorer


@pytest.mark.parametrize("width", [1, 2, None])
@pytest.mark.parametrize("reports", [True, False])
def test_what_was_said_once_is_not_asked_again_and_comes_back_bit_for_bit(tmp_path, width, reports):
    topics = topics_of(5, 7)
    groups = [groups_of(width, 7)] * 5
    direct = FaultyScorer(width)(topics, groups)
    for opening in range(3):
        scorer = FaultyScorer(width, reports=reports)
        with Ledger.open(tmp_path / "ledger") as ledger:
            recorded = ledger.wrap(scorer)
            assert isinstance(recorded, Scorer)
            for _ in range(2):
                answers = recorded(topics, groups)
                for answer, expected in zip(answers, direct, strict=True):
                    assert answer.tobytes() == expected.tobytes()
        assert scorer.asked == (sum(map(len, groups)) if opening == 0 else 0)


def test_scores_that_float32_cannot_hold_come_back_too(tmp_path):
    exact = 0.1 + 0.2

    class Scorer64:
        width, fingerprint, description, remembers = 1, "{}", {}, False

        def __call__(self, topics, groups, sink=None, known=None):
            return [np.full(part.shape, exact) for part in groups]

    topics, groups = topics_of(1, 3), [groups_of(1, 3)]
    for _ in range(2):
        with Ledger.open(tmp_path / "ledger") as ledger:
            (answer,) = ledger.wrap(Scorer64())(topics, groups)
        assert (answer == exact).all()


class Seen:
    """A sink that keeps which groups it heard of."""

    def __init__(self) -> None:
        self.rows: list[tuple[int, int]] = []

    def __call__(self, topic, row, outcomes):
        assert len(outcomes) == len(row)
        self.rows += zip(topic.tolist(), row.tolist(), strict=True)


@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_any_groups_after_any_earlier_ones_answer_as_the_scorer_does(tmp_path_factory, data):
    size, width = 6, data.draw(st.sampled_from([1, 2, None]))
    topics = topics_of(3, size)

    def some_groups() -> list[Groups]:
        parts = []
        for _ in topics:
            columns = width or data.draw(st.integers(1, 4))
            rows = data.draw(
                st.lists(
                    st.lists(st.integers(0, size - 1), min_size=columns, max_size=columns, unique=True), max_size=5
                )
            )
            part = np.array(rows, np.int32).reshape(-1, columns)
            if width is None and len(part):
                cut = data.draw(st.lists(st.integers(1, columns), min_size=len(part), max_size=len(part)))
                part = np.where(np.arange(columns) < np.array(cut)[:, None], part, -1).astype(np.int32)
            parts.append(part)
        return parts

    scorer = FaultyScorer(width, batch=1)  # alone in its batch a group has one score for ever
    with Ledger.open(tmp_path_factory.mktemp("ledger") / "l") as ledger:
        recorded = ledger.wrap(scorer)
        for _ in range(data.draw(st.integers(1, 4))):
            groups, seen = some_groups(), Seen()
            answers = recorded(topics, groups, seen)
            expected = FaultyScorer(width, batch=1)(topics, groups)
            for answer, wanted in zip(answers, expected, strict=True):
                assert answer.tobytes() == wanted.tobytes()
            assert sorted(seen.rows) == [(t, r) for t, part in enumerate(groups) for r in range(len(part))]
    assert recorded.asked == scorer.asked


def test_a_changed_text_query_order_or_model_is_asked_anew_and_a_changed_id_is_not(tmp_path):
    base = Candidates("1", "query", ("a", "b"), ["one", "two"], np.zeros(2))
    pair = [np.array([[0, 1]], np.int32)]
    cases = [
        (base, pair, "{}", 1),
        (base, pair, "{}", 0),
        (Candidates("other", "query", ("x", "y"), ["one", "two"], np.zeros(2)), pair, "{}", 0),
        (Candidates("1", "query", ("a", "b"), ["one", "two "], np.zeros(2)), pair, "{}", 1),
        (Candidates("1", "Query", ("a", "b"), ["one", "two"], np.zeros(2)), pair, "{}", 1),
        (base, [np.array([[1, 0]], np.int32)], "{}", 1),
        (base, pair, '{"dtype": "bfloat16"}', 1),
    ]
    for topic, groups, fingerprint, asked in cases:
        scorer = FaultyScorer(fingerprint=fingerprint)
        with Ledger.open(tmp_path / "ledger") as ledger:
            ledger.wrap(scorer, fresh=True)([topic], groups)
        assert scorer.asked == asked


def test_keys_tell_apart_order_length_and_query():
    texts = text_hashes(["a", "b", "c", ""])
    queries = text_hashes(["q", "r"])
    members = np.array([[0, -1, -1], [0, 1, -1], [1, 0, -1], [0, 1, 2], [0, 0, -1], [3, -1, -1], [0, 3, -1]])
    keys = np.concatenate([group_keys(np.repeat(queries[[q]], len(members), 0), texts, members) for q in (0, 1)])
    assert len(np.unique(keys[:, 0])) == len(np.unique(keys[:, 1])) == len(keys)
    wider = np.pad(members, ((0, 0), (0, 2)), constant_values=-1)
    assert (group_keys(np.repeat(queries[[0]], len(members), 0), texts, wider) == keys[: len(members)]).all()


def test_a_topic_with_lone_surrogates_and_nul_is_only_data(tmp_path):
    topic = Candidates("1", "q\ud800", ("a", "b"), ["\udfff\0", "'; drop table pages; --"], np.zeros(2))
    with Ledger.open(tmp_path / "ledger") as ledger:
        first = ledger.wrap(_Constant())([topic], [groups_of(1, 2)])
        again = ledger.wrap(_Constant())([topic], [groups_of(1, 2)])
    assert (first[0] == again[0]).all()


class _Constant:
    width, fingerprint, description, remembers = 1, "{}", {}, False

    def __call__(self, topics, groups, sink=None, known=None):
        return [part.astype(np.float64) for part in groups]


def test_quarantined_groups_are_not_kept(tmp_path):
    topics, groups = topics_of(1, 4), [groups_of(1, 4)]
    with Ledger.open(tmp_path / "ledger") as ledger:
        bad = FaultyScorer(1, nan=frozenset([topics[0].texts[2]]))
        (answer,) = ledger.wrap(bad)(topics, groups)
        assert np.isnan(answer[:, 0]).tolist() == [False, False, True, False]
    good = FaultyScorer(1)
    with Ledger.open(tmp_path / "ledger") as ledger:
        (answer,) = ledger.wrap(good)(topics, groups)
    assert good.asked == 1 and not np.isnan(answer).any()


def test_equal_texts_are_asked_once(tmp_path):
    topic = Candidates("1", "q", ("a", "b", "c"), ["same", "same", "other"], np.zeros(3))
    scorer, reported = FaultyScorer(1), []
    with Ledger.open(tmp_path / "ledger") as ledger:
        (answer,) = ledger.wrap(scorer)([topic], [groups_of(1, 3)], lambda t, r, o: reported.extend(r.tolist()))
    assert scorer.asked == 2 and answer[0] == answer[1] != answer[2]
    assert sorted(reported) == [0, 1, 2]


def test_another_configuration_is_refused_by_the_fields_that_differ_unless_fresh(tmp_path):
    topics, groups = topics_of(1, 3), [groups_of(2, 3)]
    old = FaultyScorer(fingerprint='{"model": "m", "dtype": "float32", "template": "a"}')
    new = FaultyScorer(fingerprint='{"model": "m", "dtype": "bfloat16", "template": "a"}')
    with Ledger.open(tmp_path / "ledger") as ledger:
        ledger.wrap(old)(topics, groups)
        with pytest.raises(
            InputError, match=r"dtype is float32 there and bfloat16 here\. Name another .* --fresh"
        ):
            ledger.wrap(new)
        ledger.wrap(new, fresh=True)(topics, groups)
        ledger.wrap(old)  # both are at home now
        ledger.wrap(new)
        held = ledger.describe()
    assert [entry.fields["dtype"] for entry in held] == ["float32", "bfloat16"]
    assert [entry.groups for entry in held] == [6, 6]


def test_an_engine_computes_what_is_missing_and_repeats_what_is_not(tmp_path):
    from sparring.rerank.engine.engine import Engine
    from sparring.rerank.models.loading import load
    from tiny_models import save_classifier

    model = load(str(save_classifier(tmp_path / "model", "bert")))
    topics, some, all_ = topics_of(3, 12), [groups_of(1, 12)[::2]] * 3, [groups_of(1, 12)] * 3
    engine = Engine(model, device="cpu", dtype="float32", progress=False)
    with Ledger.open(tmp_path / "ledger") as ledger:
        first = ledger.wrap(engine)(topics, some)
    assert engine.stats.batches
    again = Engine(model, device="cpu", dtype="float32", progress=False)
    with Ledger.open(tmp_path / "ledger") as ledger:
        recorded = ledger.wrap(again)
        answers = recorded(topics, all_)
        assert (recorded.asked, recorded.hits) == (18, 18)
        assert ledger.describe()[0].fields["dtype"] == "float32"
        bfloat = Engine(model, device="cpu", dtype="bfloat16", progress=False)
        with pytest.raises(InputError, match="dtype is float32 there and bfloat16 here"):
            ledger.wrap(bfloat)
    assert again.stats.computed < engine.stats.computed * 1.5  # the other half, not everything
    for answer, half in zip(answers, first, strict=True):
        assert answer[::2].tobytes() == half.tobytes() and not np.isnan(answer).any()


def test_only_the_topics_at_work_are_in_memory(tmp_path):
    with Ledger.open(tmp_path / "ledger") as ledger:
        recorded = ledger.wrap(FaultyScorer(1))
        for wave in range(4):
            recorded(topics_of(3, 5, start=3 * wave), [groups_of(1, 5)] * 3)
        assert len(recorded._live) == 3
        assert sum(len(keys) for keys, _ in recorded._known[1]._runs) == 15


def test_a_commit_unit_is_on_disk_while_the_run_goes_on(tmp_path):
    path, topic = tmp_path / "ledger", topics_of(1, 80)
    with Ledger.open(path) as ledger:
        ledger.wrap(FaultyScorer(batch=512))(topic, [groups_of(2, 80)])  # 6,320 groups
        for name in os.listdir(tmp_path):
            shutil.copy(tmp_path / name, tmp_path / name.replace("ledger", "copy"))
        (tmp_path / "copy.lock").unlink()
    with Ledger.open(tmp_path / "copy") as copy:
        assert copy.describe()[0].groups >= 6320 - pages.UNIT_GROUPS


def test_a_slow_run_commits_by_the_clock(tmp_path, monkeypatch):
    monkeypatch.setattr(pages, "UNIT_S", 0.1)

    def on_disk() -> bool:
        return (tmp_path / "ledger-wal").stat().st_size > before

    with Ledger.open(tmp_path / "ledger") as ledger:
        recorded = ledger.wrap(FaultyScorer(1))
        before = (tmp_path / "ledger-wal").stat().st_size
        recorded(topics_of(1, 3), [groups_of(1, 3)])
        deadline = time.monotonic() + 5
        while not on_disk() and time.monotonic() < deadline:
            time.sleep(0.02)
        assert on_disk()
