"""The ledger: exact, never stale, exclusive, and intact after whatever happens to its file."""

from __future__ import annotations

import errno
import json
import os
import platform
import shutil
import subprocess
import sys
import time

import numpy as np
import pytest
from faults import FaultyScorer, faulty_files, flip_bits, groups_of, seeded, tear, topics_of
from hypothesis import given, settings
from hypothesis import strategies as st
from places import HELPERS
from sparring.rerank.data import locks
from sparring.rerank.data.atomic import atomic_write
from sparring.rerank.errors import InputError, SparringError
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
        width, fingerprint = 1, "{}"

        def __call__(self, topics, groups, sink=None):
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
    width, fingerprint = 1, "{}"

    def __call__(self, topics, groups, sink=None):
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


@pytest.mark.parametrize("fault", [flip_bits, tear])
def test_a_damaged_file_gives_true_outcomes_or_none(tmp_path, fault, caplog):
    rng = seeded()
    topics, groups = topics_of(3, 8), [groups_of(2, 8)] * 3
    expected = FaultyScorer(batch=1)(topics, groups)
    whole = tmp_path / "whole"
    with Ledger.open(whole) as ledger:
        ledger.wrap(FaultyScorer(batch=1))(topics[:2], groups[:2])
    for trial in range(25):
        path = tmp_path / f"{trial}"
        shutil.copy(whole, path)
        fault(path, rng)
        try:
            with Ledger.open(path) as ledger:
                answers = ledger.wrap(FaultyScorer(batch=1), fresh=True)(topics, groups)
        except InputError as error:
            assert str(path) in str(error)
        else:
            assert all((a == b).all() for a, b in zip(answers, expected, strict=True))


def test_a_torn_or_flipped_log_loses_its_tail_only(tmp_path):
    rng = seeded()
    topics, groups = topics_of(6, 8), [groups_of(2, 8)] * 6
    expected = FaultyScorer(batch=1)(topics, groups)
    live = tmp_path / "live"
    with Ledger.open(live) as ledger:
        recorded = ledger.wrap(FaultyScorer(batch=1))
        for index in range(6):
            recorded(topics[index : index + 1], groups[:1])
            ledger.flush()
        base, log = live.read_bytes(), (tmp_path / "live-wal").read_bytes()
    assert len(log) > 10_000
    for trial in range(25):
        path = tmp_path / f"{trial}"
        path.write_bytes(base)
        tail = tmp_path / f"{trial}-wal"
        tail.write_bytes(log)
        (tear if trial % 2 else flip_bits)(tail, rng)
        with Ledger.open(path) as ledger:
            answers = ledger.wrap(FaultyScorer(batch=1))(topics, groups)
        assert all((a == b).all() for a, b in zip(answers, expected, strict=True))


def test_a_file_of_another_kind_is_refused_and_left_alone(tmp_path):
    import sqlite3

    text = tmp_path / "notes.txt"
    text.write_text("q1 Q0 d1 1 0.5 tag\n" * 100)
    other = tmp_path / "other.db"
    with sqlite3.connect(other) as connection:
        connection.execute("CREATE TABLE t (x)")
    connection.close()
    for path in (text, other):
        before = path.read_bytes()
        with pytest.raises(InputError, match=path.name):
            Ledger.open(path)
        assert path.read_bytes() == before
        assert not path.with_name(path.name + ".lock").exists()


RUN = """
import sys, time
from pathlib import Path
sys.path.insert(0, {tests!r})
from faults import FaultyScorer, topics_of
from faults import groups_of
from sparring.rerank.ledger.ledger import Ledger
"""


