"""Documents by id without a collection in memory, through an offset index on disk."""

from __future__ import annotations

import json
import os
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, overload, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from .offset_index import id_hash, indexed
from .records import Reader


@runtime_checkable
class Documents(Protocol):
    """Random access to the texts of a collection; iteration gives the ids in collection order."""

    hash: str
    """Tells one content from another; for a file the SHA-256 of its uncompressed bytes."""

    def __len__(self) -> int: ...
    def __iter__(self) -> Iterator[str]: ...
    def __contains__(self, docid: object) -> bool: ...
    def items(self) -> Iterator[tuple[str, str]]:
        """(id, text) of every document, read in one sweep."""
        ...

    def text(self, docid: str) -> str:
        """The text of one document; KeyError if the collection has none of that id."""
        ...

    def get_many(self, docids: Sequence[str]) -> list[str]:
        """Texts in the order asked; KeyError names the first id that is not in the collection."""
        ...

    def missing(self, docids: Sequence[str]) -> set[str]:
        """Those of the ids that the collection does not have."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class Texts(Sequence[str]):
    """The texts of some documents, read when they are asked for; a slice or an iteration reads many at once."""

    documents: Documents
    docids: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.docids)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return self.documents.get_many(self.docids[index])
        return self.documents.text(self.docids[index])

    def __iter__(self) -> Iterator[str]:
        for start in range(0, len(self.docids), 256):
            yield from self.documents.get_many(self.docids[start : start + 256])


class FileDocuments:
    """A JSONL or TSV collection of any size, read through an index of ids and offsets in the cache folder.

    The first use reads the file once (about 9 seconds for a million passages) and keeps 20 bytes per document;
    a gzipped file is also unpacked there, since gzip has no random access. Later uses map the index and read
    single records. A changed file (size or time) is indexed anew.

    Args:
        path: the collection, ``.gz`` or plain.
        encoding, encoding_errors: of the file; anything but strict UTF-8 is kept as a UTF-8 copy in the cache.
        field: the key or column of the text, where it is not one of the usual ones.

    Raises:
        MissingResourceError: there is no such file.
        InputError: a malformed record, an id with two texts, no text field anywhere, or no documents.
    """

    def __init__(
        self, path: Path, encoding: str = "utf-8", encoding_errors: str = "strict", field: str | None = None
    ) -> None:
        self._arguments = (path, encoding, encoding_errors, field)
        folder = indexed(path, encoding, encoding_errors, field)
        about = json.loads((folder / "about.json").read_text(encoding="utf-8"))
        self.path = path
        self.hash: str = about["sha256"]
        self.empty: int = about["empty"]
        self.duplicates: int = about["duplicates"]
        self._reader = Reader(path, about["layout"], tuple(about["columns"]), field)
        self._offsets = np.load(folder / "offsets.npy", mmap_mode="r")
        self._hashes = np.load(folder / "hashes.npy", mmap_mode="r")
        self._rows = np.load(folder / "rows.npy", mmap_mode="r")
        self._file = os.open(folder / "copy" if about["copied"] else path, os.O_RDONLY)
        weakref.finalize(self, os.close, self._file)

    def __reduce__(self) -> tuple[Any, ...]:
        return FileDocuments, self._arguments

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[str]:
        return (docid for docid, _ in self.items())

    def __contains__(self, docid: object) -> bool:
        return isinstance(docid, str) and self._find(docid) is not None

    def items(self) -> Iterator[tuple[str, str]]:
        """(id, text) of every document in file order; ids that are repeated with the same text come once."""
        for row in range(len(self)):
            docid, text = self._record(row)
            yield docid, text

    def text(self, docid: str) -> str:
        """The text of one document (title, space, text), "" if it has none; KeyError for an unknown id."""
        found = self._find(docid)
        if found is None:
            raise KeyError(docid)
        return found

    def get_many(self, docids: Sequence[str]) -> list[str]:
        """Texts in the order asked, read in the order of the file; KeyError names the first unknown id."""
        texts = [""] * len(docids)
        rows = self._first_rows(docids)
        for position in np.argsort(rows, kind="stable").tolist():
            found, text = self._record(int(rows[position])) if rows[position] >= 0 else (None, "")
            texts[position] = text if found == docids[position] else self.text(docids[position])
        return texts

    def missing(self, docids: Sequence[str]) -> set[str]:
        """Those of the ids that the collection does not have, by their 64-bit hashes (no record is read)."""
        rows = self._first_rows(docids)
        return {docid for docid, row in zip(docids, rows, strict=True) if row < 0}

    def _first_rows(self, docids: Sequence[str]) -> NDArray[np.int64]:
        """The record whose id has the hash of the wanted one, or -1, (n,)."""
        wanted = np.fromiter(map(id_hash, docids), np.uint64, len(docids))
        spots = np.minimum(np.searchsorted(self._hashes, wanted), len(self) - 1)
        rows: NDArray[np.int64] = self._rows[spots].astype(np.int64)
        rows[self._hashes[spots] != wanted] = -1
        return rows

    def _find(self, docid: str) -> str | None:
        wanted = np.uint64(id_hash(docid))
        spot = int(np.searchsorted(self._hashes, wanted))
        while spot < len(self) and self._hashes[spot] == wanted:
            found, text = self._record(int(self._rows[spot]))
            if found == docid:
                return text
            spot += 1
        return None

    def _record(self, row: int) -> tuple[str, str]:
        start, end = int(self._offsets[row]), int(self._offsets[row + 1])
        raw = os.pread(self._file, end - start, start).partition(b"\n")[0]
        try:
            docid, text = self._reader.parse(row + 1, raw.removesuffix(b"\r").decode())
        except (UnicodeDecodeError, InputError):
            raise InputError(f"{self.path}: the file has changed while it was read: run again") from None
        return docid, text or ""
