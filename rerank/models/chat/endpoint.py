"""A client of OpenAI-compatible chat endpoints (a vLLM server, say) over httpx.

A failed call is repeated after a growing pause, or after what ``Retry-After`` asks for. What cannot get better by
waiting (a wrong key, an unknown model) stops at once. Redirects are refused: they would carry the key elsewhere.
Proxies and certificates come from the environment (HTTPS_PROXY, NO_PROXY, SSL_CERT_FILE, ...).
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit

import httpx2 as httpx

from ... import console
from ...errors import MissingPrerequisiteError, MissingResourceError, SparringError, UsageError
from ..checkpoints import SERVED

LONGEST_PAUSE = 60.0
LARGEST_REPLY = 1 << 24
HOPELESS = 3  # calls that failed before any succeeded: the server is not there
Messages = list[dict[str, str]]


@dataclass(frozen=True, slots=True)
class Reply:
    """What the model wrote and what the server counted; ``finished`` is False where it was cut off."""

    text: str
    prompt_tokens: int = 0
    completion_tokens: int = 0
    finished: bool = True


@dataclass(slots=True)
class Usage:
    """What an endpoint's calls cost; safe to add to from several threads."""

    calls: int = 0
    retries: int = 0
    failures: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def add(self, **counts: int) -> None:
        """Adds to the counts."""
        with self._lock:
            for name, count in counts.items():
                setattr(self, name, getattr(self, name) + count)


class _Again(Exception):
    """The call failed in a way that may pass; ``pause`` is what the server asked for, in seconds."""

    def __init__(self, reason: str, pause: float | None = None) -> None:
        super().__init__(reason)
        self.pause = pause


