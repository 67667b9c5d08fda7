"""`sparring serve`: a real model behind a real server, and flags that are wrong."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from sparring.rerank.cli import main
from sparring.rerank.commands.serve import SAMPLES, Options, open_service
from sparring.rerank.serving.server import Server
from sparring.rerank.vocabulary import Candidates
from tiny_models import save_classifier
from tiny_server import ask


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_classifier(tmp_path_factory.mktemp("model") / "tiny", "bert")


def test_a_real_model_scores_as_the_engine_does(model: Path) -> None:
    from sparring.rerank.engine.engine import Engine
    from sparring.rerank.models.loading import load

    service = open_service(Options(model=str(model), dtype="float32", device="cpu"))
    server = Server("127.0.0.1", 0, service)
    service.start(SAMPLES)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    documents = ["a river in winter", "the history of bread \ud83c", "music theory"]
    status, answer = ask(server, {"query": "bread", "documents": documents, "raw_scores": True})
    server.stop()
    assert status == 200
    topic = Candidates("q", "bread", ("0", "1", "2"), documents, np.zeros(3))
    (scores,) = Engine(load(str(model)), dtype="float32", device="cpu")(
        [topic], [np.arange(3, dtype=np.int32)[:, None]]
    )
    found = {r["index"]: r["relevance_score"] for r in answer["results"]}
    np.testing.assert_allclose([found[i] for i in range(3)], scores[:, 0], atol=1e-5)
    assert answer["usage"]["total_tokens"] > 0 and answer["model"] == "tiny"


@pytest.mark.parametrize(
    "flags,code,message",
    [
        (("--port", "70000"), 2, "--port"),
        (("--max-queue", "0"), 2, "--max-queue"),
        (("--model", "/no/such/model"), 4, "/no/such/model"),
        (("--schedule", "windw"), 2, "did you mean 'window'"),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)
def test_wrong_flags(
    model: Path, flags: tuple[str, ...], code: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    given = {"--model": str(model)} | {flags[0]: flags[1]}
    assert main(["serve", *(word for pair in given.items() for word in pair)]) == code
    assert message in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_command_serves_until_it_is_told_to_stop(model: Path, number: signal.Signals) -> None:
    command = [sys.executable, "-m", "sparring.rerank.cli", "serve", "--model", str(model), "--port", "0"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        port = int(re.search(r":(\d+)/rerank", line)[1])  # type: ignore[index]
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=30)) as connection:
            connection.request("POST", "/rerank", json.dumps({"query": "q", "documents": ["a", "b"]}))
            with connection.getresponse() as answer:
                assert answer.status == 200 and len(json.load(answer)["results"]) == 2
        process.send_signal(number)
        assert process.wait(20) == 0
