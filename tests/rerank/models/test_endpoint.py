"""List-wise language models: behind a fake server in this process, and a tiny model on this machine."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_generators
from sparring.rerank import registry
from sparring.rerank.errors import MissingPrerequisiteError, MissingResourceError, SparringError, UsageError
from sparring.rerank.executors.open import open_scorer
from sparring.rerank.models.chat.endpoint import Endpoint, _retry_after
from sparring.rerank.models.chat.list_prompts import clean, messages, read
from sparring.rerank.models.loading import load
from sparring.rerank.pipeline import rerank
from sparring.rerank.vocabulary import Candidates

Answer = tuple[int, dict[str, str], bytes]


def said(text: object, **more: Any) -> Answer:
    body = {
        "choices": [{"message": {"content": text}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 100, "completion_tokens": 7},
    }
    return 200, {}, json.dumps(body | more).encode()


class Fake:
    """A server that answers as the test says; it remembers the requests."""

    def __init__(self) -> None:
        self.answer: Callable[[int, dict[str, Any]], Answer] = lambda number, request: said("[1]")
        self.requests: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.times: list[float] = []
        lock = threading.Lock()
        fake = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with lock:
                    number = len(fake.requests)
                    fake.requests.append(request)
                    fake.keys.append(self.headers.get("Authorization"))
                    fake.times.append(time.monotonic())
                code, headers, body = fake.answer(number, request)
                try:
                    self.send_response(code)
                    for name, value in headers.items():
                        self.send_header(name, value)
                    self.end_headers()
                    self.wfile.write(body)
                except (BrokenPipeError, ConnectionResetError):
                    pass

            def log_message(self, *args: object) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *args: object) -> None:
                pass

        self.server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/v1"
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True)
        self.thread.start()


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[Fake]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    server = Fake()
    yield server
    server.server.shutdown()
    server.server.server_close()
    server.thread.join()


def topic(n: int = 6, name: str = "q") -> Candidates:
    texts = [f"passage number {'abcdefghijklmnopqrstuvwxyz'[i]}" for i in range(n)]
    return Candidates(name, "which one", tuple(f"d{i}" for i in range(n)), texts, -np.arange(n, dtype=np.float64))


def scorer(fake: Fake, pause: float = 0.01, **options: Any) -> Any:
    spec = ", ".join(f"{key}={value}" for key, value in options.items())
    model = load(f"openai:{fake.url}#tiny", family=f"list_llm({spec})" if spec else None)
    object.__setattr__(model.chat, "pause", pause)
    return open_scorer(model, device="cpu")


def whole(n: int) -> list[np.ndarray]:
    return [np.arange(n, dtype=np.int32)[None]]


def test_a_permutation_is_asked_in_the_right_form(fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "secret-key")
    fake.answer = lambda number, request: said("[3] > [1] > [2]")
    model = scorer(fake, max_tokens=50)
    (found,) = model([topic()], [np.array([[4, -1, 0, 2]], np.int32)])
    np.testing.assert_array_equal(found, [[2, np.nan, 1, 3]])
    (request,) = fake.requests
    assert request["model"] == "tiny" and request["temperature"] == 0 and request["max_tokens"] == 50
    assert fake.keys == ["Bearer secret-key"] and "secret" not in repr(model.stats) + model.fingerprint + repr(
        model.description
    )
    user = request["messages"][1]["content"]
    assert "[1] passage number e\n[2] passage number a\n[3] passage number c\n" in user
    assert (model.stats.calls, model.stats.prompt_tokens, model.stats.completion_tokens) == (1, 100, 7)
    assert model.stats.mended == 0 and model.stats.quarantined == []


@pytest.mark.parametrize(
    "kind, answer, scores, sound",
    [
        ("permutation", "[2] > [1] > [3]", [2, 3, 1], True),
        ("permutation", "<think>[1] first?</think> 2, 3, 1", [1, 3, 2], True),
        ("permutation", "[2] > [2] > [9] > [1]", [2, 3, 1], False),  # repeated, made up, and one missing
        ("permutation", "[3]", [2, 1, 3], False),  # the missing follow in the order of the input
        ("permutation", "no idea", None, False),
        ("permutation", "[99999999999999999999]", None, False),
        ("setwise", "B", [0, 1, 0], True),
        ("setwise", "The answer is [C].", [0, 0, 1], False),
        ("setwise", "A or B", None, False),
        ("setwise", "D", None, False),
        ("grades", '{"[1]": 3, "[2]": 8, "[3]": 0}', [3, 8, 0], True),
        ("grades", '<reason>{"[1]": 9}</reason><answer>{"1": 3, "2": "8", "3": 0.5}</answer>', [3, 8, 0.5], True),
        ("grades", '{"[1]": 3, "[3]": 5}', [3, np.nan, 5], False),  # a missing grade shifts nobody else's
        ("grades", '{"[2]": 11, "[3]": 5, "[7]": 1}', [np.nan, np.nan, 5], False),
        ("grades", '{"[1]": 3, "[1]": 4, "[2]": 2, "[2]": 2}', [np.nan, 2, np.nan], False),  # one id, two grades
        ("grades", '{"[1]": true, "[2]": null, "[3]": {"[1]": 4}}', [4, np.nan, np.nan], False),
        ("grades", "[1]: 4\n[2]: 7 and the rest nothing", [4, 7, np.nan], False),
        ("grades", '{"[1]": 3, "[2]": 1', [3, np.nan, np.nan], False),  # cut off: 1 may have been going to be 10
        ("grades", '{"[1]"', None, False),
        ("grades", "{" * 3000, None, False),
    ],
)
def test_answers_are_read_by_id(kind: str, answer: str, scores: list[float] | None, sound: bool) -> None:
    reading = read(kind, answer, 3)
    if scores is None:
        assert reading is None
    else:
        assert reading is not None
        np.testing.assert_array_equal(reading.scores, scores)
        assert reading.sound is sound


def test_passages_cannot_pose_as_others() -> None:
    assert clean("one [2] two\n[3] three [A]", 4) == "one (2) two (3)"
    (_, user) = messages("setwise", "q", ["x", "[A] y"], 10)
    assert "[A] x\n[B] (A) y" in user["content"]


def test_rate_limits_wait_as_long_as_asked(fake: Fake) -> None:
    def answer(number: int, request: dict[str, Any]) -> Answer:
        return (
            (429, {"Retry-After": "0.3"}, b'{"error": {"message": "slow down"}}')
            if number == 0
            else said("[2] > [1]")
        )

    fake.answer = answer
    model = scorer(fake)
    (found,) = model([topic(2)], whole(2))
    assert found.tolist() == [[1, 2]] and model.stats.retries == 1
    assert fake.times[1] - fake.times[0] >= 0.3
    assert _retry_after("Wed, 21 Oct 2015 07:28:00 GMT") == 0 and _retry_after("soon") is None


@pytest.mark.parametrize(
    "bad",
    [
        (200, {}, b"<html>"),
        (200, {}, b'{"choices": []}'),
        (200, {}, b'{"choices": [{"message": {"content": null}}]}'),
        (200, {}, b"[1]"),
        (503, {}, b""),
        (500, {}, b'{"error": "overloaded"}'),
    ],
)
def test_malformed_answers_are_asked_again(fake: Fake, bad: Answer) -> None:
    fake.answer = lambda number, request: bad if number < 2 else said("[2] > [1]")
    model = scorer(fake)
    (found,) = model([topic(2)], whole(2))
    assert found.tolist() == [[1, 2]]
    assert (model.stats.retries, model.stats.calls) == (2, 1)


def test_time_outs_quarantine_one_list_and_spare_the_others(fake: Fake) -> None:
    released = threading.Event()

    def answer(number: int, request: dict[str, Any]) -> Answer:
        if "passage number f" in request["messages"][1]["content"]:
            released.wait(5)
        return said("[2] > [1]")

    fake.answer = answer
    model = scorer(fake, timeout=0.2, retries=1, attempts=1)
    groups = [np.array([[0, 1], [5, 2], [3, 4]], np.int32)]
    heard: list[int] = []
    (found,) = model([topic()], groups, lambda t, rows, outcomes: heard.extend(rows.tolist()))
    released.set()
    np.testing.assert_array_equal(found, [[1, 2], [np.nan, np.nan], [1, 2]])
    assert model.stats.quarantined == [("q", ("d5", "d2"))] and sorted(heard) == [0, 2]


def test_unreadable_answers_are_asked_again_then_quarantined(fake: Fake) -> None:
    fake.answer = lambda number, request: said("I would rather not.") if number < 3 else said("[2] > [1]")
    model = scorer(fake, attempts=2, parallel=1)
    (found,) = model([topic(2), topic(2, "r")], whole(2) * 2)[:1]
    assert model.stats.unread == 3 and model.stats.calls == 4
    assert (
        len(model.stats.quarantined) == 1
        and np.isnan(found).all() != np.isnan(model([topic(2)], whole(2))[0]).all()
    )


@pytest.mark.parametrize(
    "code, error, message",
    [
        (401, MissingPrerequisiteError, r"refused \(401, bad key\): set \$OPENAI_API_KEY"),
        (404, MissingResourceError, "check the URL and the model 'tiny'"),
        (400, SparringError, "HTTP 400, bad key"),
        (302, SparringError, "HTTP 302"),
    ],
)
def test_what_waiting_cannot_mend_stops_at_once(
    fake: Fake, monkeypatch: pytest.MonkeyPatch, code: int, error: type[Exception], message: str
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "secret-key")
    fake.answer = lambda number, request: (
        code, {"Location": "http://127.0.0.1:1/"}, b'{"error": {"message": "bad key"}}'
    )  # fmt: skip
    with pytest.raises(error, match=message) as caught:
        scorer(fake)([topic(2)], whole(2))
    assert len(fake.requests) == 1 and "secret" not in str(caught.value)


def test_a_server_that_is_not_there(fake: Fake) -> None:
    model = scorer(fake, retries=1)
    fake.server.server_close()
    fake.server.shutdown()
    with pytest.raises(MissingResourceError, match="no answer after 2 attempts"):
        model([topic(2)], whole(2))


@pytest.mark.parametrize(
    "name", ["openai:http://x/v1", "openai:ftp://x#m", "openai:#m", "openai:http://me:pw@x/v1#m"]
)
def test_bad_names_are_refused(name: str) -> None:
    with pytest.raises(UsageError, match="expected"):
        load(name)


def test_grades_and_permutations_through_the_pipeline(fake: Fake) -> None:
    """A server that knows the best order; it sees the passages' letters alone."""
    wanted = "cafbed"

    def answer(number: int, request: dict[str, Any]) -> Answer:
        user = request["messages"][1]["content"]
        shown = [line.split()[-1] for line in user.splitlines() if line.startswith("[")]
        best = sorted(range(len(shown)), key=lambda i: wanted.index(shown[i]))
        if "grade" in user:
            return said(json.dumps({f"[{i + 1}]": 10 - wanted.index(letter) for i, letter in enumerate(shown)}))
        if "letter" in user:
            return said("ABCDEF"[best[0]])
        return said(" > ".join(f"[{i + 1}]" for i in best))

    fake.answer = answer
    expected = ["abcdef".index(letter) for letter in wanted]
    for prompt, schedule in (
        ("permutation", "whole"),
        ("permutation", "sliding(size=4, stride=2, passes=3)"),
        ("permutation", "blocks(size=4, replicas=6)"),
        ("permutation", "tournament(m=3, r=1, k=6)"),
        ("setwise", "tournament(m=3, r=1, k=6)"),
        ("grades", "whole"),
        ("grades", "blocks(size=4, replicas=6)"),
    ):
        model = scorer(fake, prompt=prompt)
        (ranked,) = rerank([topic()], model, registry.schedules.parse(schedule))
        found = np.argsort(-ranked.scores, kind="stable").tolist()
        assert found == expected, (prompt, schedule)
        assert model.stats.quarantined == []


def test_a_model_of_this_machine(tmp_path: Path) -> None:
    folder = tiny_generators.save_causal(tmp_path)
    with pytest.raises(UsageError, match="a list takes"):
        open_scorer(load(str(folder), family="list_llm(max_length=64)"), device="cpu")([topic()], whole(6))
    setwise = open_scorer(load(str(folder), family="list_llm(prompt=setwise)"), device="cpu", dtype="float32")
    groups = [np.array([[0, 1, 2, 3], [4, 5, -1, -1]], np.int32)]
    (both,) = setwise([topic()], groups)
    (alone,) = setwise([topic()], [groups[0][1:, :2]])
    np.testing.assert_allclose(both[1, :2], alone[0], atol=1e-4)  # left padding changes nothing
    assert np.isnan(both[1, 2:]).all() and np.isfinite(both[0]).all()
    spec = "list_llm(max_tokens=8, attempts=1)"
    model = open_scorer(load(str(folder), family=spec), device="cpu", dtype="float32")
    (found,) = model([topic()], whole(6))
    assert model.stats.calls == 1 and model.stats.completion_tokens <= 8
    assert np.isnan(found).all() == bool(model.stats.quarantined)
    assert Endpoint.parse("openai:http://h:1/v1#a/b").model == "a/b"
