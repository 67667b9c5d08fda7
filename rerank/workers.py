"""Processes that score: each loads the model on a device of its own and reports outcomes as they arise.

A worker is never waited for without a limit: while it works it sends a beat every `BEAT_S` seconds, and one that
is silent for `SILENCE_S` counts as dead. What it said last (an exception, the faulthandler's stacks) is its trace.
"""

from __future__ import annotations

import contextlib
import faulthandler
import inspect
import multiprocessing
import os
import signal
import tempfile
import threading
import time
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray

from .errors import SparringError
from .models import Source
from .vocabulary import Candidates, Groups, Outcomes

BEAT_S = 2.0
SILENCE_S = 20.0
STALL_S = 20.0  # on a GPU no batch takes so long: a kernel that hangs must not look alive


@dataclass(frozen=True, slots=True)
class Task:
    """Groups for one worker; ``known`` are outcomes that need not be computed again, NaN where there are none."""

    topics: Sequence[Candidates]
    groups: Sequence[Groups]
    known: Sequence[Outcomes]


class Worker:
    """A process on one device, seen from the process that started it."""

    def __init__(self, source: Source, device: str, options: dict[str, Any], threads: int) -> None:
        context = multiprocessing.get_context("spawn")
        self.device = device
        self.heard = time.monotonic()
        self._folder = tempfile.TemporaryDirectory(prefix="sparring-worker-")
        self._trace = Path(self._folder.name) / "trace"
        self.pipe, theirs = context.Pipe()
        arguments = (theirs, source, device, options, threads, self._trace)
        self.process = context.Process(target=_serve, args=arguments, name=f"sparring {device}", daemon=True)
        self.process.start()
        theirs.close()

    def __str__(self) -> str:
        return f"worker {self.process.pid} on {self.device}"

    def start(self, task: Task) -> None:
        """Hands out a task; raises OSError where the process is gone."""
        self.heard = time.monotonic()
        self.pipe.send(task)

    def silent(self) -> bool:
        """Whether a worker that has a task must be taken for dead."""
        return time.monotonic() - self.heard > SILENCE_S

    def trace(self) -> str:
        """Ends the process, if it is still there, and says how it ended and where it was."""
        self.process.join(0.5)
        alive = self.process.is_alive()
        if alive and self.process.pid is not None:
            os.kill(self.process.pid, signal.SIGUSR1)  # faulthandler writes the stacks of all threads
            self.process.join(0.5)
        self.process.kill()
        self.process.join()
        code = self.process.exitcode or 0
        how = "no sign of life" if alive else f"killed by signal {-code}" if code < 0 else f"exit code {code}"
        stacks = self._trace.read_text(errors="replace").strip() if self._trace.exists() else ""
        return f"{how}\n{stacks}".strip()

    def close(self) -> None:
        """Ends the process."""
        with contextlib.suppress(OSError):
            self.pipe.send(None)
        self.process.join(2.0)
        self.process.kill()
        self.process.join()
        self.pipe.close()
        self._folder.cleanup()


def _serve(
    pipe: Connection, source: Source, device: str, options: dict[str, Any], threads: int, trace: Path
) -> None:
    """What the process does: loads the model, then answers tasks until there are no more."""
    from .engine import open_scorer

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent ends its workers
    lock = threading.Lock()

    def send(*message: object) -> None:
        with lock:
            pipe.send(message)

    with trace.open("w") as stacks:
        faulthandler.enable(stacks)
        faulthandler.register(signal.SIGUSR1, stacks)
        try:
            torch.set_num_threads(threads)
            scorer: Any = open_scorer(source.load(), device=device, progress=False, **options)
            takes_known = "known" in inspect.signature(scorer.__call__).parameters
            send("ready", scorer.fingerprint, getattr(scorer, "description", None))
            while (task := pipe.recv()) is not None:
                _answer(scorer, task, takes_known, device, send)
        except (EOFError, BrokenPipeError):  # the parent is gone
            return
        except SparringError as error:
            send("refused", error)
        except BaseException:  # whatever it is, the parent is told
            send("failed", traceback.format_exc())


def _answer(scorer: Any, task: Task, takes_known: bool, device: str, send: Any) -> None:
    last = [time.monotonic()]

    def sink(topic: NDArray[Any], row: NDArray[Any], outcomes: Outcomes) -> None:
        last[0] = time.monotonic()
        send("outcomes", topic, row, outcomes)

    more = {"known": task.known} if takes_known else {}
    with _beating(send, last, STALL_S if device.startswith("cuda") else float("inf")):
        answers = scorer(task.topics, task.groups, sink, **more)
    send("done", answers, scorer.stats)


@contextlib.contextmanager
def _beating(send: Any, last: list[float], stall_s: float) -> Iterator[None]:
    """Sends beats while the block runs, unless nothing came out of it for ``stall_s`` after something had."""
    done = threading.Event()
    start = last[0]

    def beat() -> None:
        while not done.wait(BEAT_S):
            if last[0] == start or time.monotonic() - last[0] < stall_s:
                send("alive")

    thread = threading.Thread(target=beat, name="beat", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
