"""Text files whose lines are read again by offset, and documents checked against a collection many at a time."""

from __future__ import annotations

import os
import tempfile
import weakref
from array import array
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ...rerank.data.cache import cache_folder
from ...rerank.data.documents import Documents
from ...rerank.data.text import blocks
from ...rerank.errors import InputError

PIECE = 1 << 14
TOGETHER = 1 << 16
"""So many documents are looked up in a collection at once."""


class LineFile:
    """Lines of a UTF-8 file at known offsets; a gzipped one is unpacked into the cache folder while this lives."""

    def __init__(self, path: Path) -> None:
        self.path = path
        start = next(iter(blocks(path)), None)  # says what is wrong with the file, if anything
        with path.open("rb") as stream:
            head = stream.read(3)
        self._packed = head.startswith(b"\x1f\x8b")
        self._start = 3 if head == b"\xef\xbb\xbf" else 0
        if self._packed and start is not None:
            with tempfile.TemporaryFile(dir=cache_folder("unpacked")) as copy:
                for block in blocks(path):
                    copy.write(block.data)
                copy.flush()
                self._file = os.dup(copy.fileno())
        else:
            self._file = os.open(path, os.O_RDONLY)
        weakref.finalize(self, os.close, self._file)

    def __reduce__(self) -> tuple[type[LineFile], tuple[Path]]:
        return LineFile, (self.path,)

    def scan(self) -> Iterator[tuple[int, int, str]]:
        """(line number, offset, text without its line end) of every line that is not blank."""
        position = self._start
        for block in blocks(self.path):
            for number, raw in block.lines():
                text = raw.removesuffix(b"\r").decode()
                if text and not text.isspace():
                    yield number, position, text
                position += len(raw) + 1

    def read(self, offset: int) -> str:
        """The line at an offset that `scan` gave."""
        found = b""
        while b"\n" not in found and (piece := os.pread(self._file, PIECE, offset + len(found))):
            found += piece
        try:
            return found.partition(b"\n")[0].removesuffix(b"\r").decode()
        except UnicodeDecodeError:
            raise InputError(f"{self.path}: the file has changed while it was read: start again") from None


class Presence:
    """Looks documents up in a collection, many at a time, and names the first line with one that is not there."""

    def __init__(self, path: str, documents: Documents) -> None:
        self.path, self.documents = path, documents
        self._lines: dict[str, int] = {}

    def add(self, line: int, docids: Sequence[str]) -> None:
        """Notes that a line names documents; InputError where one of those noted so far is absent."""
        for docid in docids:
            self._lines.setdefault(docid, line)
        if len(self._lines) >= TOGETHER:
            self.check()

    def check(self) -> None:
        """Looks up what was noted since the last time."""
        absent = self.documents.missing(list(self._lines))
        if absent:
            first = min(self._lines[docid] for docid in absent)
            names = sorted(absent)
            more = f" and {len(names) - 5} more" if len(names) > 5 else ""
            raise InputError(
                f"{self.path}:{first}: {len(names)} documents are not in the collection: "
                f"{', '.join(names[:5])}{more}"
            )
        self._lines.clear()


def together(keys: array[int] | Sequence[int]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Puts equal 64-bit keys together, groups in the order of their first members.

    Returns:
        order (n,) and bounds (g+1,): positions ``order[bounds[g]:bounds[g+1]]`` have the g-th key.
    """
    _, first, group = np.unique(np.asarray(keys, np.uint64), return_index=True, return_inverse=True)
    rank = np.empty(len(first), np.int64)
    rank[np.argsort(first)] = np.arange(len(first))
    number = rank[group]
    return np.argsort(number, kind="stable"), np.cumsum([0, *np.bincount(number, minlength=len(first))])
