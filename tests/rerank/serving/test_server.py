"""A real server on this machine, asked by well-behaved and by badly behaved clients."""

from __future__ import annotations

import json
import re
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from sparring.rerank.serving.server import Bounds, Server
from sparring.rerank.serving.service import Limits
from tiny_models import byte_bpe
from tiny_server import DOCUMENTS, QUERY, Overlap, ask, connect, raw, serving


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
