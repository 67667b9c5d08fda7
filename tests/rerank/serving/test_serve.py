"""`sparring serve`: a real server on this machine, asked by well-behaved, hurried, slow and hostile clients."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sparring.rerank import registry
from sparring.rerank.cli import main
from sparring.rerank.commands.serve import SAMPLES, Options, open_service
from sparring.rerank.serving.dialects import Refused, parse
from sparring.rerank.serving.server import Bounds, Server
from sparring.rerank.serving.service import Limits, Service
from sparring.rerank.vocabulary import Candidates, Groups, Outcomes, Sink
from tiny_models import byte_bpe, save_classifier


class Overlap:
    """A pointwise scorer: shared words minus one half; the text "poison" raises, "nan" is quarantined."""

    width = 1
    fingerprint = "overlap"

    def __init__(self, before: Callable[[], object] = lambda: None) -> None:
        self.before = before
        self.calls: list[int] = []

    def __call__(
        self, topics: Sequence[Candidates], groups: Sequence[Groups], sink: Sink | None = None
    ) -> list[Outcomes]:
        self.before()
        self.calls.append(len(topics))
        if any("poison" in topic.texts for topic in topics):
            raise RuntimeError("secret detail")
        return [
            np.array([[self.score(topic.query, topic.texts[i])] for i in rows[:, 0]])
            for topic, rows in zip(topics, groups, strict=True)
        ]

    @staticmethod
    def score(query: str, text: str) -> float:
        return np.nan if text == "nan" else len(set(query.split()) & set(text.split())) - 0.5


@contextlib.contextmanager
def serving(
    scorer: Any = None, limits: Limits | None = None, bounds: Bounds | None = None, tokenizer: Any = None
) -> Iterator[Server]:
    service = Service(
        scorer or Overlap(), "overlap", registry.schedules.parse("pointwise"), limits=limits, tokenizer=tokenizer,
        max_length=20,
    )  # fmt: skip
    server = Server("127.0.0.1", 0, service, bounds)
    service.start()
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.stop(2.0)
        thread.join()


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with serving() as running:
        yield running


def connect(server: Server) -> http.client.HTTPConnection:
    return http.client.HTTPConnection("127.0.0.1", server.server_address[1], timeout=20)


def ask(
    server: Server, body: Any, path: str = "/rerank", headers: dict[str, str] | None = None, method: str = "POST"
) -> tuple[int, Any]:
    connection = connect(server)
    data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
    connection.request(method, path, data, headers or {})
    reply = connection.getresponse()
    content = reply.read()
    connection.close()
    text = reply.getheader("Content-Type", "").startswith("text/plain")
    return reply.status, content.decode() if text else json.loads(content)


DOCUMENTS = ["winter bread", "prime numbers", "bread of winter rivers", "nothing"]
QUERY = "winter bread rivers"


def sigmoid(x: float) -> float:
    return float(1 / (1 + np.exp(-x)))


@pytest.mark.parametrize("path", ["/rerank", "/v1/rerank", "/v2/rerank"])
def test_cohere_dialect(server: Server, path: str) -> None:
    body = {"model": "any", "query": QUERY, "documents": DOCUMENTS, "top_n": 3, "return_documents": True}
    status, answer = ask(server, body, path)
    assert status == 200
    assert [r["index"] for r in answer["results"]] == [2, 0, 1]
    assert [r["relevance_score"] for r in answer["results"]] == pytest.approx(
        [sigmoid(x) for x in (2.5, 1.5, -0.5)]
    )
    assert answer["results"][0]["document"] == {"text": DOCUMENTS[2]}
    assert answer["model"] == "overlap" and answer["id"]
    assert answer["meta"]["api_version"] == {"version": "2" if "v2" in path else "1"}
    assert answer["meta"]["billed_units"] == {"search_units": 1}


def test_voyage_names_objects_and_raw_scores(server: Server) -> None:
    documents = [{"text": "bread"}, {"title": "winter", "text": "rivers bread", "year": 1900}]
    status, answer = ask(server, {"query": QUERY, "documents": documents, "top_k": 1, "raw_scores": True})
    assert status == 200
    assert answer["results"] == [{"index": 1, "relevance_score": 1.5}]
    body = {"query": QUERY, "documents": documents[1:], "rank_fields": ["title", "text"], "return_documents": True}
    (result,) = ask(server, body | {"raw_scores": True})[1]["results"]
    assert result == {"index": 0, "relevance_score": 2.5, "document": documents[1]}


def test_tei_dialect(server: Server) -> None:
    body = {"query": QUERY, "texts": DOCUMENTS[:2], "raw_scores": True, "return_text": True}
    status, answer = ask(server, body)
    assert status == 200
    assert answer == [
        {"index": 0, "score": 1.5, "text": "winter bread"},
        {"index": 1, "score": -0.5, "text": "prime numbers"},
    ]
    status, answer = ask(server, {"query": QUERY, "texts": ["poison"]})
    assert status == 500 and set(answer) == {"error", "error_type"}


def test_ties_keep_the_order_of_the_request_and_the_unscored_stand_last(server: Server) -> None:
    body = {"query": QUERY, "documents": ["nan", "b", "winter", "a"]}
    answer = ask(server, body)[1]
    assert [r["index"] for r in answer["results"]] == [2, 1, 3, 0]
    assert answer["results"][-1]["relevance_score"] == 0.0
    assert answer["meta"]["warnings"] == ["documents[0] could not be scored"]


@pytest.mark.parametrize(
    "body,status,message",
    [
        (b"{", 400, "not valid JSON"),
        (b"\xff\xfe{}", 400, "JSON"),
        (b"[" * 100_000, 400, "nested"),
        (b'{"top_n": ' + b"9" * 5000 + b"}", 400, "JSON"),
        ([], 422, "object"),
        ({}, 422, "query: missing"),
        ({"query": None, "documents": ["a"]}, 422, "query: expected a string, found null"),
        ({"query": 3, "documents": ["a"]}, 422, "query: expected a string, found a number"),
        ({"query": " ", "documents": ["a"]}, 422, "must not be empty"),
        ({"query": "q"}, 422, "documents: missing"),
        ({"query": "q", "documents": "a"}, 422, "documents: expected an array, found a string"),
        ({"query": "q", "documents": []}, 422, "at least one"),
        ({"query": "q", "documents": ["a", None]}, 422, "documents[1]"),
        ({"query": "q", "documents": [{"body": "a"}]}, 422, "fields found: body"),
        ({"query": "q", "documents": [{"text": None}]}, 422, "documents[0]"),
        ({"query": "q", "documents": [["a"]]}, 422, "found an array"),
        ({"query": "q", "texts": [{"text": "a"}]}, 422, "texts[0]: expected a string"),
        ({"query": "q", "texts": ["a"], "documents": ["a"]}, 422, "not both"),
        ({"query": "q", "documents": ["a"], "top_n": 0}, 422, "top_n"),
        ({"query": "q", "documents": ["a"], "top_n": True}, 422, "top_n"),
        ({"query": "q", "documents": ["a"], "top_n": "3"}, 422, "top_n"),
        ({"query": "q", "documents": ["a"], "top_n": 1, "top_k": 2}, 422, "contradict"),
        ({"query": "q", "documents": ["a"], "return_documents": "yes"}, 422, "true or false"),
        ({"query": "q", "documents": ["a"], "rank_fields": [1]}, 422, "rank_fields"),
        ({"query": "q", "documents": ["a"] * 10_000}, 413, "10000 documents; at most 1000"),
    ],
    ids=lambda value: str(value)[:30] if isinstance(value, dict | bytes | list) else None,
)
def test_what_is_wrong_with_a_request_is_said(server: Server, body: Any, status: int, message: str) -> None:
    found, answer = ask(server, body)
    assert found == status
    text = answer.get("message") or answer.get("error")
    assert message in text
    assert ask(server, None, "/health", method="GET")[0] == 200


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
FIELDS = ["query", "documents", "texts", "top_n", "top_k", "return_documents", "rank_fields", "raw_scores",
          "max_tokens_per_doc", "truncate_prompt_tokens", "truncate"]  # fmt: skip


@settings(deadline=None, max_examples=300)
@given(st.dictionaries(st.sampled_from(FIELDS), json_values) | json_values, st.binary(max_size=8))
def test_no_body_breaks_the_parser(content: Any, noise: bytes) -> None:
    for body in (json.dumps(content).encode(), noise):
        try:
            request = parse(body, 10)
        except Refused as refused:
            assert refused.status in (400, 413, 422)
        else:
            assert len(request.texts) == len(request.documents) and all(isinstance(t, str) for t in request.texts)


def test_other_paths_methods_and_headers(server: Server) -> None:
    assert ask(server, {}, "/nowhere")[0] == 404
    assert ask(server, None, "/nowhere", method="GET")[0] == 404
    assert ask(server, None, "/rerank", method="GET")[0] == 405
    assert ask(server, {}, "/health")[0] == 405
    assert ask(server, b"x", "/rerank", method="PATCH")[0] == 501
    assert ask(server, b"x", headers={"Content-Encoding": "gzip"})[0] == 415
    assert ask(server, b"", headers={"Content-Length": "-1"})[0] == 400
    assert raw(server, b"POST /rerank HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n").startswith(
        b"HTTP/1.1 411"
    )
    assert b"400" in raw(server, b"complete nonsense here at length\r\n\r\n")


def raw(server: Server, data: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", server.server_address[1]), timeout=10) as client:
        client.sendall(data)
        with contextlib.suppress(OSError):  # who is turned away may find the door closed
            client.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: client.recv(4096), b""))


def test_models_and_metrics(server: Server) -> None:
    ask(server, {"query": QUERY, "documents": DOCUMENTS})
    status, models = ask(server, None, "/v1/models", method="GET")
    assert status == 200 and models["data"][0]["id"] == "overlap"
    status, text = ask(server, None, "/metrics", method="GET")
    assert status == 200 and "sparring_healthy 1" in text
    counts = dict(re.findall(r"^(sparring_\S+) (\S+)$", text, re.M))
    assert int(counts['sparring_requests_total{status="200"}']) >= 1
    assert int(counts["sparring_documents_total"]) >= 4
    assert counts['sparring_request_seconds_bucket{le="+Inf"}'] == counts["sparring_request_seconds_count"]


def test_one_connection_asks_many_times(server: Server) -> None:
    connection = connect(server)
    for size in (1, 3, 2):
        connection.request("POST", "/rerank", json.dumps({"query": "q", "documents": ["a"] * size}))
        assert len(json.loads(connection.getresponse().read())["results"]) == size
    connection.close()


def test_concurrent_requests_get_their_own_answers_and_share_batches() -> None:
    scorer = Overlap(before=lambda: time.sleep(0.02))
    with serving(scorer) as server:

        def one(number: int) -> bool:
            words = [f"w{number}-{i}" for i in range(number % 7 + 2)]
            documents = [" ".join(words[: i + 1]) for i in range(len(words))]
            status, answer = ask(server, {"query": " ".join(words), "documents": documents, "raw_scores": True})
            found = [(r["index"], r["relevance_score"]) for r in answer["results"]]
            return status == 200 and found == [(i, i + 0.5) for i in reversed(range(len(words)))]

        with ThreadPoolExecutor(16) as pool:
            assert all(pool.map(one, range(60)))
    assert sum(scorer.calls) == 60 and len(scorer.calls) < 60 and max(scorer.calls) > 1


def test_a_failing_request_does_not_spoil_the_others() -> None:
    gate = threading.Event()
    scorer = Overlap(before=lambda: gate.wait(5))
    with serving(scorer) as server, ThreadPoolExecutor(4) as pool:
        first = pool.submit(ask, server, {"query": "q", "documents": ["a"]})
        time.sleep(0.2)
        good = pool.submit(ask, server, {"query": "q", "documents": ["q"]})
        bad = pool.submit(ask, server, {"query": "q", "documents": ["poison"]})
        time.sleep(0.2)
        gate.set()
        assert first.result()[0] == good.result()[0] == 200
        status, answer = bad.result()
        assert status == 500 and "secret" not in answer["message"]


def test_health_is_honest() -> None:
    gate = threading.Event()
    gate.set()
    with serving(Overlap(before=lambda: gate.wait(5)), Limits(seconds=0.3)) as server:
        for _ in range(3):
            assert ask(server, {"query": "q", "documents": ["poison"]})[0] == 500
        status, body = ask(server, None, "/health", method="GET")
        assert status == 503 and "3 requests failed" in body["reason"]
        assert ask(server, {"query": "q", "documents": ["a"]})[0] == 200
        assert ask(server, None, "/health", method="GET")[0] == 200
        gate.clear()
        status, body = ask(server, {"query": "q", "documents": ["a"]})
        assert status == 503 and "no scores" in body["message"]
        status, body = ask(server, None, "/health", method="GET")
        assert status == 503 and "one batch" in body["reason"]
        gate.set()
        deadline = time.monotonic() + 5
        while ask(server, None, "/health", method="GET")[0] != 200:
            assert time.monotonic() < deadline
        assert ask(server, {"query": "q", "documents": ["a"]})[0] == 200


def test_a_full_queue_is_429() -> None:
    gate = threading.Event()
    limits = Limits(queue=2, batch=1, seconds=10)
    with serving(Overlap(before=lambda: gate.wait(5)), limits) as server, ThreadPoolExecutor(12) as pool:
        waiting = [pool.submit(ask, server, {"query": "q", "documents": ["a"]}) for _ in range(8)]
        deadline = time.monotonic() + 5
        while sum(request.done() for request in waiting) < 5 and time.monotonic() < deadline:
            time.sleep(0.01)
        refused = [request.result() for request in waiting if request.done()]
        assert len(refused) == 5 and {status for status, _ in refused} == {429}
        assert "waiting" in refused[0][1]["message"]
        assert ask(server, None, "/health", method="GET")[0] == 200
        gate.set()
        assert sorted(request.result()[0] for request in waiting) == [200] * 3 + [429] * 5


def test_too_many_connections_are_turned_away() -> None:
    with serving(bounds=Bounds(connections=2, seconds=5)) as server:
        idle = [socket.create_connection(("127.0.0.1", server.server_address[1])) for _ in range(2)]
        time.sleep(0.2)
        assert b" 429 " in raw(server, b"")
        for client in idle:
            client.close()
        deadline = time.monotonic() + 5
        while b" 429 " in raw(server, b"GET /health HTTP/1.1\r\n\r\n"):
            assert time.monotonic() < deadline
            time.sleep(0.05)


def test_slow_clients_get_408_and_hold_nobody_up() -> None:
    with serving(bounds=Bounds(seconds=0.4)) as server:
        address = ("127.0.0.1", server.server_address[1])
        with socket.create_connection(address, timeout=10) as body, socket.create_connection(address) as head:
            head.settimeout(10)
            body.sendall(b"POST /rerank HTTP/1.1\r\nContent-Length: 1000\r\n\r\n{")
            head.sendall(b"POST /rerank HTTP/1.1\r\nX-Slow:")
            for _ in range(4):  # a byte now and then does not help
                time.sleep(0.05)
                body.sendall(b" ")
                head.sendall(b"x")
            assert ask(server, {"query": "q", "documents": ["a"]})[0] == 200
            assert body.recv(4096).startswith(b"HTTP/1.1 408")
            assert head.recv(4096).startswith(b"HTTP/1.1 408")


def test_a_body_that_is_too_large_is_413_and_is_not_read_to_its_end() -> None:
    with serving(bounds=Bounds(body=1000)) as server:
        status, answer = ask(server, {"query": "q", "documents": ["a" * 2000]})
        assert status == 413 and "at most 1,000" in answer["message"]
        head = b"POST /rerank HTTP/1.1\r\nContent-Length: 99999999999\r\n\r\n"
        assert raw(server, head).startswith(b"HTTP/1.1 413")
        assert ask(server, {"query": "q", "documents": ["a"]})[0] == 200


def test_clients_that_leave_do_no_harm(server: Server) -> None:
    data = json.dumps({"query": "q", "documents": ["a"] * 500}).encode()
    head = f"POST /rerank HTTP/1.1\r\nContent-Length: {len(data)}\r\n\r\n".encode()
    for sent in (b"", b"POST /re", head, head + data[:50], head + data):
        client = socket.create_connection(("127.0.0.1", server.server_address[1]))
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # reset on close
        client.sendall(sent)
        client.close()
    assert ask(server, {"query": "q", "documents": ["a"]})[0] == 200


def test_a_key_is_asked_for() -> None:
    with serving(bounds=Bounds(key="s3cret")) as server:
        body = {"query": "q", "documents": ["a"]}
        assert ask(server, body)[0] == 401
        assert ask(server, body, headers={"Authorization": "Bearer wrong"})[0] == 401
        assert ask(server, body, headers={"Authorization": "Bearer s3cret"})[0] == 200
        assert ask(server, None, "/health", method="GET")[0] == 200


def test_tokens_are_counted_and_cut() -> None:
    tokenizer = byte_bpe("none").backend_tokenizer
    words = [len(tokenizer.encode(text, add_special_tokens=False).ids) for text in ("ranking", "model score list")]
    seen: list[str] = []

    class Recording(Overlap):
        @staticmethod
        def score(query: str, text: str) -> float:
            seen.append(text)
            return float(len(seen))

    with serving(Recording(), tokenizer=tokenizer) as server:
        body: dict[str, Any] = {"query": "ranking", "documents": ["model score list", ""]}
        usage = ask(server, body)[1]["usage"]
        assert usage == {"prompt_tokens": 2 * words[0] + words[1], "total_tokens": 2 * words[0] + words[1]}
        seen.clear()
        ask(server, body | {"max_tokens_per_doc": 1})
        ask(server, body | {"truncate_prompt_tokens": words[0] + 2})
        cut = [tokenizer.encode(text, add_special_tokens=False).ids for text in (seen[0], seen[2])]
        assert [len(ids) for ids in cut] == [1, 2] and "model score list".startswith(seen[0])
        long = {"query": "ranking", "texts": ["model score list " * 30]}
        assert ask(server, long)[0] == 200
        status, answer = ask(server, long | {"truncate": False})
        assert status == 422 and "allow truncate" in answer["error"]


def test_stopping_finishes_what_is_at_work() -> None:
    gate = threading.Event()
    with serving(Overlap(before=lambda: gate.wait(5))) as server, ThreadPoolExecutor(1) as pool:
        request = pool.submit(ask, server, {"query": "q", "documents": ["a"]})
        time.sleep(0.2)
        threading.Timer(0.2, gate.set).start()
        server.stop(5.0)
        assert request.result()[0] == 200
        assert server.service.health() == (False, "shutting down")


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
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        connection.request("POST", "/rerank", json.dumps({"query": "q", "documents": ["a", "b"]}))
        assert connection.getresponse().status == 200
        process.send_signal(number)
        assert process.wait(20) == 0
