"""Search in a FAISS index: a folder whose manifest is checked before anything else is read.

IX/index.faiss  IX/ids.npy  IX/id_offsets.npy  IX/manifest.json
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np
import torch
from numpy.typing import NDArray

from ..console import log
from ..data.atomic import sha256
from ..data.runs import Topic
from ..errors import InputError, MissingPrerequisiteError, MissingResourceError
from .bi_encoder import Identity, Vectors
from .exact import exact_search
from .stored_vectors import stored_vectors

FORMAT = 1
FILES = ("index.faiss", "ids.npy", "id_offsets.npy")
HASHED_ALWAYS = 2 << 30
"""Larger files are hashed only where their time of change is not the one in the manifest."""
SELECTIVE = 0.1
"""A filter that keeps a smaller share is answered exactly: graphs and lists lose recall there."""

LIST_SURPLUS = 10


def load_faiss() -> Any:
    """The faiss module (its type stubs lack half of it)."""
    try:
        import faiss
    except ImportError:
        raise MissingPrerequisiteError("FAISS is needed for an index: pip install faiss-cpu") from None
    return faiss


class Ids(Sequence[str]):
    """Document ids by position, UTF-8 in one memory-mapped array."""

    def __init__(self, content: NDArray[np.uint8], offsets: NDArray[np.int64]) -> None:
        self._content, self._offsets = content, offsets

    def __len__(self) -> int:
        return len(self._offsets) - 1

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        return self._content[self._offsets[index] : self._offsets[index + 1]].tobytes().decode()

    def save(self, folder: Path) -> None:
        """Writes ids.npy and id_offsets.npy."""
        np.save(folder / "ids.npy", self._content)
        np.save(folder / "id_offsets.npy", self._offsets)

    def positions(self, wanted: Collection[str]) -> NDArray[np.int64]:
        """Ascending positions of the wanted ids; unknown ones are warned about, InputError if all are."""
        names = set(wanted)
        found = np.array([i for i, docid in enumerate(self) if docid in names], np.int64)
        if not len(found):
            raise InputError(f"none of the {len(names)} allowed ids is in the collection: check --allow-ids")
        if len(found) < len(names):
            log.warning("%d of the %d allowed ids are not in the collection", len(names) - len(found), len(names))
        return found


def pack_ids(ids: Sequence[str]) -> Ids:
    """Ids in the form in which an index keeps them."""
    encoded = [docid.encode() for docid in ids]
    offsets = np.cumsum([0, *map(len, encoded)], dtype=np.int64)
    return Ids(np.frombuffer(b"".join(encoded), np.uint8), offsets)


class Index:
    """An opened index. Vectors stay on disk, mapped into memory.

    Args:
        folder: where it lies; use `Index.open`, which checks it.
    """

    def __init__(self, folder: Path, manifest: dict[str, Any]) -> None:
        faiss = load_faiss()
        self.folder, self.manifest = folder, manifest
        self.identity = Identity(**manifest["encoder"])
        self.ids = Ids(
            np.load(folder / "ids.npy", mmap_mode="r"), np.load(folder / "id_offsets.npy", mmap_mode="r")
        )
        self._faiss = faiss.read_index(str(folder / "index.faiss"), faiss.IO_FLAG_MMAP_IFC)
        expected = (manifest["count"], self.identity.dimension)
        if (self._faiss.ntotal, self._faiss.d) != expected or len(self.ids) != manifest["count"]:
            raise InputError(
                f"{folder}: the manifest promises {expected[0]} vectors of {expected[1]} dimensions, index.faiss "
                f"has {self._faiss.ntotal} of {self._faiss.d}, and there are {len(self.ids)} ids: build it again"
            )

    @staticmethod
    def open(folder: Path, *, encoder: Identity | None = None, collection_hash: str | None = None) -> Index:
        """Opens an index after comparing it with what will be used; nothing is read by FAISS before that.

        Args:
            encoder: the model that queries will be encoded by.
            collection_hash: of the collection that the run will be used with.

        Raises:
            MissingResourceError: there is no index. InputError: files are damaged, or another model or another
                collection made it; the message shows both sides.
        """
        manifest = read_manifest(folder)
        if encoder is not None and not Identity(**manifest["encoder"]).same(encoder):
            raise InputError(
                f"{folder} was built with {Identity(**manifest['encoder'])}, queries would be encoded by "
                f"{encoder}: give the same --model, or build the index again"
            )
        if collection_hash is not None and manifest["collection"]["hash"] != collection_hash:
            raise InputError(
                f"{folder} was built from {manifest['collection']['name']} with hash "
                f"{manifest['collection']['hash'][:12]}, the collection of --dataset has {collection_hash[:12]}: "
                "build the index again, or name the dataset it was built from"
            )
        _check_files(folder, manifest["files"])
        return Index(folder, manifest)

    def __len__(self) -> int:
        return len(self.ids)

    def search(
        self,
        queries: Vectors,
        depth: int,
        *,
        allowed_ids: Collection[str] | None = None,
        probes: int | None = None,
        effort: int | None = None,
        device: torch.device | str = "cpu",
    ) -> tuple[NDArray[np.int64], Vectors]:
        """The ``depth`` nearest documents of every query vector, (q, dimension).

        Args:
            allowed_ids: only these documents may be found. A filter that keeps under a tenth is answered exactly
                (product-quantised vectors: over all lists).
            probes: lists that IVF visits (nprobe); by default a sixteenth of them, at least 8, and enough to
                hold ten times the depth.
            effort: candidates that HNSW keeps (efSearch); by default twice the depth, at least 128.
            device: where a flat index is searched.

        Returns:
            positions in `ids` (q, depth), -1 where fewer were found; scores (q, depth): cosine, dot product or
            minus the distance. Best first, equal scores in collection order.
        """
        allowed = None if allowed_ids is None else self.ids.positions(allowed_ids)
        selective = allowed is not None and len(allowed) < SELECTIVE * len(self)
        vectors = self.vectors() if selective or self.manifest["type"] == "flat" else None
        if vectors is not None:
            similarity = self.identity.similarity
            return exact_search(queries, vectors, depth, similarity, allowed=allowed, device=device)
        return self._approximate(queries, min(depth, len(self)), allowed, selective, probes, effort)

    def vectors(self) -> Vectors | None:
        """The stored vectors, (n, dimension), without a copy; None where they lie in lists or are quantised."""
        return stored_vectors(load_faiss(), self._faiss, self.manifest["type"])

    def _approximate(
        self,
        queries: Vectors,
        depth: int,
        allowed: NDArray[np.int64] | None,
        selective: bool,
        probes: int | None,
        effort: int | None,
    ) -> tuple[NDArray[np.int64], Vectors]:
        faiss = load_faiss()
        selector = None if allowed is None else faiss.IDSelectorBatch(allowed)  # referenced until the search ends
        if self.manifest["type"] == "hnsw":
            share = 1.0 if allowed is None else len(allowed) / len(self)  # the graph is walked past the others
            options = faiss.SearchParametersHNSW(efSearch=effort or int(max(2 * depth, 128) / share), sel=selector)
        else:
            lists = self._faiss.nlist
            needed = math.ceil(LIST_SURPLUS * depth * lists / len(self))
            visited = lists if selective else min(lists, probes or max(8, lists // 16, needed))
            options = faiss.SearchParametersIVF(nprobe=visited, sel=selector)
        scores, positions = self._faiss.search(np.ascontiguousarray(queries), depth, params=options)
        scores = np.where(positions < 0, -np.inf, scores)
        if self.identity.similarity == "euclidean":
            scores = np.where(positions < 0, -np.inf, -np.sqrt(np.maximum(scores, 0)))
        order = np.lexsort((positions, -scores), axis=1)
        found = np.take_along_axis(positions, order, 1), np.take_along_axis(scores, order, 1)
        return found[0], found[1].astype(np.float32)


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of an index; InputError where it is damaged or of another version."""
    path = folder / "manifest.json"
    if not path.is_file():
        raise MissingResourceError(
            f"{folder} is not an index (it has no manifest.json): build it by sparring index"
        )
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        version = manifest["format"]
    except (ValueError, KeyError, TypeError):
        raise InputError(f"{path}: not a manifest of an index: build the index again") from None
    if version != FORMAT:
        raise InputError(f"{path}: format {version}, this version reads {FORMAT}: build the index again")
    return dict(manifest)


