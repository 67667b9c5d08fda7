"""Building an index: a collection is encoded, its vectors arranged by FAISS, and a manifest says by whom."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import tempfile
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path

import numpy as np

from .biencoder import BiEncoder, Identity, Vectors
from .datasets import Dataset
from .documents import Documents
from .files import sha256
from .layouts import Layout
from .search import FILES, FORMAT, Ids, Index, load_faiss, pack_ids


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

    Raises UsageError where the layout does not fit the collection, before anything is encoded.
    """
    layout = layout or Layout()
    documents = dataset.documents
    count, dimension = len(documents), encoder.identity.dimension
    factory = layout.factory(count, dimension)
    output.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=output.parent, prefix=f".{output.name}."))
    try:
        vectors = np.memmap(temporary / "vectors", np.float32, "w+", shape=(count, dimension))
        pack_ids(_encode(encoder, documents.items(), vectors)).save(temporary)
        _write_faiss(temporary / "index.faiss", factory, vectors, encoder.identity, layout, seed)
        del vectors
        (temporary / "vectors").unlink()
        _write_manifest(temporary, dataset, encoder, layout, factory, count)
        os.chmod(temporary, 0o755)
        _move(temporary, output)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return Index.open(output)


def encode_collection(encoder: BiEncoder, documents: Documents) -> tuple[Ids, Vectors]:
    """Ids and vectors of a collection, without an index; vectors are on disk until they are no longer needed."""
    with tempfile.TemporaryFile() as space:
        shape = (len(documents), encoder.identity.dimension)
        vectors = np.memmap(space, np.float32, "w+", shape=shape)
        return pack_ids(_encode(encoder, documents.items(), vectors)), vectors


def _encode(encoder: BiEncoder, items: Iterable[tuple[str, str]], out: Vectors) -> list[str]:
    ids: list[str] = []
    for names, vectors in encoder.collection(items, len(out)):
        out[len(ids) : len(ids) + len(names)] = vectors
        ids += names
    return ids


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
    aside = Path(tempfile.mkdtemp(dir=output.parent, prefix=f".{output.name}.old."))
    os.replace(output, aside / "index")
    os.replace(folder, output)
    shutil.rmtree(aside)
