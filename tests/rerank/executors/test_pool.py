"""Several devices: real processes, really killed and stopped; every outcome is still there."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_models
import torch
import yaml
from crashing import collection
from fake_model import Fake
from sparring.rerank.engine.devices import split_devices
from sparring.rerank.engine.engine import Engine
from sparring.rerank.errors import SparringError, UsageError
from sparring.rerank.executors import worker as workers
from sparring.rerank.executors.open import open_scorer
from sparring.rerank.ledger.ledger import Ledger
from sparring.rerank.models.loading import load
from sparring.rerank.stats import Stats
from sparring.rerank.vocabulary import Scorer
from tiny_models import everything, tiny_topics

FIRST_PAGES = 1 << 16
"""Bytes of a ledger's log that its tables do not fill: there are outcomes in it."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_models.save_classifier(tmp_path_factory.mktemp("bert"), "bert")


def pool_of(folder: Path, devices: str = "cpu,cpu") -> Any:
    return open_scorer(load(str(folder)), device=devices, dtype="float32", progress=False)


def test_lists_of_devices() -> None:
    assert split_devices("cpu, cpu") == ("cpu", "cpu")
    with pytest.raises(UsageError, match="unknown device 'tpu'"):
        split_devices("cpu,tpu")
    with pytest.raises(UsageError, match="loaded by its name"):
        open_scorer(Fake(1), device="cpu,cpu")


