"""A server on this machine around a scorer that counts shared words, and ways to ask it."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from sparring.rerank import registry
from sparring.rerank.serving.server import Bounds, Server
from sparring.rerank.serving.service import Limits, Service
from sparring.rerank.vocabulary import Candidates, Groups, Outcomes, Sink


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


def raw(server: Server, data: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", server.server_address[1]), timeout=10) as client:
        client.sendall(data)
        with contextlib.suppress(OSError):  # who is turned away may find the door closed
            client.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: client.recv(4096), b""))