@dataclass(frozen=True)
class Endpoint:
    """Where a model is served and how patiently it is asked.

    Args:
        url: the base, such as ``http://127.0.0.1:8000/v1``; ``/chat/completions`` is added.
        model: the name of the model there.
        key: environment variable that holds the API key; without the variable none is sent.
        timeout: seconds for one call.
        retries: further attempts after a failed one.
        parallel: calls at the same time.
        pause: seconds before the first repetition; each further one waits twice as long.
        max_tokens: of an answer; the server's own limit where absent.
    """

    url: str
    model: str
    key: str = "OPENAI_API_KEY"
    timeout: float = 60.0
    retries: int = 5
    parallel: int = 8
    pause: float = 1.0
    temperature: float = 0.0
    max_tokens: int | None = None
    usage: Usage = field(default_factory=Usage, compare=False, repr=False)

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.netloc or parts.username:
            raise UsageError(
                f"{self.url!r} is no endpoint: expected http(s)://host:port/v1, the key from ${self.key}"
            )
        if self.timeout <= 0 or self.retries < 0 or self.parallel < 1 or self.pause < 0:
            raise UsageError("timeout must be positive, retries and pause not negative, parallel at least 1")

    @classmethod
    def parse(cls, name: str, **options: Any) -> Endpoint:
        """The endpoint of a model name such as ``openai:http://127.0.0.1:8000/v1#qwen3``."""
        url, _, model = name.removeprefix(SERVED).partition("#")
        if not name.startswith(SERVED) or not model:
            raise UsageError(
                f"{name!r}: expected {SERVED}URL#MODEL, such as {SERVED}http://127.0.0.1:8000/v1#qwen3"
            )
        return cls(url.rstrip("/"), model, **options)

    def ask_all(self, questions: Sequence[Messages]) -> Iterator[tuple[int, Reply | None]]:
        """(index, reply) of every question as they arrive, None where all attempts failed.

        Raises MissingResourceError where the first calls all fail, and at once what waiting cannot mend.
        """
        with (
            self._client() as client,
            ThreadPoolExecutor(max_workers=self.parallel, thread_name_prefix="sparring-endpoint") as pool,
        ):
            asked = {pool.submit(self._ask, client, messages): index for index, messages in enumerate(questions)}
            failed = 0
            try:
                for done in as_completed(asked):
                    try:
                        yield asked[done], done.result()
                    except _Again as reason:
                        failed += 1
                        self.usage.add(failures=1)
                        if failed >= min(HOPELESS, len(asked)) and not self.usage.calls:
                            raise MissingResourceError(
                                f"{self.url}: no answer after {self.retries + 1} attempts ({reason})"
                            ) from None
                        console.log.warning(
                            "%s: no answer after %d attempts (%s)", self.url, self.retries + 1, reason
                        )
                        yield asked[done], None
            finally:
                pool.shutdown(wait=False, cancel_futures=True)

    def _client(self) -> httpx.Client:
        limits = httpx.Limits(max_connections=self.parallel)
        try:
            return httpx.Client(timeout=self.timeout, limits=limits, headers={"Accept-Encoding": "identity"})
        except ImportError:
            raise MissingPrerequisiteError(
                "the environment names a SOCKS proxy: pip install 'httpx2[socks]', or unset ALL_PROXY"
            ) from None
        except (ValueError, httpx.InvalidURL):  # not quoted: proxies may hold a password
            raise UsageError("HTTP_PROXY, HTTPS_PROXY or ALL_PROXY holds no URL of a proxy: correct it") from None
        except OSError as error:
            raise UsageError(f"SSL_CERT_FILE or SSL_CERT_DIR cannot be read: {error}") from None

    def _ask(self, client: httpx.Client, messages: Messages) -> Reply:
        """The answer to one question, after as many attempts as allowed."""
        attempt = 0
        while True:
            try:
                reply = self._call(client, messages)
            except _Again as reason:
                if attempt == self.retries:
                    raise
                self.usage.add(retries=1)
                pause = self.pause * 2**attempt if reason.pause is None else reason.pause
                time.sleep(min(pause, LONGEST_PAUSE))
                attempt += 1
            else:
                self.usage.add(
                    calls=1, prompt_tokens=reply.prompt_tokens, completion_tokens=reply.completion_tokens
                )
                return reply

    def _call(self, client: httpx.Client, messages: Messages) -> Reply:
        body: dict[str, Any] = {"model": self.model, "messages": messages, "temperature": self.temperature}
        if self.max_tokens is not None:
            body["max_tokens"] = self.max_tokens
        headers = {"Accept": "application/json"}
        if key := self._key():
            headers["Authorization"] = f"Bearer {key}"
        try:
            with client.stream("POST", f"{self.url}/chat/completions", json=body, headers=headers) as response:
                if response.is_success:
                    return _read(_body(response, LARGEST_REPLY))
                raise self._refused(response)
        except httpx.TimeoutException:
            raise _Again(f"timed out after {self.timeout:g} s") from None
        except httpx.RequestError as error:
            raise _Again(self._shown(str(error) or type(error).__name__)) from None

    def _key(self) -> str:
        key = os.environ.get(self.key, "").strip()
        if not (key.isascii() and key.isprintable()):
            raise MissingPrerequisiteError(
                f"${self.key} holds characters that no HTTP header can carry: set it to a valid key"
            )
        return key

    def _refused(self, response: httpx.Response) -> Exception:
        code, said = response.status_code, _message(response)
        detail = f", {self._shown(said)[:200]}" if said else ""
        if code in (401, 403):
            return MissingPrerequisiteError(
                f"{self.url}: refused ({code}{detail}): set ${self.key} to a valid key"
            )
        if code == 404:
            return MissingResourceError(
                f"{self.url}: not found (404{detail}): check the URL and the model {self.model!r}"
            )
        if code in (408, 409, 425, 429) or code >= 500:
            return _Again(f"HTTP {code}{detail}", _retry_after(response.headers.get("Retry-After")))
        return SparringError(f"{self.url}: HTTP {code}{detail}")

    def _shown(self, text: str) -> str:
        """What a server said, fit for a terminal: control characters as escapes, and no key in it."""
        if key := self._key():
            text = text.replace(key, "***")
        return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in text)


def _body(response: httpx.Response, limit: int) -> bytes:
    """The first ``limit`` bytes of an answer."""
    found = bytearray()
    for part in response.iter_bytes():
        found += part
        if len(found) >= limit:
            break
    return bytes(found[:limit])


def _read(raw: bytes) -> Reply:
    try:
        body = json.loads(raw)
        choice = body["choices"][0]
        text = choice["message"]["content"]
        usage = body.get("usage") or {}
        counts = [int(usage.get(name) or 0) for name in ("prompt_tokens", "completion_tokens")]
    except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        raise _Again(f"malformed answer ({type(error).__name__})") from None
    if not isinstance(text, str):
        raise _Again("an answer without text")
    return Reply(text, counts[0], counts[1], choice.get("finish_reason") != "length")


def _message(response: httpx.Response) -> str:
    """The server's own words, if it has any."""
    try:
        said = json.loads(_body(response, 4096))["error"]
        text = said["message"] if isinstance(said, dict) else said
    except (ValueError, KeyError, TypeError, httpx.RequestError):
        return ""
    return str(text)


def _retry_after(value: str | None) -> float | None:
    """Seconds that a ``Retry-After`` header asks for: a number, or the time until a date."""
    if value is None:
        return None
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
    except ValueError:
        return None
