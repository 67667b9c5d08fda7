"""Several devices, one scorer: the groups of a call are shared out to processes, and a dead one is survived."""

from __future__ import annotations

import time
import weakref
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from multiprocessing.connection import wait
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from .. import console
from ..engine.devices import split_devices
from ..engine.model import AnyModel, ScorerOptions
from ..errors import SparringError
from ..models.loading import source
from ..stats import Stats
from ..vocabulary import Candidates, Groups, Outcomes, Scorer, Sink, blank, keep
from .open import executors
from .worker import Task, Worker

LISTEN_S = 1.0
SHARES = 4  # tasks per worker and call: the last ones even out
LEAST, MOST = 128, 16384  # group members of a task


@dataclass(frozen=True, slots=True)
class Part:
    """Rows of one topic's groups."""

    topic: int
    rows: NDArray[np.int64]


@executors.register("pool")
@dataclass(frozen=True)
class Pools:
    """A process per device of ``--device``, such as ``cuda:0,1``; a dead one's work goes to the others."""

    def open(self, model: AnyModel, options: ScorerOptions) -> Scorer:
        return Pool(model, split_devices(options.device), options)


class Pool:
    """A `sparring.rerank.vocabulary.Scorer` that asks one process per device.

    A worker that dies or hangs (see `sparring.rerank.executors.worker`) is reported with its trace within 30 s,
    and what it had not answered yet goes to the others. When none is left the run stops with that trace.

    Args:
        model: from `sparring.rerank.models.loading.load`; every process loads it again by name.
        devices: such as ("cuda:0", "cuda:1"); a device named twice gets two processes.
        options: how each process runs the model; their ``device`` is not looked at.
    """

    remembers = False  # which process did what is chance: there is nothing to repeat

    def __init__(self, model: AnyModel, devices: Sequence[str], options: ScorerOptions) -> None:
        self.model = model
        self.width: int | None = model.width
        self.stats = Stats()
        self._progress = options.progress
        self._counted: dict[Worker, Stats] = {}
        made_from = source(model)
        threads = max(1, torch.get_num_threads() // len(devices))
        each = [replace(options, device=device, progress=False) for device in devices]
        self.workers = [Worker(made_from, its_own, threads) for its_own in each]
        self._close = weakref.finalize(self, _close, self.workers)
        self.fingerprint, self.description = self._wait_until_loaded()

    def close(self) -> None:
        """Ends all processes; also done when the pool is forgotten, and at exit."""
        self._close()

    def __call__(
        self,
        topics: Sequence[Candidates],
        groups: Sequence[Groups],
        sink: Sink | None = None,
        known: Sequence[Outcomes] | None = None,
    ) -> list[Outcomes]:
        """As `sparring.rerank.engine.engine.Engine.__call__`; SparringError when no worker is left."""
        start = time.perf_counter()
        results = [blank(rows, self.width) if known is None else known[t].copy() for t, rows in enumerate(groups)]
        call = _Call(topics, groups, results, sink)
        waiting = deque(_share(groups, len(self.workers)))
        running: dict[Worker, list[Part]] = {}
        with console.progress(total=sum(map(len, groups)), unit="group", label=self.model.name) as bar:
            bar.disable = bar.disable or not self._progress
            while waiting or running:
                for worker in [w for w in self.workers if w not in running]:
                    if waiting:
                        running[worker] = waiting.popleft()
                        worker.start(call.task(running[worker]))
                bar.update(self._listen(call, running, waiting))
        self._count(call.results, time.perf_counter() - start)
        return call.results

    def _wait_until_loaded(self) -> tuple[str, Mapping[str, object]]:
        """Waits until every worker has loaded the model; those that cannot are lost."""
        ready: dict[Worker, tuple[str, Mapping[str, object]]] = {}
        while pending := [w for w in self.workers if w not in ready]:
            for worker, kind, said in _hear(pending):
                if kind == "ready":
                    ready[worker] = (said[0], said[1])
                elif kind != "alive":
                    self._give_up_on(worker, kind, said[0])
        first, *others = ready.values()
        if any(other[0] != first[0] for other in others):
            self.close()
            raise SparringError(
                f"{self.model.name}: its devices compute in different precisions; name one by --dtype"
            )
        return first

    def _listen(self, call: _Call, running: dict[Worker, list[Part]], waiting: deque[list[Part]]) -> int:
        """Takes what workers say for up to a second; the number of groups that were answered."""
        answered = 0
        for worker, kind, said in _hear(list(running)):
            if kind == "outcomes":
                answered += call.take(running[worker], *said)
            elif kind == "done":
                call.finish(running.pop(worker), said[0])
                self._counted[worker] = said[1]
            elif kind != "alive":
                waiting.appendleft(running.pop(worker))
                self._give_up_on(worker, kind, said[0])
        return answered

    def _give_up_on(self, worker: Worker, kind: str, said: Any) -> None:
        """A worker's own account: an error of the model or the input stops the run, any other loses the worker."""
        if kind == "refused":
            self.close()
            raise said
        self._lose(worker, said)

    def _lose(self, worker: Worker, trace: str = "") -> None:
        trace = "\n".join(part for part in (worker.trace(), trace.strip()) if part)
        self.workers.remove(worker)
        worker.close()
        self.stats.lost_workers.append(f"{worker}: {trace}")
        if not self.workers:
            raise SparringError(f"{worker} is lost and no other is left: {trace}")
        console.log.warning("%s is lost, its work goes on elsewhere: %s", worker, trace)

    def _count(self, results: Sequence[Outcomes], seconds: float) -> None:
        """Adds up what the workers have counted; ties and time are the pool's own."""
        self.stats.take(self._counted.values())
        self.stats.seconds += seconds
        self.stats.count_ties(results)


@dataclass(frozen=True, slots=True)
class _Call:
    """What one call of the pool was asked, and where its answers go."""

    topics: Sequence[Candidates]
    groups: Sequence[Groups]
    results: list[Outcomes]
    sink: Sink | None

    def task(self, parts: Sequence[Part]) -> Task:
        """The groups of some parts with the texts that they name, and what is known of them by now."""
        topics, groups, known = [], [], []
        for part in parts:
            topic, rows = self.topics[part.topic], self.groups[part.topic][part.rows]
            needed, place = np.unique(rows[rows >= 0], return_inverse=True)
            renumbered = np.full_like(rows, -1)
            renumbered[rows >= 0] = place
            chosen = needed.tolist()
            topics.append(
                replace(
                    topic,
                    docids=tuple(topic.docids[i] for i in chosen),
                    texts=[topic.texts[i] for i in chosen],
                    scores=topic.scores[needed],
                )
            )
            groups.append(renumbered)
            known.append(self.results[part.topic][part.rows])
        return Task(topics, groups, known)

    def take(
        self, parts: Sequence[Part], topic: NDArray[np.int64], row: NDArray[np.int64], outcomes: Outcomes
    ) -> int:
        """Keeps outcomes as a worker reports them, and tells the sink; how many."""
        owner = np.array([part.topic for part in parts], np.int64)[topic]
        place = np.array([parts[t].rows[r] for t, r in zip(topic.tolist(), row.tolist(), strict=True)], np.int64)
        keep(self.results, owner, place, outcomes)
        if self.sink is not None:
            self.sink(owner, place, outcomes)
        return len(row)

    def finish(self, parts: Sequence[Part], answers: Sequence[Outcomes]) -> None:
        """Keeps the whole answers of a task: not every scorer reports as it goes."""
        for part, said in zip(parts, answers, strict=True):
            self.results[part.topic][part.rows] = said


def _hear(workers: Sequence[Worker]) -> Iterator[tuple[Worker, str, list[Any]]]:
    """A message of each worker that says something within a second; "lost" of those that are gone or silent."""
    start = time.monotonic()
    ready = wait([worker.pipe for worker in workers], timeout=LISTEN_S)
    listened = min(time.monotonic() - start, LISTEN_S)
    for worker in workers:
        if worker.pipe in ready:
            yield worker, *worker.hear()
        elif worker.silent(listened):
            yield worker, "lost", [""]


def _share(groups: Sequence[Groups], workers: int) -> Iterator[list[Part]]:
    """Tasks of about equal size, neighbouring topics together; large topics are divided."""
    size = int(np.clip(sum(rows.size for rows in groups) // (workers * SHARES), LEAST, MOST))
    parts: list[Part] = []
    filled = 0
    for topic, rows in enumerate(groups):
        step = max(1, size // max(1, rows.shape[1] if rows.ndim == 2 else 1))
        for start in range(0, len(rows), step):
            part = Part(topic, np.arange(start, min(start + step, len(rows))))
            parts.append(part)
            filled += rows[part.rows].size
            if filled >= size:
                yield parts
                parts, filled = [], 0
    if parts:
        yield parts


def _close(workers: list[Worker]) -> None:
    for worker in workers:
        worker.close()
    workers.clear()
