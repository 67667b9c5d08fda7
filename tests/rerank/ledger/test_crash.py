"""Real processes, real signals: what was answered is kept, and a resumed run ends in the same bytes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from faults import seeded
from places import HELPERS
from sparring.rerank.commands.interrupts import resumable
from sparring.rerank.ledger import store as pages
from sparring.rerank.ledger.ledger import Ledger

TESTS = str(HELPERS)

RUN = """
import sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from faults import FaultyScorer, topics_of
from sparring.rerank.data.atomic import atomic_write
from sparring.rerank.ledger.ledger import Ledger
import numpy as np

folder = Path(sys.argv[2])
count, pace = int(sys.argv[3]), float(sys.argv[4])
topics = topics_of(count, 40)
pairs = np.array([(i, j) for i in range(40) for j in range(40) if i != j], np.int32)
log = open(folder / "answered", "ab", buffering=0)
scorer = FaultyScorer(before_batch=lambda done: time.sleep(pace))

def report(topic, row, outcomes):
    log.write(b"." * len(row))

with Ledger.open(folder / "ledger") as ledger:
    recorded = ledger.wrap(scorer)
    log.write(b"\\n")
    answers = [recorded(topics[:1], [pairs[:400]])]  # a round of one topic, then rounds of all
    for part in np.array_split(pairs, 2):
        answers.append(recorded(topics, [part] * count, report))
with atomic_write(folder / "out", "wb") as out:
    for answer in answers:
        out.write(np.concatenate(answer).tobytes())
"""


def run(folder: Path, count: int, pace: float) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", RUN, TESTS, str(folder), str(count), str(pace)])


def stored(folder: Path) -> int:
    with Ledger.open(folder / "ledger") as ledger:
        return sum(held.groups for held in ledger.describe())


@pytest.mark.parametrize("kills", [3, pytest.param(20, marks=pytest.mark.slow)])
def test_killed_at_random_moments_and_resumed_the_run_ends_in_the_same_bytes(tmp_path, kills):
    rng = seeded()
    count, pace = (8, 0.02) if kills == 3 else (24, 0.03)
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    whole.mkdir()
    broken.mkdir()
    assert run(whole, count, 0).wait() == 0
    before, killed = 0, 0
    for _ in range(10 * kills):
        process = run(broken, count, pace)
        wait_for_start(process, broken, killed)
        time.sleep(rng.uniform(0.02, 0.5))
        if process.poll() is not None:
            break
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        killed += 1
        assert not (broken / "out").exists()
        kept = stored(broken)
        answered = (broken / "answered").read_bytes().splitlines()[-1].count(b".")
        assert kept >= before  # nothing that was on disk is ever lost
        assert kept >= answered - pages.UNIT_GROUPS - 64  # at most a unit, and the batch at work
        before = kept
        if killed == kills:
            break
    assert killed == kills, f"the run was over after {killed} kills: make it longer"
    assert run(broken, count, 0).wait() == 0
    assert (broken / "out").read_bytes() == (whole / "out").read_bytes()
    assert sorted(os.listdir(broken)) == ["answered", "ledger", "out"]


def wait_for_start(process: subprocess.Popen[bytes], folder: Path, earlier: int) -> None:
    deadline = time.monotonic() + 60
    while process.poll() is None and time.monotonic() < deadline:
        if (folder / "answered").exists() and (folder / "answered").read_bytes().count(b"\n") > earlier:
            return
        time.sleep(0.01)


INTERRUPTED = """
import hashlib, sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from faults import FaultyScorer, topics_of
from sparring.rerank.ledger.ledger import Ledger
from sparring.rerank.commands.interrupts import Interrupted, resumable
import numpy as np

def busy(done):
    if done < 128:
        return
    print("busy", flush=True)
    if sys.argv[3] == "python":
        time.sleep(60)
    hashlib.pbkdf2_hmac("sha256", b"native code", b"that no signal reaches", 400_000_000)

try:
    with Ledger.open(Path(sys.argv[2])) as ledger:
        with resumable("sparring rerank --run first.run", ledger.flush, grace_s=1.5):
            pairs = np.array([(i, j) for i in range(20) for j in range(20) if i != j], np.int32)
            ledger.wrap(FaultyScorer(before_batch=busy))(topics_of(1, 20), [pairs])
except Interrupted as error:
    print(error, file=sys.stderr)
    sys.exit(error.exit_code)
"""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("where", ["python", "native"])
def test_a_signal_keeps_every_finished_outcome_and_says_how_to_go_on(tmp_path, number, code, where):
    command = [sys.executable, "-c", INTERRUPTED, TESTS, str(tmp_path / "ledger"), where]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "busy\n"
    started = time.monotonic()
    process.send_signal(number)
    said = process.communicate(timeout=30)[1]
    assert time.monotonic() - started < 5
    assert process.returncode == code
    assert f"stopped by {number.name}" in said and "Go on with:\n  sparring rerank --run first.run" in said
    assert stored(tmp_path) == 128


def test_signals_are_as_before_after_the_block():
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    flushed: list[int] = []
    with resumable("again", lambda: flushed.append(1)):
        assert signal.getsignal(signal.SIGTERM) != before[1]
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before
    assert not flushed and signal.set_wakeup_fd(-1) == -1
