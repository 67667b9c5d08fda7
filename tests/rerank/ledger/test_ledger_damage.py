"""The ledger's file: intact after whatever happened to it, and exclusive."""

from __future__ import annotations

import platform
import shutil
import time

import pytest
from faults import FaultyScorer, child, flip_bits, groups_of, seeded, tear, topics_of
from sparring.rerank.data import locks
from sparring.rerank.errors import InputError, SparringError
from sparring.rerank.ledger.ledger import Ledger


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
