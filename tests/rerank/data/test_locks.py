"""Locks: one process at a time, the message that says which, and what is left behind."""

from __future__ import annotations

import errno
import fcntl
import json
import math
import os
import platform
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from sparring.rerank.data.locks import Lock, LockedError, hold

HOLD = """
import sys, time
from pathlib import Path
from sparring.rerank import console
from sparring.rerank.data.locks import hold
console.remember(["index", "--output", "x"])
"""


def child(code: str, target: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", HOLD + code, str(target)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_the_message_says_who_holds_it_since_when_and_by_which_command(tmp_path: Path) -> None:
    target = tmp_path / "x"
    holder = child("with hold(Path(sys.argv[1])): print('held', flush=True); time.sleep(60)", target)
    assert holder.stdout is not None and holder.stdout.readline() == "held\n"
    year = time.strftime("%Y-")
    expected = (
        rf"x is in use by process {holder.pid} on {platform.node()} since {year}.* \(sparring index --output x\)"
    )
    with pytest.raises(LockedError, match=expected) as refused:
        Lock(target)
    assert refused.value.exit_code == 6 and f"if it is gone, delete {target}.lock" in str(refused.value)
    started = time.monotonic()
    with pytest.raises(LockedError):
        Lock(target, 0.3)
    assert time.monotonic() - started >= 0.3
    holder.kill()
    holder.communicate()
    assert (tmp_path / "x.lock").exists()
    Lock(target).release()  # the lock of a dead process does not block
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("content", ["", "no JSON", "[1]", json.dumps({"host": "elsewhere", "pid": 1})])
def test_a_file_that_nobody_has_locked_does_not_block(tmp_path: Path, content: str) -> None:
    (tmp_path / "x.lock").write_text(content)
    with hold(tmp_path / "x"):
        assert json.loads((tmp_path / "x.lock").read_text())["pid"] == os.getpid()
    assert os.listdir(tmp_path) == []


def test_the_same_process_is_refused_too_and_release_may_come_twice_and_from_any_thread(tmp_path: Path) -> None:
    lock = Lock(tmp_path / "x")
    with pytest.raises(LockedError, match=f"process {os.getpid()} on"):
        Lock(tmp_path / "x")
    other = threading.Thread(target=lock.release)
    other.start()
    other.join()
    lock.release()
    with hold(tmp_path / "x"):
        lock.release()  # does not touch the next holder's
        assert (tmp_path / "x.lock").exists()


def test_waiting_without_end_takes_over(tmp_path: Path) -> None:
    holder = child("with hold(Path(sys.argv[1])): print('held', flush=True); time.sleep(0.5)", tmp_path / "x")
    assert holder.stdout is not None and holder.stdout.readline() == "held\n"
    with hold(tmp_path / "x", math.inf):
        assert json.loads((tmp_path / "x.lock").read_text())["pid"] == os.getpid()
    holder.communicate()


def test_of_many_processes_one_at_a_time_holds_the_lock(tmp_path: Path) -> None:
    code = """
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


def test_a_lock_on_a_file_that_its_last_holder_removed_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on NFS, where a removed file lives on under another name: the first lock is on such a file."""
    path, flock, times = tmp_path / "x.lock", fcntl.flock, []

    def late(handle: int, flags: int) -> None:
        if flags & fcntl.LOCK_EX:
            times.append(handle)
            if len(times) == 1:
                path.rename(tmp_path / ".nfs1")
        flock(handle, flags)

    monkeypatch.setattr(fcntl, "flock", late)
    with hold(tmp_path / "x", 5):
        assert len(times) == 2 and json.loads(path.read_text())["pid"] == os.getpid()


@pytest.mark.parametrize("answer", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_without_flock_the_existence_of_a_file_is_the_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: int
) -> None:
    def without(*_: object) -> None:
        raise OSError(answer, os.strerror(answer))

    monkeypatch.setattr(fcntl, "flock", without)
    with hold(tmp_path / "x"):
        assert os.listdir(tmp_path) == ["x.lock.held"]
        with pytest.raises(LockedError, match=rf"process {os.getpid()} on .* since .*delete .*x\.lock\.held"):
            Lock(tmp_path / "x")
    assert os.listdir(tmp_path) == []
