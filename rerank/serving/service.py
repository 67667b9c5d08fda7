"""A model behind a queue: requests of many threads, scored together by one worker that outlives every error."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..console import log
from ..errors import SparringError
from ..pipeline import rerank
from ..vocabulary import Aggregator, Candidates, Schedule, Scorer
from .dialects import Answer, Refused, Request
from .metrics import Metrics

FAILURES = 3
"""After so many failed requests in a row the service says that it is unhealthy."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of a service.

    Args:
        documents: per request.
        queue: requests that wait; more are refused with 429.
        batch: documents that are scored together, from as many requests as wait.
        seconds: how long a request may wait for its scores, and a batch may take before `health` says so.
    """

    documents: int = 1000
    queue: int = 64
    batch: int = 2048
    seconds: float = 60.0


@dataclass(slots=True)
class _Ticket:
    candidates: Candidates
    done: threading.Event = field(default_factory=threading.Event)
    scores: NDArray[np.float64] | None = None
    error: Exception | None = None
    abandoned: bool = False


class Service:
    """Answers requests with a scorer; `answer` may be called from any thread, the scorer works in one of its own.

    What waits is scored together: batches form by themselves while the model is at work, and an idle service
    answers at once.

    Args:
        name: what callers see as the model.
        tokenizer: counts tokens and cuts documents where a request says so; without it tokens are not counted.
        max_length: tokens of one input, for requests that refuse truncation.
        told: whether requests may carry an instruction; others refuse it.
    """

    def __init__(
        self,
        scorer: Scorer,
        name: str,
        schedule: Schedule,
        aggregator: Aggregator | None = None,
        *,
        tokenizer: Any = None,
        max_length: int | None = None,
        told: bool = False,
        limits: Limits | None = None,
    ) -> None:
        self.name, self.limits, self.metrics, self.started = name, limits or Limits(), Metrics(), time.time()
        self._scorer, self._schedule, self._aggregator = scorer, schedule, aggregator
        self._tokenizer, self._max_length, self._told = tokenizer, max_length, told
        self._waiting: queue.Queue[_Ticket] = queue.Queue(self.limits.queue)
        self._stop = threading.Event()
        self._failed = 0
        self._busy_since: float | None = None
        self._worker = threading.Thread(target=self._work, name="scoring", daemon=True)

    def start(self, warm_up: Sequence[str] = ()) -> None:
        """Scores ``warm_up`` texts, so that a broken model shows before the first caller, and starts work."""
        if warm_up:
            self._rank([_candidates("warm up", tuple(warm_up))])
        self._worker.start()

    def close(self, seconds: float = 10.0) -> None:
        """Takes no more requests, and waits for those that are there."""
        self._stop.set()
        if self._worker.is_alive():
            self._worker.join(seconds)

    def answer(self, request: Request) -> Answer:
        """Scores a request.

        Raises Refused: 422 for an input that may not be cut and is too long, or an instruction to a model that
        takes none, 429 where too many wait, 503 where it
        took too long or the service is closing, 500 where the model failed.
        """
        if request.instruction is not None and not self._told:
            raise Refused(422, "instruction: this model takes none")
        texts, tokens = self._measured(request)
        ticket = _Ticket(_candidates(request.query, texts, request.instruction))
        if self._stop.is_set():
            raise Refused(503, "the service is shutting down", retry_after=5)
        try:
            self._waiting.put_nowait(ticket)
        except queue.Full:
            raise Refused(429, f"{self.limits.queue} requests are waiting: try again", retry_after=1) from None
        if not ticket.done.wait(self.limits.seconds):
            ticket.abandoned = True
            raise Refused(503, f"no scores after {self.limits.seconds:g} s: try again later", retry_after=5)
        if ticket.scores is None:
            reason = str(ticket.error) if isinstance(ticket.error, SparringError) else type(ticket.error).__name__
            raise Refused(500, f"the model failed: {reason}")
        self.metrics.add(documents=len(texts), tokens=tokens)
        return Answer(ticket.scores, tokens)

    def health(self) -> tuple[bool, str]:
        """Whether requests can be answered now, and in a word why not."""
        since = self._busy_since
        if self._stop.is_set():
            return False, "shutting down"
        if not self._worker.is_alive():
            return False, "the worker is dead" if self._worker.ident else "starting"
        if since is not None and time.monotonic() - since > self.limits.seconds:
            return False, f"one batch has taken more than {self.limits.seconds:g} s"
        if self._failed >= FAILURES:
            return False, f"the last {self._failed} requests failed"
        return True, "ok"

    @property
    def queued(self) -> int:
        """Requests that wait."""
        return self._waiting.qsize()

    def _measured(self, request: Request) -> tuple[tuple[str, ...], int]:
        """The texts, cut where the request says so, and the tokens of query and text, all documents together."""
        if self._tokenizer is None:
            return request.texts, 0
        (query, *_), *spans = self._tokens((request.query, *request.texts))
        limits = [request.tokens_per_document]
        if request.tokens_per_prompt is not None:
            limits.append(max(1, request.tokens_per_prompt - query))
        most = min((limit for limit in limits if limit is not None), default=None)
        texts, total = [], 0
        for text, (count, ends) in zip(request.texts, spans, strict=True):
            kept = count if most is None else min(count, most)
            texts.append(text if kept == count else text[: ends[kept - 1]])
            total += query + kept
            if not request.truncate and self._max_length is not None and query + kept > self._max_length:
                raise Refused(
                    422, f"an input of {query + kept} tokens is longer than {self._max_length}: allow truncate"
                )
        return tuple(texts), total

    def _tokens(self, texts: Sequence[str]) -> list[tuple[int, list[int]]]:
        """Tokens of every text, and the character at which each ends."""
        encoded = self._tokenizer.encode_batch(list(texts), add_special_tokens=False)
        return [(len(item.ids), [end for _, end in item.offsets]) for item in encoded]

    def _work(self) -> None:
        while True:
            batch = self._next()
            if batch:
                self._busy_since = time.monotonic()
                self._settle(batch)
                self._busy_since = None
            elif self._stop.is_set():
                return

    def _next(self) -> list[_Ticket]:
        """The requests that wait, up to a batch of documents; empty if none came for a while."""
        batch: list[_Ticket] = []
        size = 0
        try:
            while size < self.limits.batch:
                ticket = self._waiting.get_nowait() if batch else self._waiting.get(timeout=0.1)
                if not ticket.abandoned:
                    batch.append(ticket)
                    size += len(ticket.candidates)
        except queue.Empty:
            pass
        return batch

    def _settle(self, batch: list[_Ticket]) -> None:
        """Scores a batch; where that fails each request by itself, so that one does not spoil the others."""
        self.metrics.add(batches=1)
        try:
            for ticket, scores in zip(batch, self._rank([t.candidates for t in batch]), strict=True):
                ticket.scores = scores
            self._failed = 0
        except Exception as error:
            if len(batch) > 1:
                for ticket in batch:
                    self._settle([ticket])
                return
            log.error("a request failed: %s: %s", type(error).__name__, error)
            self._failed += 1
            batch[0].error = error
        for ticket in batch:
            ticket.done.set()

    def _rank(self, topics: list[Candidates]) -> list[NDArray[np.float64]]:
        results = []
        for ranked in rerank(topics, self._scorer, self._schedule, self._aggregator):
            scores = ranked.scores.copy()
            scores[ranked.quarantined] = np.nan
            results.append(scores)
        return results


def _candidates(query: str, texts: tuple[str, ...], instruction: str | None = None) -> Candidates:
    """A request as a topic, named by its query: equal requests are answered equally, whenever they come."""
    names = tuple(str(place) for place in range(len(texts)))
    return Candidates(query, query, names, texts, -np.arange(len(texts), dtype=np.float64), instruction)
