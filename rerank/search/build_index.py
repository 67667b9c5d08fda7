"""Building an index: a collection is encoded, its vectors arranged by FAISS, and a manifest says by whom."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import IO

import numpy as np

from ..data.atomic import sha256
from ..data.datasets import Dataset
from ..data.documents import Documents
from ..data.locks import hold
from ..errors import SparringError
from .bi_encoder import BiEncoder, Identity, Vectors
from .index import FILES, FORMAT, Ids, Index, load_faiss, pack_ids
from .index_types import Layout


def build_index(
    dataset: Dataset,
    encoder: BiEncoder,
    output: Path,
    layout: Layout | None = None,
    *,
    seed: int = 0,
) -> Index:
    """Encodes a collection and writes its index; the folder appears whole or not at all, replacing an older one.

    Vectors are kept on disk while they are encoded; FAISS then holds the index it builds in memory
    (flat, hnsw and ivf: 4 bytes per dimension and document).

    Raises UsageError where the layout does not fit the collection, before anything is encoded, and LockedError
    where another process builds the same index.
    """
    layout = layout or Layout()
    documents = dataset.documents
    count, dimension = len(documents), encoder.identity.dimension
    factory = layout.factory(count, dimension)
    output.parent.mkdir(parents=True, exist_ok=True)
    with _workplace(output) as folder:
        _check_room(folder, 2 * 4 * count * dimension)  # the vectors, and the index made of them
        with (folder / "vectors").open("wb") as stream:
            _encode(encoder, documents, stream).save(folder)
        vectors = np.memmap(folder / "vectors", np.float32, "c", shape=(count, dimension))
        _write_faiss(folder / "index.faiss", factory, vectors, encoder.identity, layout, seed)
        del vectors
        (folder / "vectors").unlink()
        _write_manifest(folder, dataset, encoder, layout, factory, count)
        folder.chmod(0o755)
        _move(folder, output)
    return Index.open(output)


@contextlib.contextmanager
def _workplace(output: Path) -> Iterator[Path]:
    """A folder beside ``output``, for one process at a time; what killed ones have left is cleared away."""
    prefix = f".{output.name}.building-"
    with hold(output):
        for left in output.parent.iterdir():
            if left.name.startswith(prefix):
                shutil.rmtree(left)
        folder = Path(tempfile.mkdtemp(dir=output.parent, prefix=prefix))
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def encode_collection(encoder: BiEncoder, documents: Documents) -> tuple[Ids, Vectors]:
    """Ids and vectors of a collection, without an index; vectors are on disk until they are no longer needed."""
    with tempfile.TemporaryFile() as space:
        ids = _encode(encoder, documents, space)
        return ids, np.memmap(space, np.float32, "c", shape=(len(documents), encoder.identity.dimension))


def _encode(encoder: BiEncoder, documents: Documents, stream: IO[bytes]) -> Ids:
    """Writes the vectors to a file, one after the other (a full disk is then an error, not a crash)."""
    ids: list[str] = []
    for names, vectors in encoder.collection(documents.items(), len(documents)):
        stream.write(vectors.tobytes())
        ids += names
    stream.flush()
    return pack_ids(ids)


def _check_room(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise SparringError(
            f"the index needs about {needed / 1e9:.1f} GB in {folder.parent} while it is built, "
            f"{free / 1e9:.1f} GB are free: make room, or choose another --output"
        )


def _write_faiss(
    path: Path, factory: str, vectors: Vectors, identity: Identity, layout: Layout, seed: int
) -> None:
    faiss = load_faiss()
    metric = faiss.METRIC_L2 if identity.similarity == "euclidean" else faiss.METRIC_INNER_PRODUCT
    index = faiss.index_factory(vectors.shape[1], factory, metric)
    if layout.type == "hnsw":
        index.hnsw.efConstruction = layout.construction
    if not index.is_trained:
        wanted = max(64 * index.nlist, 1 << 14)
        chosen = np.random.default_rng(seed).permutation(len(vectors))[:wanted]
        index.train(np.ascontiguousarray(vectors[np.sort(chosen)]))
    for start in range(0, len(vectors), 1 << 16):
        index.add(np.ascontiguousarray(vectors[start : start + (1 << 16)]))
    faiss.write_index(index, str(path))


def _write_manifest(
    folder: Path, dataset: Dataset, encoder: BiEncoder, layout: Layout, factory: str, count: int
) -> None:
    files = {}
    for name in FILES:
        stat = (folder / name).stat()
        files[name] = {"size": stat.st_size, "mtime_ns": stat.st_mtime_ns, "sha256": sha256(folder / name)}
    packages = ("sparring", "faiss-cpu", "sentence-transformers", "transformers", "torch")
    manifest = {
        "format": FORMAT,
        "type": layout.type,
        "factory": factory,
        "layout": dataclasses.asdict(layout),
        "count": count,
        "encoder": dataclasses.asdict(encoder.identity),
        "dtype": encoder.dtype,
        "collection": {"name": dataset.name, "hash": dataset.collection_hash},
        "files": files,
        "versions": {name: metadata.version(name) for name in packages},
    }
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=1, ensure_ascii=False), encoding="utf-8")


def _move(folder: Path, output: Path) -> None:
    """Moves a folder to its final name; an older one steps aside first and is removed last."""
    if not output.exists():
        os.replace(folder, output)
        return
    aside = Path(tempfile.mkdtemp(dir=output.parent, prefix=f".{output.name}.building-"))
    os.replace(output, aside / "index")
    os.replace(folder, output)
    shutil.rmtree(aside)
