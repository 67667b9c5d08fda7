"""Processes that score: each loads the model on a device of its own and reports outcomes as they arise.

A worker is never waited for without a limit. A thread of its own sends a beat every `BEAT_S` seconds, and one that
is silent for `SILENCE_S` counts as dead: it was stopped, or something holds Python's lock. The same thread watches
whether the work moves (`Watch`) and says when it does not, so that a kernel that hangs is reported as early. To
start and to load its model a worker has `LOAD_S`, since disks and drivers can take their time. What it said last
(an exception, the faulthandler's stacks) is its trace.
"""

from __future__ import annotations

import contextlib
import faulthandler
import multiprocessing
import os
import signal
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray

from ..engine.engine import open_on_device
from ..engine.model import ScorerOptions
from ..errors import SparringError
from ..models.loading import Source
from ..stats import Stats
from ..vocabulary import Candidates, Groups, Outcomes, Scorer

BEAT_S = 2.0
SILENCE_S = 20.0
STALL_S = 20.0  # with the beat and the last stacks a worker that hangs is reported within 30 s
LOAD_S = 600.0
CPU_S = 0.1  # processor time that says that something is computed, on however busy a machine


@dataclass(frozen=True, slots=True)
class Task:
    """Groups for one worker; ``known`` are outcomes that need not be computed again, NaN where there are none."""

    topics: Sequence[Candidates]
    groups: Sequence[Groups]
    known: Sequence[Outcomes]


class Worker:
    """A process on one device, seen from the process that started it."""

    def __init__(self, source: Source, options: ScorerOptions, threads: int) -> None:
        context = multiprocessing.get_context("spawn")
        self.device = device = options.device
        self.ready = False
        self.quiet = 0.0
        self._folder = tempfile.TemporaryDirectory(prefix="sparring-worker-")
        self._trace = Path(self._folder.name) / "trace"
        self.pipe, theirs = context.Pipe()
        self._sender: threading.Thread | None = None
        arguments = (theirs, source, options, threads, self._trace)
        self.process = context.Process(target=_serve, args=arguments, name=f"sparring {device}", daemon=True)
        self.process.start()
        theirs.close()

    def __str__(self) -> str:
        return f"worker {self.process.pid} on {self.device}"

    def start(self, task: Task) -> None:
        """Hands out a task, without waiting until the process has taken it: one that hangs never does."""
        self.quiet = 0.0
        self._sender = threading.Thread(target=self._send, args=(task,), name="task", daemon=True)
        self._sender.start()

    def _send(self, message: object) -> None:
        with contextlib.suppress(OSError):  # whoever listens hears that the process is gone
            self.pipe.send(message)

    def hear(self) -> tuple[str, list[Any]]:
        """The next message; ("lost", [""]) where the process is gone."""
        self.quiet = 0.0
        try:
            kind, *said = self.pipe.recv()
        except (EOFError, OSError):
            return "lost", [""]
        self.ready = self.ready or kind == "ready"
        return kind, said

    def silent(self, seconds: float) -> bool:
        """Whether a worker that was listened to for so many more seconds must be taken for dead.

        Only time spent listening counts: whoever is busy elsewhere, or asleep with the machine, hears no beat.
        """
        self.quiet += seconds
        return self.quiet > (SILENCE_S if self.ready else LOAD_S)

    def trace(self) -> str:
        """Ends the process, if it is still there, and says how it ended and where it was."""
        self.process.join(0.5)
        alive = self.process.is_alive()
        if alive and self.process.pid is not None:
            os.kill(self.process.pid, signal.SIGUSR1)  # faulthandler writes the stacks of all threads
            self.process.join(0.5)
        self.process.kill()
        self.process.join(2.0)  # a process that hangs in a driver outlives even this
        code = self.process.exitcode or 0
        how = "no sign of life" if alive else f"killed by signal {-code}" if code < 0 else f"exit code {code}"
        stacks = self._trace.read_text(errors="replace").strip() if self._trace.exists() else ""
        return f"{how}\n{stacks}".strip()

    def close(self) -> None:
        """Ends the process."""
        if self._sender is None or not self._sender.is_alive():
            self._send(None)
            self.process.join(2.0)
        self.process.kill()
        self.process.join(2.0)
        if self._sender is not None:
            self._sender.join(2.0)  # its pipe is broken now, and must not be closed under it
        self.pipe.close()
        self._folder.cleanup()


def _serve(pipe: Connection, source: Source, options: ScorerOptions, threads: int, trace: Path) -> None:
    """What the process does: loads the model, then answers tasks until there are no more."""
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
            with _beating(send, Watch("cpu")):
                scorer = open_on_device(source.load(), options)
            send("ready", scorer.fingerprint, dict(scorer.description))
            while (task := pipe.recv()) is not None:
                _answer(scorer, task, options.device, send)
        except (EOFError, BrokenPipeError):  # the parent is gone
            return
        except SparringError as error:
            send("refused", error)
        except BaseException:  # whatever it is, the parent is told
            send("failed", traceback.format_exc())


def _answer(scorer: Scorer, task: Task, device: str, send: Callable[..., None]) -> None:
    watch = Watch(device, scorer.stats)

    def sink(topic: NDArray[Any], row: NDArray[Any], outcomes: Outcomes) -> None:
        watch.outcomes += len(row)
        send("outcomes", topic, row, outcomes)

    with _beating(send, watch):
        answers = scorer(task.topics, task.groups, sink, task.known)
    send("done", answers, scorer.stats)


@dataclass
class Watch:
    """Tells work that takes long from work that hangs, by what moves between two beats.

    On a CPU that is a batch, an outcome, or processor time: what computes uses it, what hangs does not. On
    a GPU, from the first batch or outcome of a task on, only these count, because waiting for a kernel uses
    processor time too; what comes before is tokenised on the CPU.

    Args:
        device: such as "cpu" or "cuda:0".
        stats: the scorer's, None while it is loaded; where they say that it works in silence, `LOAD_S` take the
            place of `STALL_S`.
        outcomes: how many have come out so far.
    """

    device: str
    stats: Stats | None = None
    outcomes: int = 0
    idle: float = field(default=0.0, init=False)

    def __post_init__(self) -> None:
        self._start = self._seen = self._counts()
        self._used = time.process_time()

    def stalled(self) -> bool:
        """Whether nothing has moved for too long; to be asked once per beat.

        Beats are counted, not seconds: no clock jumps when the machine or the process was asleep.
        """
        seen, used = self._counts(), time.process_time()
        on_gpu = self.device.startswith("cuda") and seen != self._start
        if seen != self._seen or (not on_gpu and used - self._used >= CPU_S):
            self.idle, self._seen, self._used = 0.0, seen, used
        else:
            self.idle += BEAT_S
        shown = self.stats is not None and not self.stats.silent and not (on_gpu and seen[1] == self._start[1])
        return self.idle > (STALL_S if shown else LOAD_S)

    def _counts(self) -> tuple[int, int]:
        return self.outcomes, 0 if self.stats is None else self.stats.batches


@contextlib.contextmanager
def _beating(send: Callable[..., None], watch: Watch) -> Iterator[None]:
    """Sends beats while the block runs; the last one says that it has stalled, where the watch finds that."""
    done = threading.Event()

    def beat() -> None:
        while not done.wait(BEAT_S):
            stalled = watch.stalled()
            try:
                send("stalled", f"nothing has moved for {watch.idle:.0f} s") if stalled else send("alive")
            except OSError:  # the parent is gone, which a main thread that hangs would never notice
                os._exit(1)
            if stalled:
                return

    thread = threading.Thread(target=beat, name="beat", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
