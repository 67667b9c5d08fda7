"""Triples of a query, a positive and a negative: MS MARCO's files, and the docpairs of ir_datasets."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ...rerank.data.atomic import atomic_write
from ...rerank.data.cache import cache_folder
from ...rerank.data.datasets import Dataset, open_dataset
from ...rerank.data.offset_index import id_hash, turn
from ...rerank.errors import InputError
from ..data.mixture import Row, Rows, Sampling, sources
from .irds import document_pairs
from .lines import LineFile, Presence, together


@sources.register("triples")
@dataclass(frozen=True)
class Triples:
    """MS MARCO triples, tab-separated: query, positive, negative; as text, or as ids where a dataset is named.

    Rows are read by offset: 16 bytes of memory per line. ``group`` makes one row of all lines of a query; without
    it every line is a row of two candidates.
    """

    path: str
    dataset: str | None = None
    group: bool = True
    scale: float = 1.0
    share: float = 1.0
    sampling: Sampling = "balanced"

    def rows(self) -> Rows:
        """Rows of positives (label 1) and negatives (label 0), each once; every line is checked now."""
        data = open_dataset(self.dataset) if self.dataset else None
        return _rows(Path(self.path), data, self.group, check=True)


@sources.register("docpairs")
@dataclass(frozen=True)
class DocPairs:
    """The docpairs of an ir_datasets id, such as irds:msmarco-passage/train/triples-small: ids of triples.

    Their first use writes them to the cache folder; then they are read as `triples`.
    """

    dataset: str
    group: bool = True
    scale: float = 1.0
    share: float = 1.0
    sampling: Sampling = "balanced"

    def rows(self) -> Rows:
        """As in `triples`; ir_datasets answers for the documents, so that they are not looked up."""
        data = open_dataset(self.dataset)
        name = hashlib.sha256(self.dataset.encode()).hexdigest()[:24]
        path = cache_folder("docpairs") / f"{name}.tsv"
        with turn(path):
            if not path.exists():
                with atomic_write(path) as stream:
                    stream.writelines("\t".join(pair) + "\n" for pair in document_pairs(data))
        return _rows(path, data, self.group, check=False)


def _rows(path: Path, data: Dataset | None, group: bool, check: bool) -> Rows:
    file = LineFile(path)
    presence = Presence(str(path), data.documents) if data is not None and check else None
    offsets, keys = array("q"), array("Q")
    number = 0
    for number, offset, text in file.scan():
        query, positive, negative = _fields(f"{path}:{number}", text)
        if data is not None and query not in data.queries:
            raise InputError(f"{path}:{number}: query {query!r} is not in {data.name}")
        if presence is not None:
            presence.add(number, (positive, negative))
        if positive != negative:
            offsets.append(offset)
            if group:
                keys.append(id_hash(query))
    if not number:
        raise InputError(f"0 rows read from {path}: lines of query, positive and negative are expected")
    if presence is not None:
        presence.check()
    places = np.asarray(offsets, np.int64)
    read = _reader(file, data)
    if not group:
        return Rows(lambda offset: read([offset]), places, 2 * len(places))
    order, bounds = together(keys)

    def row(query: int) -> Row:
        return read(places[order[bounds[query] : bounds[query + 1]]].tolist())

    return Rows(row, np.arange(len(bounds) - 1), 2 * len(places))


def _fields(where: str, text: str) -> list[str]:
    parts = text.split("\t")
    if len(parts) != 3:
        raise InputError(f"{where}: expected query, positive and negative between tabs, found {len(parts)} fields")
    return parts


def _reader(file: LineFile, data: Dataset | None) -> Callable[[list[int]], Row]:
    def read(offsets: list[int]) -> Row:
        labels: dict[str, float] = {}
        for offset in offsets:
            query, positive, negative = _fields(str(file.path), file.read(offset))
            labels[positive] = 1.0
            labels.setdefault(negative, 0.0)
        values, names = np.array(list(labels.values()), np.float32), tuple(labels)
        if data is None:
            return Row(query, query, names, values, names)
        return Row(query, data.queries[query], names, values, data.documents)

    return read
