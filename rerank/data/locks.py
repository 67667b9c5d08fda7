"""One process at a time: a lock file with host and pid; others wait or are refused, a stale one is reclaimed."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import platform
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from ..errors import SparringError

HEARTBEAT_S = 30.0
ABANDONED_S = 600.0
"""A lock of another host counts as abandoned when its holder has not touched it for this long."""


class LockedError(SparringError):
    """Another process is at work on the same file."""

    exit_code = 6


class Lock:
    """Holds ``<target>.lock`` until `release`.

    The file appears with its content by a hard link, which is atomic on network file systems too. A lock is stale
    if its process on this host is gone (a recycled pid is told apart by its start time), or if its holder on
    another host has not touched it for `ABANDONED_S` seconds, by the clock of the file system.

    Args:
        target: what is locked; the lock file lies beside it.
        wait_s: how long to wait for another holder; 0 refuses at once.

    Raises:
        LockedError: somebody else holds it; the message says who, since when and what to do.
    """

    def __init__(self, target: Path, wait_s: float = 0.0) -> None:
        self.path = target.with_name(target.name + ".lock")
        self._content = json.dumps(
            {"host": platform.node(), "pid": os.getpid(), "process": _process(os.getpid()), "since": _now()}
        )
        deadline = time.monotonic() + wait_s
        while not self._try():
            if time.monotonic() >= deadline:
                raise LockedError(self._refusal(target))
            time.sleep(min(0.2, max(0.0, deadline - time.monotonic())))
        self._released = threading.Event()
        threading.Thread(target=self._beat, name="lock heartbeat", daemon=True).start()

    def release(self) -> None:
        """Removes the lock file, if it is still ours; calling it twice is harmless."""
        if not self._released.is_set():
            self._released.set()
            if _read(self.path) == self._content:
                self.path.unlink(missing_ok=True)

    def _try(self) -> bool:
        handle, name = tempfile.mkstemp(dir=self.path.parent, prefix=f".{self.path.name}.")
        temporary = Path(name)
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as stream:
                stream.write(self._content)
            if self._linked(temporary):
                return True
            return self._reclaim(temporary.stat().st_mtime) and self._linked(temporary)
        finally:
            temporary.unlink(missing_ok=True)

    def _linked(self, temporary: Path) -> bool:
        with contextlib.suppress(FileExistsError):
            os.link(temporary, self.path)
            return True
        return False

    def _reclaim(self, now: float) -> bool:
        """Removes a stale lock; the folder is locked meanwhile, so that nobody removes a successor's."""
        if not _stale(self.path, now):
            return False
        folder = os.open(self.path.parent, os.O_RDONLY)
        try:
            with contextlib.suppress(OSError):  # not every network file system can; the link still decides
                fcntl.flock(folder, fcntl.LOCK_EX)
            if stale := _stale(self.path, now):
                self.path.unlink(missing_ok=True)
            return stale
        finally:
            os.close(folder)

    def _refusal(self, target: Path) -> str:
        holder = _parse(_read(self.path))
        who = f"process {holder.get('pid', '?')} on {holder.get('host', '?')} since {holder.get('since', '?')}"
        return f"{target} is in use by {who}: wait for it or name another file (if it is gone, delete {self.path})"

    def _beat(self) -> None:
        while not self._released.wait(HEARTBEAT_S):
            with contextlib.suppress(OSError):
                os.utime(self.path)


@contextlib.contextmanager
def hold(target: Path, wait_s: float = 0.0) -> Iterator[None]:
    """Holds the `Lock` of ``target`` for the length of a with-block."""
    lock = Lock(target, wait_s)
    try:
        yield
    finally:
        lock.release()


def _stale(path: Path, now: float) -> bool:
    content = _read(path)
    if content is None:
        return False
    holder = _parse(content)
    if holder.get("host") == platform.node():
        pid = holder.get("pid")
        return not isinstance(pid, int) or _process(pid) is None or _process(pid) != holder.get("process")
    with contextlib.suppress(FileNotFoundError):
        return now - path.stat().st_mtime > ABANDONED_S
    return False


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return None


def _parse(content: str | None) -> dict[str, object]:
    try:
        holder = json.loads(content or "{}")
    except json.JSONDecodeError:
        return {}
    return holder if isinstance(holder, dict) else {}


def _process(pid: int) -> str | None:
    """What tells this process from another that had the same pid; None if there is no such process."""
    try:
        os.kill(pid, 0)
    except PermissionError:
        pass
    except (ProcessLookupError, OverflowError):
        return None
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""  # no /proc here: the pid alone must do
    return None if fields[0] == "Z" else f"{boot}:{fields[19]}"


def _now() -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S")
