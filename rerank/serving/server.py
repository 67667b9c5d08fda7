"""HTTP in front of a `Service`, with the standard library: bounded in bytes, seconds, connections and requests."""

from __future__ import annotations

import hmac
import io
import json
import socket
import threading
import time
import uuid
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from ..console import log
from .dialects import Refused, Request, parse, refusal, response
from .service import Service

RERANK = {"/rerank": "1", "/v1/rerank": "1", "/v2/rerank": "2"}
"""Paths that rerank, and the version that an answer names."""
GET = ("/health", "/metrics", "/v1/models")
DRAINED = 1 << 20
"""Bytes of a refused body that are read, so that the caller sees the answer and no broken connection."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """What a caller may cost.

    Args:
        body: bytes of a request.
        connections: open at once; more are refused with 429.
        seconds: to send a request, and to take the answer.
        key: callers must show it as a bearer token; None lets everybody in.
    """

    body: int = 16 << 20
    connections: int = 256
    seconds: float = 20.0
    key: str | None = None


class Server(ThreadingHTTPServer):
    """A thread per connection in front of one service. ``server_address`` says where it listens."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(self, host: str, port: int, service: Service, bounds: Bounds | None = None) -> None:
        self.service, self.bounds = service, bounds or Bounds()
        self._room = threading.BoundedSemaphore(self.bounds.connections)
        self._lock = threading.Lock()
        self._busy = 0
        if ":" in host:
            self.address_family = socket.AF_INET6
        super().__init__((host, port), Handler)

    def stop(self, seconds: float = 10.0) -> None:
        """Ends `serve_forever`, lets requests at work finish, and closes the service."""
        self.shutdown()
        self.service.close(seconds)
        end = time.monotonic() + seconds
        while self._busy and time.monotonic() < end:
            time.sleep(0.01)
        self.server_close()

    def working(self, change: int) -> None:
        """Counts requests that are being answered."""
        with self._lock:
            self._busy += change

    def process_request(self, request: Any, client_address: Any) -> None:
        """Gives a connection its thread, or turns it away."""
        if not self._room.acquire(blocking=False):
            self._turn_away(request)
            return
        try:
            super().process_request(request, client_address)
        except BaseException:  # no thread to be had: the accept loop reports it and goes on
            self._room.release()
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Serves one connection, in its thread."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._room.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Logs what a connection died of."""
        log.debug("connection from %s failed", client_address, exc_info=True)

    def _turn_away(self, request: Any) -> None:
        body = json.dumps(refusal(Refused(429, "too many connections: try again"), uuid.uuid4().hex)).encode()
        head = (
            f"HTTP/1.1 429 Too Many Requests\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
        )
        try:
            request.settimeout(0.2)
            request.sendall(head.encode() + b"Retry-After: 1\r\nConnection: close\r\n\r\n" + body)
        except OSError:
            log.debug("a connection that was turned away did not wait for the answer")
        self.service.metrics.request(429, 0.0)
        self.shutdown_request(request)