def test_a_killed_worker_is_reported_and_its_work_goes_on_elsewhere(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    topics = tiny_topics(8, 50)
    groups = everything(topics)
    alone = Engine(load(str(folder)), device="cpu", dtype="float32", progress=False)
    expected = alone(topics, groups)
    pool = pool_of(folder)
    assert isinstance(pool, Scorer) and pool.fingerprint == alone.fingerprint
    heard: dict[tuple[int, int], float] = {}

    def sink(topic: Any, row: Any, outcomes: Any) -> None:
        if not heard:  # in the middle of the work
            os.kill(pool.workers[0].process.pid, signal.SIGKILL)
        heard.update(zip(zip(topic.tolist(), row.tolist(), strict=True), outcomes[:, 0].tolist(), strict=True))

    outcomes = pool(topics, groups, sink)
    for t, (found, wanted) in enumerate(zip(outcomes, expected, strict=True)):
        np.testing.assert_allclose(found, wanted, atol=1e-5, rtol=0)
        assert [heard[t, r] for r in range(50)] == found[:, 0].tolist()
    assert "on cpu is lost, its work goes on elsewhere: killed by signal 9" in caplog.text
    assert len(pool.stats.lost_workers) == 1 and len(pool.workers) == 1
    os.kill(pool.workers[0].process.pid, signal.SIGKILL)
    with pytest.raises(SparringError, match="is lost and no other is left: killed by signal 9"):
        pool(topics, groups)


@pytest.mark.slow
def test_a_worker_that_hangs_is_given_up(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "SILENCE_S", 3.0)
    topics = tiny_topics(8, 50, words=3000)  # tasks that no pipe holds
    pool = pool_of(folder)
    os.kill(pool.workers[1].process.pid, signal.SIGSTOP)
    outcomes = pool(topics, everything(topics))
    assert all(np.isfinite(found).all() for found in outcomes)
    assert "no sign of life" in pool.stats.lost_workers[0]
    assert pool.stats.as_dict()["groups"] == 400 and "1 workers lost" in pool.stats.summary()
    pool.close()


@pytest.mark.slow
def test_an_error_of_the_model_stops_the_run(folder: Path) -> None:
    pool = pool_of(folder)
    topics = tiny_topics(2, 80)
    topics[0].texts[:] = [None] * 80  # type: ignore[index]
    same = [topics[0]]
    pool(same, everything(same))  # one text, one score: nothing to judge
    with pytest.raises(UsageError, match="groups of 1 candidates"):
        pool(topics[1:], [np.zeros((3, 2), np.int32)])


class Odd(str):
    """A text that does something to the first worker that looks at it, and is a text to every other."""

    def __new__(cls, text: str, mark: Path) -> Odd:
        odd = super().__new__(cls, text)
        odd.mark = mark
        return odd

    mark: Path

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (str(self), self.mark)

    def isspace(self) -> bool:
        with contextlib.suppress(FileExistsError):
            self.mark.touch(exist_ok=False)
            self.act()
        return super().isspace()

    def act(self) -> None:
        """What it does."""


class Hanging(Odd):
    def act(self) -> None:
        time.sleep(3600)


class Laborious(Odd):
    def act(self) -> None:
        end = time.monotonic() + 1.3 * workers.STALL_S
        while time.monotonic() < end:
            sum(range(1000))


class OnGpu(Odd):
    def act(self) -> None:
        torch.cuda._sleep(1 << 62)  # a kernel that never ends; all that follows waits behind it


def pool_after(folder: Path, text: Odd, devices: str = "cpu,cpu") -> Any:
    """A pool that has scored eight topics, one with an odd text."""
    topics = tiny_topics(8, 50)
    topics[2].texts[7] = text  # type: ignore[index]
    pool = pool_of(folder, devices)
    outcomes = pool(topics, everything(topics))
    assert all(np.isfinite(found).all() for found in outcomes) and text.mark.exists()
    pool.close()
    return pool


def reported_after(mark: Path, caplog: pytest.LogCaptureFixture) -> float:
    """Seconds from when a worker met the odd text to the report of its loss."""
    (report,) = [record for record in caplog.records if "is lost" in record.message]
    return report.created - mark.stat().st_mtime


@pytest.mark.slow
def test_work_that_hangs_behind_a_living_process_is_given_up_within_30_seconds(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    mark = tmp_path / "hangs"
    pool = pool_after(folder, Hanging("river", mark))
    assert 20 < reported_after(mark, caplog) < 30
    assert "nothing has moved for" in pool.stats.lost_workers[0] and "in act" in pool.stats.lost_workers[0]


@pytest.mark.slow
def test_a_worker_that_takes_long_is_not_given_up(folder: Path, tmp_path: Path) -> None:
    assert not pool_after(folder, Laborious("river", tmp_path / "works")).stats.lost_workers


@pytest.mark.gpu
def test_a_kernel_that_hangs_is_reported_within_30_seconds(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    mark = tmp_path / "hangs"
    pool_after(folder, OnGpu("river", mark), "cuda:0,cuda:0")
    assert reported_after(mark, caplog) < 30


@pytest.mark.slow
def test_a_caller_that_is_busy_elsewhere_does_not_take_its_workers_for_dead(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers, "SILENCE_S", 3.0)
    topics = tiny_topics(8, 50)
    heard: list[int] = []

    def sink(topic: Any, row: Any, outcomes: Any) -> None:
        if not heard:
            time.sleep(6.0)  # a disk that is slow to commit
        heard.append(len(row))

    pool = pool_of(folder)
    pool(topics, everything(topics), sink)
    assert sum(heard) == 400 and not pool.stats.lost_workers
    pool.close()


def test_what_counts_as_work() -> None:
    def stalled_after(watch: workers.Watch, beats: int = 100) -> float | None:
        return next((i * workers.BEAT_S for i in range(1, beats) if watch.stalled()), None)

    def compute() -> None:
        end = time.process_time() + 2 * workers.CPU_S
        while time.process_time() < end:
            sum(range(1000))

    for device in ("cpu", "cuda:0"):
        stats = Stats(batches=3)
        assert stalled_after(workers.Watch(device, stats)) == 22.0  # waits for ever before its first batch
        watch = workers.Watch(device, stats)
        stats.batches += 1
        assert not watch.stalled() and stalled_after(watch) == 22.0  # or in it
    loading = workers.Watch("cuda:0")
    assert stalled_after(loading, 500) == workers.LOAD_S + workers.BEAT_S
    stats = Stats()
    on_cpu, on_gpu = workers.Watch("cpu", stats), workers.Watch("cuda:0", stats)
    stats.batches += 1
    assert not on_cpu.stalled() and not on_gpu.stalled()
    compute()
    assert not on_cpu.stalled() and not on_gpu.stalled()
    assert (on_cpu.idle, on_gpu.idle) == (0.0, workers.BEAT_S)  # who waits for a kernel uses the processor too
    on_gpu.outcomes += 5
    assert not on_gpu.stalled() and on_gpu.idle == 0.0


def killed(command: list[str], ledger: Path) -> int:
    """Kills all processes of a command once its ledger has committed outcomes; how many the ledger holds then."""
    log = ledger.with_name(ledger.name + "-wal")
    with subprocess.Popen(command, start_new_session=True) as process:
        try:
            while process.poll() is None and not (log.exists() and log.stat().st_size > FIRST_PAGES):
                time.sleep(0.02)
        finally:
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL, "it ended before it was killed: give it more topics"
    with Ledger.open(ledger) as left:
        return sum(configuration.groups for configuration in left.describe())


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_rerank_on_two_devices_that_is_killed_goes_on_to_the_same_bytes(tmp_path: Path) -> None:
    flags = [*map(str, collection(tmp_path, topics=80)), "--device", "cpu,cpu", "--dtype", "float32"]
    command = [sys.executable, "-m", "sparring.rerank.cli", *flags, "--output"]
    whole, broken, ledger = tmp_path / "whole.run", tmp_path / "broken.run", tmp_path / ".broken.run.ledger"
    subprocess.run([*command, str(whole)], check=True)
    held = killed([*command, str(broken)], ledger)
    assert 0 < held < 8000 and not broken.exists()
    subprocess.run([*command, str(broken)], check=True)
    assert broken.read_bytes() == whole.read_bytes()
    first, resumed = (
        yaml.safe_load(path.with_name(f"{path.name}.meta.yaml").read_text())["method"] for path in (whole, broken)
    )
    assert resumed["computed"] < first["computed"]  # what was known was not asked again
    assert {path.name for path in tmp_path.glob("*broken*")} == {"broken.run", "broken.run.meta.yaml"}
