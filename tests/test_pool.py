"""Several devices: real processes, really killed and stopped; every outcome is still there."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_models
from sparring.rerank import workers
from sparring.rerank.devices import split_devices
from sparring.rerank.engine import Engine, open_scorer
from sparring.rerank.errors import SparringError, UsageError
from sparring.rerank.models import load
from sparring.rerank.vocabulary import Scorer
from test_engine import Fake
from test_models_pointwise import everything, topics_of


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
    topics = topics_of(8, 50)
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
    topics = topics_of(8, 50)
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
    topics = topics_of(2, 80)
    topics[0].texts[:] = [None] * 80  # type: ignore[index]
    same = [topics[0]]
    pool(same, everything(same))  # one text, one score: nothing to judge
    with pytest.raises(UsageError, match="groups of 1 candidates"):
        pool(topics[1:], [np.zeros((3, 2), np.int32)])