class _Patient(io.RawIOBase):
    """Reads from a socket until a deadline over many reads, so that sending byte by byte does not help."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._deadline = 0.0

    def readable(self) -> bool:
        return True

    def allow(self, seconds: float) -> None:
        """Sets the deadline so many seconds from now."""
        self._deadline = time.monotonic() + seconds

    def readinto(self, buffer: Any) -> int:
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("the caller is too slow")
        self._connection.settimeout(left)
        return self._connection.recv_into(buffer)


class Handler(BaseHTTPRequestHandler):
    """One connection: reads requests, and answers every one of them with JSON."""

    protocol_version = "HTTP/1.1"
    server_version = "sparring"
    sys_version = ""
    default_request_version = "HTTP/1.1"  # what cannot be read is answered with a status line too
    server: Server

    def setup(self) -> None:
        """Puts the deadline between the socket and its reader."""
        super().setup()
        self.rfile.close()
        self._patient = _Patient(self.connection)
        self.rfile = io.BufferedReader(self._patient)

    def handle(self) -> None:
        """Answers until the caller goes away."""
        try:
            super().handle()
        except OSError as error:  # it did, in the middle of something
            log.debug("connection lost: %s", error)

    def handle_one_request(self) -> None:
        """Waits for a request line and answers what follows."""
        self._number, self._unread = uuid.uuid4().hex, 0
        self._patient.allow(self.server.bounds.seconds)
        super().handle_one_request()

    def parse_request(self) -> bool:
        """Reads the headers; a caller that never ends them is told so."""
        try:
            return super().parse_request()
        except TimeoutError:
            self.send_error(408, "the headers did not arrive in time")
            return False

    def do_GET(self) -> None:
        """/health, /v1/models, /metrics."""
        path = self._path()
        service = self.server.service
        if path == "/health":
            healthy, reason = service.health()
            body = {"status": "ok" if healthy else "unhealthy", "reason": reason, "model": service.name}
            self._send(200 if healthy else 503, body | {"queued": service.queued})
        elif path == "/v1/models":
            model = {
                "id": service.name,
                "object": "model",
                "created": int(service.started),
                "owned_by": "sparring",
            }
            self._send(200, {"object": "list", "data": [model]})
        elif path == "/metrics":
            gauges = {"queued_requests": service.queued, "healthy": float(service.health()[0])}
            self._send(200, service.metrics.text(gauges))
        elif path in RERANK:
            self._refuse(Refused(405, f"{path} takes POST"), {"Allow": "POST"})
        else:
            self._refuse(self._unknown(path))

    def do_POST(self) -> None:
        """/rerank, /v1/rerank, /v2/rerank."""
        start = time.perf_counter()
        self.server.working(1)
        dialect = "cohere"
        try:
            body = self._body()
            path = self._path()
            if path in GET:
                raise Refused(405, f"{path} takes GET")
            if path not in RERANK:
                raise self._unknown(path)
            self._authorise()
            request: Request = parse(body, self.server.service.limits.documents)
            dialect = request.dialect
            answer = self.server.service.answer(request)
            content = response(request, answer, self.server.service.name, self._number, RERANK[path])
            status = self._send(200, content)
        except Refused as refused:
            extra = {"Allow": "GET"} if refused.status == 405 else {}
            status = self._refuse(refused, extra, dialect)
        except OSError:
            raise
        except Exception:
            log.exception("request %s", self._number)
            status = self._refuse(Refused(500, "internal error; the log of the server has it"), {}, dialect)
        finally:
            self.server.working(-1)
        self.server.service.metrics.request(status, time.perf_counter() - start)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Answers what the base class refuses: no HTTP, unknown methods, headers without end."""
        self.close_connection = True
        self._refuse(Refused(code, message or self.responses.get(code, ("error",))[0]))

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 (the name is the base class's)
        """Sends the access log to the debug log."""
        log.debug("%s %s", self.address_string(), format % args)

    def _path(self) -> str:
        return self.path.partition("?")[0].rstrip("/") or "/"

    def _unknown(self, path: str) -> Refused:
        return Refused(404, f"nothing is at {path[:80]}; known: {', '.join([*RERANK, *GET])}")

    def _authorise(self) -> None:
        key = self.server.bounds.key
        shown = self.headers.get("Authorization", "").removeprefix("Bearer ").encode("utf-8", "replace")
        if key is not None and not hmac.compare_digest(shown, key.encode()):
            raise Refused(401, "send the key as Authorization: Bearer KEY")

    def _body(self) -> bytes:
        """The whole body; Refused with 400, 408, 411, 413 or 415 where it cannot or may not be read."""
        self.close_connection = True  # until it has been read, what follows is no request
        stated = self.headers.get("Content-Length")
        if stated is None or self.headers.get("Transfer-Encoding"):
            raise Refused(411, "send the body with a Content-Length, not in chunks")
        if not (stated.isascii() and stated.isdigit()) or len(stated) > 18:
            raise Refused(400, "Content-Length is not a number of bytes")
        self._unread = int(stated)
        if self._unread > self.server.bounds.body:
            raise Refused(
                413, f"the body has {self._unread:,} bytes; at most {self.server.bounds.body:,} are taken"
            )
        if self.headers.get("Content-Encoding", "identity") != "identity":
            raise Refused(415, "send the body uncompressed")
        self._patient.allow(self.server.bounds.seconds)
        try:
            body = self.rfile.read(self._unread)
        except TimeoutError:
            self._unread = 0
            raise Refused(408, f"the body did not arrive within {self.server.bounds.seconds:g} s") from None
        if len(body) < self._unread:
            raise ConnectionResetError("the caller left before the end of the body")
        self._unread = 0
        self.close_connection = self.headers.get("Connection", "").lower() == "close"
        return body

    def _refuse(self, refused: Refused, headers: dict[str, str] | None = None, dialect: str = "cohere") -> int:
        extra = dict(headers or {})
        if refused.retry_after is not None:
            extra["Retry-After"] = str(refused.retry_after)
        status = self._send(refused.status, refusal(refused, self._number, dialect), extra)
        self._drain()
        return status

    def _send(self, status: int, content: Any, headers: dict[str, str] | None = None) -> int:
        text = isinstance(content, str)
        body = content.encode() if text else json.dumps(content).encode()
        self.connection.settimeout(self.server.bounds.seconds)
        self.send_response(status)
        self.send_header("Content-Type", "text/plain; version=0.0.4" if text else "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("X-Request-Id", self._number)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)
        return status

    def _drain(self) -> None:
        """Reads some of a body that was refused: closing at once would reset the connection under the answer."""
        self._patient.allow(1.0)
        try:
            while 0 < self._unread <= DRAINED + self.server.bounds.body and self.rfile.read1(1 << 16):
                self._unread -= 1 << 16
        except TimeoutError:
            log.debug("request %s: its body was left unread", self._number)
        self._unread = 0