def _check_files(folder: Path, files: dict[str, dict[str, Any]]) -> None:
    for name in FILES:
        path, promised = folder / name, files.get(name)
        if promised is None or not path.is_file():
            raise InputError(f"{folder}: {name} is missing: build the index again")
        stat = path.stat()
        if stat.st_size != promised["size"]:
            raise InputError(
                f"{path}: {stat.st_size:,} bytes, the manifest says {promised['size']:,}: truncated or replaced; "
                "copy or build the index again"
            )
        unchanged = stat.st_size > HASHED_ALWAYS and stat.st_mtime_ns == promised["mtime_ns"]
        if not unchanged and (found := sha256(path)) != promised["sha256"]:
            raise InputError(
                f"{path}: sha256 {found[:12]}, the manifest says {promised['sha256'][:12]}: damaged or replaced; "
                "copy or build the index again"
            )


def as_topics(
    qids: Sequence[str], ids: Sequence[str], positions: NDArray[np.int64], scores: Vectors
) -> Iterator[Topic]:
    """(qid, docids, scores) of every query, as `write_run` takes them; ranks without a document are dropped."""
    for qid, row, values in zip(qids, positions, scores, strict=True):
        found = row >= 0
        yield qid, [ids[int(position)] for position in row[found]], values[found].astype(np.float64)
