"""Pages of outcomes in an SQLite file: appended by a writer thread, one transaction per commit unit."""

from __future__ import annotations

import contextlib
import json
import sqlite3
import threading
import time
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..console import log
from ..errors import InputError, SparringError

UNIT_S = 2.0
UNIT_GROUPS = 4096
FORMAT = 1
APPLICATION = 0x53504152  # "SPAR": tells a ledger from any other SQLite file

Keys = NDArray[np.uint64]
"""128-bit keys as two columns, (g, 2)."""

Part = tuple[NDArray[np.int64], Keys, NDArray[np.float64]]
"""Outcomes of one size: the topics' numbers (c,), keys (c, 2), values (c, k)."""

_REFUSED = {
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_PERM,
    sqlite3.SQLITE_NOMEM,
}
_Pending = tuple[int, NDArray[np.int64], Keys, NDArray[np.float64]]

_SCHEMA = f"""
PRAGMA application_id = {APPLICATION};
PRAGMA user_version = {FORMAT};
CREATE TABLE configurations (
    id INTEGER PRIMARY KEY, fingerprint TEXT NOT NULL UNIQUE, description TEXT NOT NULL, created TEXT NOT NULL);
CREATE TABLE pages (
    configuration INTEGER NOT NULL, topic INTEGER NOT NULL, count INTEGER NOT NULL, checksum INTEGER NOT NULL,
    content BLOB NOT NULL);
CREATE INDEX pages_of_topic ON pages (configuration, topic);
"""


@dataclass(frozen=True, slots=True)
class Configuration:
    """A maker of outcomes: the scorer's fingerprint, its readable fields, and how many groups it answered."""

    fingerprint: str
    fields: Mapping[str, object]
    groups: int


class StorageError(SparringError):
    """The disk refused a write; what was committed before is intact."""

    exit_code = 6


