"""One process at a time: a lock file, locked by filelock, that says who holds it; others wait or are refused."""

from __future__ import annotations

import contextlib
import errno
import json
import math
import os
import platform
import time
from collections.abc import Iterator
from pathlib import Path

from filelock import BaseFileLock, FileLock, SoftFileLock, Timeout

from ..console import command
from ..errors import SparringError

POLL_S = 0.2
WITHOUT_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)
"""Answers of file systems without ``flock``; there the existence of ``<target>.lock.held`` is the lock."""


class LockedError(SparringError):
    """Another process is at work on the same file."""

    exit_code = 6


class _Removed(Exception):
    """The file that was locked is not the one at the path: its last holder removed it meanwhile."""


class Lock:
    """Holds ``<target>.lock`` until `release`.

    The system drops the lock of a process that ends in whatever way, so what a dead process left never blocks. On
    NFS the server keeps the lock, and drops those of clients that are gone.

    Args:
        target: what is locked; the lock file lies beside it.
        wait_s: how long to wait for another holder; 0 refuses at once.

    Raises:
        LockedError: somebody else holds it; the message says who, since when and what to do.
    """

    def __init__(self, target: Path, wait_s: float = 0.0) -> None:
        self.path = target.with_name(target.name + ".lock")
        deadline = time.monotonic() + wait_s
        try:
            try:
                self._lock: BaseFileLock = _flocked(self.path, deadline)
            except OSError as error:
                if error.errno not in WITHOUT_LOCKS:
                    raise
                self.path.unlink(missing_ok=True)  # it says nothing where it cannot be locked
                self.path = target.with_name(target.name + ".lock.held")
                self._lock = SoftFileLock(self.path, thread_local=False)
                self._lock.acquire(_left(deadline), POLL_S)
        except Timeout:
            raise LockedError(_refusal(target, self.path)) from None

    def release(self) -> None:
        """Removes the lock file and gives the lock up; calling it twice is harmless."""
        if self._lock.is_locked:
            if isinstance(self._lock, FileLock):
                self.path.unlink(missing_ok=True)  # still locked: who waits for this file sees that it is gone
            self._lock.release()


@contextlib.contextmanager
def hold(target: Path, wait_s: float = 0.0) -> Iterator[None]:
    """Holds the `Lock` of ``target`` for the length of a with-block."""
    lock = Lock(target, wait_s)
    try:
        yield
    finally:
        lock.release()


def _flocked(path: Path, deadline: float) -> FileLock:
    lock = FileLock(path, thread_local=False, on_acquired=lambda handle: _sign(path, handle))
    while True:
        with contextlib.suppress(_Removed):
            lock.acquire(_left(deadline), POLL_S)
            return lock


def _left(deadline: float) -> float:
    """Seconds until then as filelock counts them: -1 is for ever."""
    return max(0.0, deadline - time.monotonic()) if math.isfinite(deadline) else -1


def _sign(path: Path, handle: int) -> None:
    """Writes who holds the lock into its file, once it is sure that this is the file that others find."""
    try:
        if not os.path.samestat(path.stat(), os.fstat(handle)):
            raise _Removed
    except FileNotFoundError:
        raise _Removed from None
    holder = {"host": platform.node(), "pid": os.getpid(), "since": _time(time.time()), "command": command()}
    content = json.dumps(holder).encode()
    os.pwrite(handle, content, 0)
    os.ftruncate(handle, len(content))


def _refusal(target: Path, path: Path) -> str:
    holder = _holder(path)
    who = f"process {holder.get('pid', '?')} on {holder.get('host', '?')} since {holder.get('since', '?')}"
    if "command" in holder:
        who += f" ({holder['command']})"
    return f"{target} is in use by {who}: wait for it or name another file (if it is gone, delete {path})"


def _holder(path: Path) -> dict[str, object]:
    """What a lock file says; one whose existence is the lock is filelock's, with a line for pid and for host."""
    try:
        content = path.read_text(encoding="utf-8", errors="replace")
        written = path.stat().st_mtime
    except OSError:
        return {}
    try:
        holder = json.loads(content)
    except json.JSONDecodeError:
        said: dict[str, object] = {"since": _time(written)}
        return said | dict(zip(("pid", "host"), content.split()[:2], strict=False))
    return holder if isinstance(holder, dict) else {}


def _time(moment: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(moment))
