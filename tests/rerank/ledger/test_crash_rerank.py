"""`sparring rerank` killed at random moments: the resumed command writes the bytes of the uninterrupted one."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from crashing import collection
from faults import seeded
from sparring.rerank.ledger.ledger import Ledger

# Imports once and forks a process per command: the commands are real processes, without seconds of start-up each.
SPAWNER = """
import json, os, sys
import sparring.rerank.commands.rerank, sparring.rerank.engine.engine, sparring.rerank.models.families.encoders.sequence_classification
import transformers.models.bert.modeling_bert, transformers.models.auto.modeling_auto
from sparring.rerank import cli
print("ready", flush=True)
for line in sys.stdin:
    child = os.fork()
    if not child:
        sys.argv = ["sparring", *json.loads(line)]
        os._exit(cli.main())
    print(child, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


class Commands:
    """Runs commands of the toolkit, one at a time, in processes of their own."""

    def __init__(self, log: Path) -> None:
        self._log = log
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        with log.open("w") as stderr:
            self._spawner = subprocess.Popen(
                [sys.executable, "-c", SPAWNER],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
                env=environment,
            )
        assert self._read() == "ready"

    def start(self, *arguments: object) -> int:
        """The pid of a started command."""
        assert self._spawner.stdin is not None
        self._spawner.stdin.write(json.dumps([str(argument) for argument in arguments]) + "\n")
        self._spawner.stdin.flush()
        return int(self._read())

    def wait(self) -> int:
        """The exit code of the started command; minus the signal that ended it."""
        return int(self._read())

    def said(self) -> str:
        """Everything the commands have said on stderr."""
        return self._log.read_text()

    def close(self) -> None:
        """Ends the spawner."""
        self._spawner.communicate()

    def _read(self) -> str:
        assert self._spawner.stdout is not None
        return self._spawner.stdout.readline().strip()


@pytest.fixture(scope="module")
def commands(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Commands]:
    running = Commands(tmp_path_factory.mktemp("commands") / "stderr")
    yield running
    running.close()


def started(pid: int, ledger: Path) -> None:
    """Waits until the command holds its ledger; it scores from then on."""
    lock = ledger.with_name(ledger.name + ".lock")
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        with contextlib.suppress(FileNotFoundError):
            if f'"pid": {pid},' in lock.read_text():
                return
        time.sleep(0.005)


@pytest.mark.parametrize(
    ("kills", "topics"),
    [
        pytest.param(3, 16, marks=pytest.mark.slow),
        pytest.param(20, 120, marks=[pytest.mark.slow, pytest.mark.timeout(900)]),
    ],
)
def test_a_killed_rerank_ends_in_the_bytes_of_an_uninterrupted_one(tmp_path, commands, kills, topics):
    rng = seeded()
    flags = collection(tmp_path, topics)
    whole, broken = tmp_path / "whole.run", tmp_path / "broken.run"
    pid = commands.start(*flags, "--output", whole)
    started(pid, tmp_path / ".whole.run.ledger")
    start = time.monotonic()
    assert commands.wait() == 0, commands.said()
    length = min(time.monotonic() - start, 4.0)
    ledger = tmp_path / ".broken.run.ledger"
    killed, kept = 0, []
    while killed < kills:
        pid = commands.start(*flags, "--output", broken)
        started(pid, ledger)
        time.sleep(rng.uniform(0.02, 0.9 * length))
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        if (code := commands.wait()) == -signal.SIGKILL:
            killed += 1
            assert not broken.exists()
            with Ledger.open(ledger) as held:
                kept.append(sum(configuration.groups for configuration in held.describe()))
        else:  # what the lives before had stored made this one short
            assert code == 0, commands.said()
            assert broken.read_bytes() == whole.read_bytes()
            broken.unlink()
    commands.start(*flags, "--output", broken, "--overwrite")
    assert commands.wait() == 0, commands.said()
    assert broken.read_bytes() == whole.read_bytes()
    assert any(kept) or kills < 20
    assert {name for name in os.listdir(tmp_path) if "broken" in name} == {"broken.run", "broken.run.meta.yaml"}


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_rerank_with_its_code_and_the_command_to_go_on(tmp_path, commands, number, code):
    flags = collection(tmp_path, 30)
    pid = commands.start(*flags, "--output", tmp_path / "out.run")
    started(pid, tmp_path / ".out.run.ledger")
    time.sleep(0.4)
    os.kill(pid, number)
    assert commands.wait() == code
    stopped = (
        f"stopped by {number.name}; every finished outcome is kept. Go on with:\n  sparring rerank --quiet --run"
    )
    assert stopped in commands.said()
    assert not (tmp_path / "out.run").exists()
    assert not (tmp_path / ".out.run.ledger.lock").exists()
