"""Locks: one holder at a time, and none that outlives its process."""

from __future__ import annotations

import json
import os
import platform
import time

import pytest
from faults import child
from sparring.rerank.data import locks


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