class Pages:
    """One open file, held exclusively, in WAL mode.

    A killed process loses at most one unit, `UNIT_S` seconds or `UNIT_GROUPS` groups: a commit begins when half a
    unit is gathered, and `append` waits while a whole one is not yet on disk. A power cut also loses what the
    system had not synced, `UNIT_S` seconds more. A page whose checksum fails is skipped with a warning.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._mutex = threading.Lock()  # the connection serves one thread at a time
        self._wake = threading.Condition()
        self._pending: list[_Pending] = []
        self._groups = 0  # pending
        self._writing = 0  # taken by the writer, not yet committed
        self._oldest = self._synced = time.monotonic()
        self._closing = False
        self._failure: SparringError | None = None
        self._connection = self._open()
        self._writer = threading.Thread(target=self._write_on, name="ledger writer", daemon=True)
        self._writer.start()

    def configurations(self) -> list[Configuration]:
        """Everything the file holds, oldest first; what is pending is committed first."""
        self.flush()
        query = (
            "SELECT fingerprint, description, coalesce(sum(count), 0) FROM configurations "
            "LEFT JOIN pages ON configuration = configurations.id GROUP BY configurations.id ORDER BY id"
        )
        with self._mutex, self._guarded():
            rows = self._connection.execute(query).fetchall()
        try:
            return [Configuration(fingerprint, json.loads(text), groups) for fingerprint, text, groups in rows]
        except ValueError:
            raise self._damaged("a description is not readable") from None

    def configuration(self, fingerprint: str, fields: Mapping[str, object]) -> int:
        """The number of a fingerprint, added if it is new."""
        row = (fingerprint, json.dumps(dict(fields), ensure_ascii=False, default=str))
        with self._mutex, self._guarded():
            self._connection.execute(
                "INSERT OR IGNORE INTO configurations (fingerprint, description, created) "
                "VALUES (?, ?, datetime())",
                row,
            )
            found = self._connection.execute("SELECT id FROM configurations WHERE fingerprint = ?", row[:1])
            number = found.fetchone()
            self._connection.commit()
        if number is None:
            raise self._damaged("the index of configurations contradicts the table")
        return int(number[0])

    def load(self, configuration: int, topics: NDArray[np.int64]) -> Iterator[tuple[Keys, NDArray[np.float64]]]:
        """The pages of these topics: keys (c, 2) and outcomes (c, k); what is pending is committed first."""
        self.flush()
        query = "SELECT topic, count, checksum, content FROM pages WHERE configuration = ? AND topic = ?"
        wanted = [(configuration, topic) for topic in np.unique(topics).tolist()]
        with self._mutex, self._guarded():
            rows = [row for topic in wanted for row in self._connection.execute(query, topic)]
        for row in rows:
            page = _unpack(configuration, *row)
            if page is None:
                log.warning(
                    "%s: a damaged page of %s outcomes is skipped; they are asked again", self.path, row[1]
                )
            else:
                yield page

    def append(self, configuration: int, parts: Sequence[Part]) -> None:
        """Hands the outcomes of one batch to the writer, to be committed together; cheap, from any thread.

        Raises:
            StorageError: an earlier write failed.
        """
        with self._wake:
            self._wake.wait_for(lambda: self._failure is not None or self._groups + self._writing < UNIT_GROUPS)
            if self._failure is not None:
                raise self._failure
            if not self._pending:
                self._oldest = time.monotonic()
                self._wake.notify_all()
            self._pending += [(configuration, *part) for part in parts]
            self._groups += sum(len(keys) for _, keys, _ in parts)
            if self._groups >= UNIT_GROUPS // 2:
                self._wake.notify_all()

    def flush(self) -> None:
        """Commits what is pending, in the calling thread."""
        self._commit()
        if self._failure is not None:
            raise self._failure

    def close(self) -> None:
        """Commits what is pending and closes the file."""
        with self._wake:
            if self._closing:
                return
            self._closing = True
            self._wake.notify_all()
        self._writer.join()
        try:
            self.flush()
        finally:
            self._connection.close()

    def _open(self) -> sqlite3.Connection:
        with self._guarded():
            connection = sqlite3.connect(self.path, check_same_thread=False, isolation_level="DEFERRED")
        try:
            with self._guarded():
                empty = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0] == 0
                (application,) = connection.execute("PRAGMA application_id").fetchone()
                (version,) = connection.execute("PRAGMA user_version").fetchone()
                if not empty and (application, version) != (APPLICATION, FORMAT):
                    raise InputError(f"{self.path}: not a ledger of this version: name another file")
                # no shared memory file: works on network file systems, and the lock file keeps others away
                connection.execute("PRAGMA locking_mode = EXCLUSIVE")
                connection.execute("PRAGMA journal_mode = WAL")
                connection.execute("PRAGMA synchronous = NORMAL")
                if empty:
                    connection.executescript(f"BEGIN;{_SCHEMA}COMMIT;")
        except BaseException:
            connection.close()
            raise
        return connection

    def _write_on(self) -> None:
        while True:
            with self._wake:
                while not (self._closing or self._groups >= UNIT_GROUPS // 2):
                    left = self._oldest + UNIT_S / 2 - time.monotonic() if self._pending else None
                    if left is not None and left <= 0:
                        break
                    self._wake.wait(left)
                if self._closing:
                    return
            self._commit()

    def _commit(self) -> None:
        with self._mutex:
            with self._wake:
                pending, self._pending = self._pending, []
                self._writing, self._groups = self._groups, 0
            try:
                if pending and self._failure is None:
                    self._write(pending)
            except SparringError as failure:
                self._failure = failure
            except Exception as error:  # whatever it is, the next append or flush must hear of it
                self._failure = StorageError(f"{self.path}: {type(error).__name__}: {error}")
            finally:
                with self._wake:
                    self._writing = 0
                    self._wake.notify_all()

    def _write(self, pending: list[_Pending]) -> None:
        with self._guarded(), self._connection:
            self._connection.executemany("INSERT INTO pages VALUES (?, ?, ?, ?, ?)", _pack(pending))
        if time.monotonic() - self._synced > UNIT_S:
            with self._guarded():
                self._connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
            self._synced = time.monotonic()

    @contextlib.contextmanager
    def _guarded(self) -> Iterator[None]:
        try:
            yield
        except UnicodeDecodeError as error:  # the driver could not even read SQLite's complaint
            raise self._damaged(str(error)) from None
        except sqlite3.DatabaseError as error:
            if getattr(error, "sqlite_errorcode", 0) & 0xFF not in _REFUSED:
                raise self._damaged(str(error)) from None
            raise StorageError(
                f"{self.path}: {error}: everything committed before is intact; make room (or choose another "
                "--ledger) and run the same command again, it goes on from there"
            ) from None

    def _damaged(self, error: str) -> InputError:
        return InputError(f"{self.path}: {error}: move the file away, a new one is begun without it")


def _pack(pending: list[_Pending]) -> Iterator[tuple[int, int, int, int, bytes]]:
    """One row per configuration, topic and size of outcome: the keys, then the outcomes."""
    kinds: dict[tuple[int, int], list[int]] = {}
    for index, (configuration, _, _, outcomes) in enumerate(pending):
        kinds.setdefault((configuration, outcomes.shape[1]), []).append(index)
    for (configuration, _), members in kinds.items():
        topics, keys, outcomes = (np.concatenate([pending[i][column] for i in members]) for column in (1, 2, 3))
        narrow = outcomes.astype(np.float32)
        stored = narrow if (narrow == outcomes).all() else outcomes
        order = np.argsort(topics, kind="stable")
        topics, keys, stored = topics[order], keys[order], stored[order]
        edges = np.flatnonzero(np.diff(topics)) + 1
        starts, ends = [0, *edges.tolist()], [*edges.tolist(), len(topics)]
        for topic, start, end in zip(topics[[0, *edges]].tolist(), starts, ends, strict=True):
            content = keys[start:end].tobytes() + stored.dtype.char.encode() + stored[start:end].tobytes()
            yield configuration, topic, end - start, _checksum(configuration, topic, end - start, content), content


def _unpack(
    configuration: int, topic: int, count: int, checksum: int, content: bytes
) -> tuple[Keys, NDArray[np.float64]] | None:
    if not isinstance(content, bytes) or _checksum(configuration, topic, count, content) != checksum:
        return None
    split = 16 * count
    keys = np.frombuffer(content[:split], np.uint64).reshape(count, 2)
    outcomes = np.frombuffer(content[split + 1 :], content[split : split + 1].decode()).reshape(count, -1)
    return keys, outcomes.astype(np.float64)


def _checksum(configuration: int, topic: int, count: int, content: bytes) -> int:
    return zlib.crc32(content, zlib.crc32(b"%d %d %d" % (configuration, topic, count)))
