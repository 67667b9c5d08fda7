"""Fault injection: scorers and files that fail on purpose, driven by a seed that is printed for replay."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from places import HELPERS
from sparring.rerank.stats import Stats
from sparring.rerank.vocabulary import Candidates, Groups, Outcomes, Sink


def seeded(seed: int | None = None) -> np.random.Generator:
    """A generator whose seed is printed, so that a failing test can be replayed (SPARRING_FAULT_SEED=...)."""
    chosen = seed if seed is not None else int(os.environ.get("SPARRING_FAULT_SEED", os.urandom(4).hex()), 16)
    print(f"SPARRING_FAULT_SEED={chosen:x}")  # noqa: T201
    return np.random.default_rng(chosen)


def topics_of(count: int, size: int, start: int = 0) -> list[Candidates]:
    """Made-up topics with texts of different lengths."""
    return [
        Candidates(
            f"q{t}",
            f"what is {t}",
            tuple(f"d{t}-{i}" for i in range(size)),
            [f"text {t} {i} " + "word " * ((7 * i + t) % 23) for i in range(size)],
            -np.arange(size, dtype=np.float64),
        )
        for t in range(start, start + count)
    ]


@dataclass
class FaultyScorer:
    """A deterministic scorer with an engine's habits, which can be told to fail.

    Like an engine it sorts by length over all topics, works in batches of ``batch`` and reports each. Like floating
    point arithmetic on real hardware, the last bits of a score depend on who else is in the batch, so a resumed
    run is byte-identical only if its batches are those of the uninterrupted one.

    Args:
        nan: texts whose groups come out as NaN.
        before_batch: called with the number of groups done so far before each batch; may raise, sleep or exit.
        reports: whether outcomes go to the sink as they arrive.
    """

    width: int | None = 2
    fingerprint: str = '{"model": "fake", "dtype": "float32"}'
    batch: int = 64
    nan: frozenset[str] = frozenset()
    before_batch: Callable[[int], None] | None = None
    reports: bool = True
    asked: int = field(default=0)
    stats: Stats = field(default_factory=Stats)
    closed: bool = False
    remembers: bool = False

    @property
    def description(self) -> dict[str, object]:
        return (
            dict(json.loads(self.fingerprint)) if self.fingerprint.startswith("{") else {"key": self.fingerprint}
        )

    def close(self) -> None:
        self.closed = True

    def __call__(
        self,
        topics: Sequence[Candidates],
        groups: Sequence[Groups],
        sink: Sink | None = None,
        known: Sequence[Outcomes] | None = None,
    ) -> list[Outcomes]:
        work = [(t, r) for t, part in enumerate(groups) for r in range(len(part))]
        length = [sum(len(topics[t].texts[i]) for i in groups[t][r] if i >= 0) for t, r in work]
        order = np.argsort(-np.array(length, np.int64), kind="stable")
        answers = [np.full(part.shape if self.width != 2 else len(part), np.nan) for part in groups]
        for start in range(0, len(order), self.batch):
            if self.before_batch is not None:
                self.before_batch(start)
            rows = [work[i] for i in order[start : start + self.batch]]
            noise = np.float32(hash_of(*(self._text(topics, groups, t, r) for t, r in rows)) * 1e-6)
            if known is not None:
                there = [(t, r) for t, r in rows if not np.isnan(known[t][r]).all()]
                for t, r in there:
                    answers[t][r] = known[t][r]
                rows = [row for row in rows if row not in there]
                if not rows:
                    continue
            for t, r in rows:
                answers[t][r] = self._score(topics[t], groups[t][r], noise)
            self.asked += len(rows)
            if sink is not None and self.reports:
                width = max(groups[t].shape[1] for t, _ in rows)
                said = np.full((len(rows), width), np.nan)
                for place, (t, r) in enumerate(rows):
                    said[place, : np.size(answers[t][r])] = answers[t][r]
                where = np.array(rows, np.int64)
                sink(where[:, 0], where[:, 1], said[:, 0] if self.width == 2 else said)
        return answers

    def _text(self, topics: Sequence[Candidates], groups: Sequence[Groups], t: int, r: int) -> str:
        return "|".join([topics[t].query, *(topics[t].texts[i] for i in groups[t][r] if i >= 0)])

    def _score(self, topic: Candidates, group: np.ndarray, noise: np.float32) -> Any:
        shown = [topic.texts[i] for i in group if i >= 0]
        if self.nan & set(shown):
            return np.nan
        if self.width == 2:
            return float(np.float32(hash_of(self.fingerprint, topic.query, *shown)) * np.float32(0.999) + noise)
        scores = np.full(len(group), np.nan)
        values = [np.float32(hash_of(self.fingerprint, topic.query, text, *shown)) + noise for text in shown]
        scores[group >= 0] = values
        return scores


def hash_of(*texts: str) -> float:
    """A number in [0, 1) that depends on all the texts."""
    digest = hashlib.blake2b("\0".join(texts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") / 2**64


def flip_bits(path: Path, rng: np.random.Generator, count: int = 1) -> None:
    """Flips bits at random places of a file at rest."""
    content = bytearray(path.read_bytes())
    for place in rng.integers(0, len(content), count):
        content[place] ^= 1 << int(rng.integers(8))
    path.write_bytes(content)


def tear(path: Path, rng: np.random.Generator) -> None:
    """Cuts a file off at a random byte, as a crash in the middle of a write does."""
    os.truncate(path, int(rng.integers(0, path.stat().st_size + 1)))


class _FailingFile(io.RawIOBase):
    """Writes through until ``left`` bytes are used up, then writes short once and fails."""

    def __init__(self, raw: Any, left: int, error: int) -> None:
        self._raw, self._left, self._error = raw, left, error

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return int(self._raw.fileno())

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        if self._left <= 0:
            raise OSError(self._error, os.strerror(self._error))
        done = self._raw.write(view[: self._left])
        self._left -= done
        return int(done)

    def close(self) -> None:
        self._raw.close()
        super().close()


@contextlib.contextmanager
def faulty_files(
    monkeypatch: Any, *, fail_at: int | None = None, error: int = errno.ENOSPC, torn_rename: bool = False
) -> Iterator[None]:
    """A file system that runs full (short write, then ``error``) after ``fail_at`` bytes, or dies at a rename."""
    fdopen = os.fdopen

    def failing(handle: int, mode: str = "r", *rest: Any, **options: Any) -> Any:
        if "w" not in mode or fail_at is None:
            return fdopen(handle, mode, *rest, **options)
        raw = _FailingFile(fdopen(handle, "wb", buffering=0), fail_at, error)
        binary = io.BufferedWriter(raw, 1)
        return binary if "b" in mode else io.TextIOWrapper(binary, encoding="utf-8", write_through=True)

    def torn(source: Any, target: Any) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fdopen", failing)
        if torn_rename:
            patch.setattr(os, "replace", torn)
        yield


def groups_of(width: int | None, size: int) -> Groups:
    if width == 1:
        return np.arange(size, dtype=np.int32)[:, None]
    if width == 2:
        return np.array([(i, j) for i in range(size) for j in range(size) if i != j], np.int32)
    return np.array([[0, 1, 2, 3], [3, 1, 0, -1], [2, -1, -1, -1], [4, 2, 1, 0]], np.int32)


RUN = """
import sys, time
from pathlib import Path
sys.path.insert(0, {tests!r})
from faults import FaultyScorer, groups_of, topics_of
from sparring.rerank.ledger.ledger import Ledger
"""


def child(code: str, *arguments: object, **options: object) -> subprocess.Popen[str]:
    """Another process, which runs ``code`` with a ledger and these faults at hand."""
    program = RUN.format(tests=str(HELPERS)) + code
    return subprocess.Popen(
        [sys.executable, "-c", program, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )
