"""How an endpoint is reached: keys, proxies, certificates, and what a server says, in messages that a terminal can show."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from sparring.rerank.errors import MissingPrerequisiteError, MissingResourceError, SparringError, UsageError
from sparring.rerank.models.chat import endpoint
from sparring.rerank.models.chat.endpoint import Endpoint

QUESTION = [[{"role": "user", "content": "which?"}]]
GOOD = json.dumps({"choices": [{"message": {"content": "[1]"}}]}).encode()


class Server(ThreadingHTTPServer):
    """Answers every POST with the same code and body, and remembers the first lines and keys."""

    daemon_threads = True
    code, body = 200, GOOD

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.seen: list[tuple[str, str | None]] = []
        self.url = f"http://127.0.0.1:{self.server_address[1]}/v1"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        server = self.server
        assert isinstance(server, Server)
        self.rfile.read(int(self.headers["Content-Length"]))
        server.seen.append((self.path, self.headers["Authorization"]))
        self.send_response(server.code)
        self.send_header("Content-Length", str(len(server.body)))
        self.end_headers()
        self.wfile.write(server.body)

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "OPENAI_API_KEY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    server = Server()
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def ask(url: str) -> list[str | None]:
    replies = Endpoint(url, "tiny", retries=0, pause=0).ask_all(QUESTION)
    return [None if reply is None else reply.text for _, reply in replies]


@pytest.mark.parametrize(
    ("code", "error"), [(400, SparringError), (401, MissingPrerequisiteError), (500, MissingResourceError)]
)
def test_control_characters_and_the_key_do_not_come_back_from_the_server(
    server: Server, monkeypatch: pytest.MonkeyPatch, code: int, error: type[Exception]
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    server.code = code
    server.body = json.dumps({"error": {"message": "\x1b[2Jno: sk-secret\r\nnaïve \u202e"}}).encode()
    with pytest.raises(error) as caught:
        ask(server.url)
    assert r"\x1b[2Jno: ***\r\nnaïve \u202e" in str(caught.value)
    assert "sk-secret" not in str(caught.value) and str(caught.value).isprintable()


def test_a_key_that_no_header_can_carry_is_not_shown(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-sec\nret")
    with pytest.raises(MissingPrerequisiteError, match=r"\$OPENAI_API_KEY holds characters") as caught:
        ask(server.url)
    assert "sk-sec" not in str(caught.value) and not server.seen
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret\n")  # as a file gives it
    assert ask(server.url) == ["[1]"] and server.seen == [("/v1/chat/completions", "Bearer sk-secret")]


def test_a_proxy_of_the_environment_is_asked(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", server.url.removesuffix("/v1"))
    assert ask("http://models.example/v1") == ["[1]"]
    assert server.seen == [("http://models.example/v1/chat/completions", None)]


def test_settings_of_the_environment_that_are_wrong(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALL_PROXY", "gopher://me:password@proxy.example")
    with pytest.raises(UsageError, match="holds no URL of a proxy") as caught:
        ask(server.url)
    assert "password" not in str(caught.value)


def test_a_reply_is_read_to_a_limit(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoint, "LARGEST_REPLY", 10)
    with pytest.raises(MissingResourceError, match=r"malformed answer \(JSONDecodeError\)"):
        ask(server.url)