def child(code: str, *arguments: object, **options: object) -> subprocess.Popen[str]:
    program = RUN.format(tests=str(HELPERS)) + code
    return subprocess.Popen(
        [sys.executable, "-c", program, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


def test_a_second_process_is_told_who_holds_the_ledger_waits_or_takes_over(tmp_path):
    path = tmp_path / "ledger"
    holder = child("l = Ledger.open(Path(sys.argv[1])); print('held', flush=True); time.sleep(60)", path)
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(locks.LockedError, match=f"in use by process {holder.pid} on {platform.node()}") as refusal:
        Ledger.open(path)
    assert refusal.value.exit_code == 6
    started = time.monotonic()
    with pytest.raises(locks.LockedError):
        Ledger.open(path, wait_s=0.3)
    assert time.monotonic() - started >= 0.3
    holder.kill()
    holder.communicate()
    Ledger.open(path).close()  # the lock of a dead process is stale
    assert not locks.Lock(path).release()


@pytest.mark.parametrize(
    ("changes", "age", "free"),
    [
        ({}, 0, False),
        ({"process": "another boot:1"}, 0, True),  # the pid was recycled
        ({"host": "elsewhere"}, 0, False),
        ({"host": "elsewhere"}, 2 * locks.ABANDONED_S, True),
    ],
)
def test_whose_lock_is_stale(tmp_path, changes, age, free):
    target = tmp_path / "x"
    mine = locks.Lock(target)
    holder = json.loads(mine.path.read_text()) | changes
    mine.release()
    mine.path.write_text(json.dumps(holder))
    os.utime(mine.path, (time.time() - age,) * 2)
    if free:
        locks.Lock(target).release()
    else:
        with pytest.raises(locks.LockedError):
            locks.Lock(target)
        assert mine.path.exists()


def test_of_many_processes_one_at_a_time_holds_the_lock(tmp_path):
    code = """
from sparring.rerank.data.locks import hold
for _ in range(5):
    with hold(Path(sys.argv[1]), wait_s=60):
        count = int(Path(sys.argv[1]).read_text()); time.sleep(0.002); Path(sys.argv[1]).write_text(str(count + 1))
"""
    (tmp_path / "x").write_text("0")
    (tmp_path / "x.lock").write_text(json.dumps({"host": platform.node(), "pid": 999999999}))  # and a stale one
    children = [child(code, tmp_path / "x") for _ in range(4)]
    for process in children:
        assert process.communicate()[1] == ""
    assert (tmp_path / "x").read_text() == "20"
    assert os.listdir(tmp_path) == ["x"]


FULL = """
import resource
topics, groups = topics_of(8, 60), [groups_of(2, 60)] * 8
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]),) * 2)
try:
    with Ledger.open(Path(sys.argv[1])) as ledger:
        ledger.wrap(FaultyScorer())(topics, groups)
except Exception as error:
    print(type(error).__name__, error); sys.exit(error.exit_code)
"""


def test_a_full_disk_stops_cleanly_and_the_run_goes_on_once_there_is_room(tmp_path):
    path = tmp_path / "ledger"
    process = child(FULL, path, 300_000)
    said = process.communicate()[0]
    assert process.returncode == 6 and said.startswith(f"StorageError {path}: ") and "make room" in said
    topics, groups = topics_of(8, 60), [groups_of(2, 60)] * 8
    scorer = FaultyScorer()
    with Ledger.open(path) as ledger:
        kept = ledger.describe()[0].groups
        answers = ledger.wrap(scorer)(topics, groups)
    assert 0 < kept < 28320 and scorer.asked == 28320 - kept
    assert all((a == b).all() for a, b in zip(answers, FaultyScorer()(topics, groups), strict=True))


def test_a_folder_that_cannot_be_written_is_said(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(SparringError, match="cannot write the ledger there"):
        Ledger.open(tmp_path / "file" / "ledger")


@pytest.mark.parametrize("fail_at", [0, 1, 50, 99])
@pytest.mark.parametrize("name", ["out.run", "out.run.gz"])
def test_an_output_is_whole_or_absent_when_the_disk_fills(tmp_path, monkeypatch, fail_at, name):
    target = tmp_path / name
    target.write_bytes(b"earlier")
    with (
        faulty_files(monkeypatch, fail_at=fail_at // 2),
        pytest.raises(OSError) as full,
        atomic_write(target) as out,
    ):
        out.write("".join(f"{i} {i * i}\n" for i in range(100)))
    assert full.value.errno == errno.ENOSPC
    assert os.listdir(tmp_path) == [name] and target.read_bytes() == b"earlier"


def test_an_output_is_whole_or_absent_when_the_rename_fails(tmp_path, monkeypatch):
    with faulty_files(monkeypatch, torn_rename=True), pytest.raises(OSError), atomic_write(tmp_path / "x") as out:
        out.write("content")
    assert os.listdir(tmp_path) == []


def test_the_next_write_sweeps_what_a_killed_process_left_and_nothing_else(tmp_path):
    code = """
from sparring.rerank.data.atomic import atomic_write
with atomic_write(Path(sys.argv[1])) as out:
    out.write("half"); print("open", flush=True); time.sleep(60)
"""
    killed, alive = child(code, tmp_path / "x"), child(code, tmp_path / "x")
    assert killed.stdout.readline() == alive.stdout.readline() == "open\n"
    killed.kill()
    killed.communicate()
    assert len(os.listdir(tmp_path)) == 2
    with atomic_write(tmp_path / "x") as out:
        out.write("whole")
    assert sorted(name[0] for name in os.listdir(tmp_path)) == [".", "x"]
    alive.kill()
    alive.communicate()
    with atomic_write(tmp_path / "x") as out:
        out.write("whole")
    assert os.listdir(tmp_path) == ["x"]
