"""Ctrl-C and SIGTERM: finished outcomes are kept, the exit code names the signal, the user reads how to go on."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType

GRACE_S = 5.0


class Interrupted(KeyboardInterrupt):
    """The run was stopped by a signal; ``exit_code`` is 128 + its number (130 for Ctrl-C, 143 for SIGTERM).

    Not an `Exception`, so that no handler on the way takes it for an ordinary failure.
    """

    def __init__(self, number: int, resume: str) -> None:
        super().__init__(
            f"stopped by {signal.Signals(number).name}; every finished outcome is kept. Go on with:\n  {resume}"
        )
        self.exit_code = 128 + number


@contextlib.contextmanager
def resumable(resume: str, flush: Callable[[], None], grace_s: float = GRACE_S) -> Iterator[None]:
    """Turns the first SIGINT or SIGTERM inside the block into `Interrupted`, after ``flush()``.

    The batch at work is dropped at the next Python instruction. Where native code holds the main thread longer
    than ``grace_s``, a watcher thread flushes, says how to go on, and ends the process with the same exit code.
    A second signal ends it at once. Outside the main thread, where Python handles no signals, nothing changes.

    Args:
        resume: the command that goes on from here, shown to the user.
        flush: writes what is pending; must be callable from any thread.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.getsignal(number) for number in numbers}

    def stop(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        raise Interrupted(number, resume)

    with _watcher(resume, flush, grace_s):
        for number in numbers:
            signal.signal(number, stop)
        try:
            yield
        except Interrupted:
            flush()
            raise
        finally:
            for number in numbers:
                signal.signal(number, before[number])


@contextlib.contextmanager
def _watcher(resume: str, flush: Callable[[], None], grace_s: float) -> Iterator[None]:
    """Hears of signals through the wake-up descriptor, which is written even while native code runs."""
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    done = threading.Event()

    def watch() -> None:
        while heard := ours.recv(1):
            if heard[0] in (signal.SIGINT, signal.SIGTERM) and not done.wait(max(0.0, grace_s - 1.0)):
                flush()
                sys.stderr.write(f"sparring: error: {Interrupted(heard[0], resume)}\n")
                sys.stderr.flush()
                os._exit(128 + heard[0])

    thread = threading.Thread(target=watch, name="signal watcher", daemon=True)
    thread.start()
    earlier = signal.set_wakeup_fd(theirs.fileno(), warn_on_full_buffer=False)
    try:
        yield
    finally:
        done.set()
        signal.set_wakeup_fd(earlier)
        theirs.close()
        thread.join()
        ours.close()
