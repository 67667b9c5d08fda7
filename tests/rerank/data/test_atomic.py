"""Outputs are whole or absent, and what a killed process left is swept."""

from __future__ import annotations

import errno
import os

import pytest
from faults import child, faulty_files
from sparring.rerank.data.atomic import atomic_write


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
