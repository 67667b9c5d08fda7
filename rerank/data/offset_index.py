"""The offset index of a collection: hashes of ids and where each record starts, in the cache folder."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import math
import os
import shutil
import tempfile
import time
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from ..console import log, progress
from ..errors import InputError, MissingResourceError, SparringError
from .cache import cache_folder
from .locks import LockedError, hold
from .records import TEXT_KEYS, Reader, reader_of
from .text import Problems, blocks

FORMAT = 2
"""Version of the files in the cache; a change makes every collection be indexed anew."""
SCHEMA_ROWS = 1000
"""After so many records without any text the rest of the collection is not read."""
UNPACKED_RATIO = 4
"""Passages compress to about a quarter: so much room is asked for before a gzipped file is unpacked."""


def id_hash(docid: str) -> int:
    """A 64-bit hash of an id, the same on every machine (BLAKE2b)."""
    return int.from_bytes(hashlib.blake2b(docid.encode(), digest_size=8).digest(), "little")


@contextlib.contextmanager
def turn(target: Path) -> Iterator[None]:
    """Waits until no other process builds ``target``, and says so."""
    try:
        with hold(target):
            yield
    except LockedError as error:
        log.info("waiting: %s", error)
        with hold(target, math.inf):
            yield


def indexed(path: Path, encoding: str, encoding_errors: str, field: str | None) -> Path:
    """The cache folder of a collection, built if this file (path, size, time, reading options) has none."""
    try:
        stat = path.stat()
    except OSError as error:
        raise MissingResourceError(f"{path}: {error.strerror}") from None
    name = _digest(str(path.resolve()), encoding, encoding_errors, field)
    state = _digest(stat.st_size, stat.st_mtime_ns, FORMAT)
    parent = cache_folder("collections", name)
    folder = parent / state
    if (folder / "about.json").is_file():
        return folder
    with turn(folder):
        if (folder / "about.json").is_file():
            return folder
        temporary = Path(tempfile.mkdtemp(dir=parent, prefix=".building-"))
        try:
            with _Builder(path, temporary, encoding, encoding_errors, field) as builder:
                builder.build()
            os.replace(temporary, folder)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise SparringError(f"{parent}: {error.strerror}: make room, or set XDG_CACHE_HOME") from None
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        for old in parent.iterdir():  # indexes of earlier contents of the same path
            if old.is_dir() and old != folder and not old.name.startswith("."):
                shutil.rmtree(old, ignore_errors=True)
    return folder


def _digest(*parts: object) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:24]


class _Builder:
    """Reads a collection once: checks every record, hashes ids, notes offsets, copies what must be copied."""

    def __init__(self, path: Path, folder: Path, encoding: str, encoding_errors: str, field: str | None) -> None:
        self.path, self.folder, self.field = path, folder, field
        self.encoding, self.encoding_errors = encoding, encoding_errors
        with path.open("rb") as stream:
            start = stream.read(3)
        packed = start.startswith(b"\x1f\x8b")
        self.copied = packed or encoding != "utf-8" or encoding_errors != "strict"
        self.position = 3 if start == b"\xef\xbb\xbf" and not self.copied else 0
        if self.copied:
            self._check_room(path.stat().st_size * (UNPACKED_RATIO if packed else 1))
        self.copy: IO[bytes] | None = (folder / "copy").open("w+b") if self.copied else None
        self.reader: Reader | None = None
        self.hashes, self.offsets, self.numbers = array("Q"), array("Q"), array("Q")
        self.empty = self.absent = 0
        self.first = ""

    def __enter__(self) -> _Builder:
        return self

    def __exit__(self, *exception: object) -> None:
        if self.copy is not None:
            self.copy.close()

    def build(self) -> None:
        """Writes hashes.npy, rows.npy, offsets.npy and about.json (last) into the folder."""
        started, digest = time.monotonic(), hashlib.sha256()
        total = None if self.copied else self.path.stat().st_size
        with progress(total=total, unit="B", label=f"reading {self.path.name}") as bar:
            for block in blocks(self.path, self.encoding, self.encoding_errors):
                digest.update(block.data)
                if self.copy is not None:
                    self.copy.write(block.data)
                for number, raw in block.lines():
                    self._line(number, raw)
                    self.position += len(raw) + 1
                bar.update(len(block.data))
        if not self.hashes:
            raise InputError(f"0 documents read from {self.path}")
        self._check_schema()
        if self.copy is not None:
            self.copy.flush()
        hashes = np.frombuffer(self.hashes, np.uint64)
        keep = np.ones(len(hashes), np.bool_)
        keep[self._repeated(hashes)] = False
        hashes = hashes[keep]
        rows = np.argsort(hashes, kind="stable")
        np.save(self.folder / "hashes.npy", hashes[rows])
        np.save(self.folder / "rows.npy", rows.astype(np.uint32))
        offsets = np.frombuffer(self.offsets, np.uint64)[keep]
        np.save(self.folder / "offsets.npy", np.append(offsets, np.uint64(self.position)))
        self._report(len(hashes), time.monotonic() - started)
        self._write_about(digest.hexdigest(), len(hashes))

    def _line(self, number: int, raw: bytes) -> None:
        content = raw.removesuffix(b"\r").decode()
        if not content.strip():
            return
        if self.reader is None:
            self.first = content
            self.reader, header = reader_of(self.path, content, self.field)
            if header:
                return
        docid, text = self.reader.parse(number, content)
        if not text or text.isspace():
            self.empty += 1
            self.absent += text is None
        self.hashes.append(id_hash(docid))
        self.offsets.append(self.position)
        self.numbers.append(number)
        if len(self.hashes) == SCHEMA_ROWS:
            self._check_schema()

    def _check_schema(self) -> None:
        if self.reader is not None and self.absent == len(self.hashes):
            expected = self.field or ", ".join(TEXT_KEYS)
            raise InputError(
                f"{self.path}: no record has a text: expected {expected}; "
                f"keys found: {self.reader.keys(self.first)}"
            )

    def _repeated(self, hashes: NDArray[np.uint64]) -> list[int]:
        """Positions of records whose id came before with the same text; another text is an error."""
        order = np.argsort(hashes, kind="stable")
        equal = np.flatnonzero(hashes[order][1:] == hashes[order][:-1])
        seen: dict[str, tuple[str | None, int]] = {}
        repeated: dict[int, None] = {}
        problems = Problems(self.path, limit=5)
        for position in sorted({int(p) for e in equal for p in order[e : e + 2]}):
            docid, text = self._again(position)
            if docid not in seen:
                seen[docid] = text, position
                continue
            before, where = seen[docid]
            repeated[position] = None
            if text != before:
                line = self.numbers[where]
                problems.add(self.numbers[position], f"id {docid!r} has another text than on line {line}")
        problems.check()
        return list(repeated)

    def _again(self, position: int) -> tuple[str, str | None]:
        if self.reader is None:
            raise RuntimeError("a record is read again before any was read")
        with (self.folder / "copy" if self.copied else self.path).open("rb") as stream:
            stream.seek(self.offsets[position])
            raw = stream.readline()
        return self.reader.parse(self.numbers[position], raw.rstrip(b"\r\n").decode())

    def _check_room(self, needed: int) -> None:
        free = shutil.disk_usage(self.folder).free
        if free < needed:
            raise SparringError(
                f"{self.path}: unpacking it needs about {needed / 1e9:.1f} GB in {self.folder.parent}, "
                f"{free / 1e9:.1f} GB are free: make room, or set XDG_CACHE_HOME"
            )

    def _report(self, count: int, seconds: float) -> None:
        what = f"unpacked ({self.position / 1e9:.2f} GB in the cache) and indexed" if self.copied else "indexed"
        log.info("%s: %s documents %s in %.1f s", self.path, f"{count:,}", what, seconds)

    def _write_about(self, sha256: str, count: int) -> None:
        if self.reader is None:
            raise RuntimeError("a collection without records cannot be described")
        about = {
            "source": str(self.path.resolve()),
            "sha256": sha256,
            "documents": count,
            "empty": self.empty,
            "duplicates": len(self.hashes) - count,
            "layout": self.reader.layout,
            "columns": self.reader.columns,
            "copied": self.copied,
        }
        (self.folder / "about.json").write_text(json.dumps(about, indent=1), encoding="utf-8")
