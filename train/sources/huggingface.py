"""Hugging Face datasets: local files, saved folders, or names on the hub, read by their column names."""

from __future__ import annotations

import re
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...rerank.data.cache import cache_folder
from ...rerank.data.offset_index import id_hash
from ...rerank.errors import InputError, MissingPrerequisiteError, MissingResourceError
from ..data.mixture import Row, Rows, Sampling, sources
from .lines import together

BUILDERS = {".parquet": "parquet", ".jsonl": "json", ".json": "json", ".csv": "csv", ".arrow": "arrow"}
BATCH = 1000
BLANK = 1 << 16
"""A file below this size is looked at as a whole: it may hold blank lines only."""


@sources.register("huggingface")
@dataclass(frozen=True)
class HuggingFace:
    """A dataset with a column of queries, and named columns that say what its layout is.

    ``positive`` and ``negative`` (or negative_1, negative_2, ...): triplets and n-tuples, labels 1 and 0;
    ``document`` and ``label`` of single values: labelled pairs, one row per query; the same two columns of lists:
    labelled lists. Other columns are not read. Rows stay in the Arrow file and are read when they are drawn.

    Args:
        path: a .parquet, .jsonl or .csv file, a folder of them or of ``save_to_disk``, or a name on the hub.
        name: configuration of a dataset on the hub.
        query, document, label, positive, negative: what these columns are called.
    """

    path: str
    name: str | None = None
    split: str = "train"
    query: str = "query"
    document: str = "document"
    label: str = "label"
    positive: str = "positive"
    negative: str = "negative"
    scale: float = 1.0
    share: float = 1.0
    sampling: Sampling = "balanced"

    def rows(self) -> Rows:
        """One row per row of the dataset, or per query for labelled pairs; all of them are checked now."""
        table = _load(self.path, self.name, self.split)
        if not len(table):
            raise _empty(self.path)
        found = table.column_names
        negatives = [c for c in found if re.fullmatch(rf"{re.escape(self.negative)}(_\d+)?", c)]
        if self.query in found and self.positive in found and negatives:
            return self._tuples(table, [self.positive, *negatives])
        if self.query in found and self.document in found and self.label in found:
            pairs = not isinstance(table[0][self.document], list)
            return self._pairs(table) if pairs else self._lists(table)
        raise InputError(
            f"{self.path}: expected columns {self.query}, {self.positive}, {self.negative} (or {self.negative}_1, "
            f"...), or {self.query}, {self.document}, {self.label}; found {', '.join(found)}"
        )

    def _tuples(self, table: Any, columns: list[str]) -> Rows:
        for _ in self._checked(table, [self.query, *columns], str):
            pass
        labels = np.array([1.0] + [0.0] * (len(columns) - 1), np.float32)

        def read(place: int) -> Row:
            record = table[place]
            texts = [record[column] for column in columns]
            return Row(str(place), record[self.query], _names(place, len(texts)), labels, texts)

        return Rows(read, np.arange(len(table)), len(table) * len(columns))

    def _pairs(self, table: Any) -> Rows:
        keys, labels = array("Q"), array("f")
        for place, record in self._checked(table, [self.query, self.document], str, self.label):
            keys.append(id_hash(record[self.query]))
            labels.append(self._number(place, record[self.label]))
        order, bounds = together(keys)

        def read(group: int) -> Row:
            places = order[bounds[group] : bounds[group + 1]]
            records = table[places.tolist()]
            values = np.asarray(labels, np.float32)[places]
            name = str(places[0])
            return Row(name, records[self.query][0], tuple(map(str, places)), values, records[self.document])

        return Rows.teaching(read, range(len(bounds) - 1))

    def _lists(self, table: Any) -> Rows:
        for place, record in self._checked(table, [self.query], str, self.document, self.label):
            texts, values = record[self.document], record[self.label]
            if not isinstance(texts, list) or not isinstance(values, list) or len(texts) != len(values):
                raise self._bad(place, f"{self.document} and {self.label} must be lists of the same length")
            for text in texts:
                if not isinstance(text, str):
                    raise self._bad(place, f"{self.document} must hold texts, found {text!r}")
            for value in values:
                self._number(place, value)

        def read(place: int) -> Row:
            record = table[place]
            labels = np.array(record[self.label], np.float32)
            texts = record[self.document]
            return Row(str(place), record[self.query], _names(place, len(texts)), labels, texts)

        return Rows.teaching(read, range(len(table)))

    def _checked(
        self, table: Any, texts: Sequence[str], kind: type, *others: str
    ) -> Iterator[tuple[int, dict[str, Any]]]:
        """(number, record) of every row whose ``texts`` are of a kind; InputError names the first that is not."""
        columns = [*texts, *others]
        for start, batch in zip(
            range(0, len(table), BATCH), table.select_columns(columns).iter(BATCH), strict=True
        ):
            for place, values in enumerate(zip(*(batch[c] for c in columns), strict=True), start=start):
                record = dict(zip(columns, values, strict=True))
                for column in texts:
                    if not isinstance(record[column], kind):
                        raise self._bad(place, f"{column} must be a text, found {record[column]!r}")
                yield place, record

    def _number(self, place: int, value: object) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float) or not np.isfinite(value):
            raise self._bad(place, f"{self.label} must be a finite number, found {value!r}")
        return float(value)

    def _bad(self, place: int, message: str) -> InputError:
        return InputError(f"{self.path}:{place + 1}: {message}")


def _names(place: int, count: int) -> tuple[str, ...]:
    return tuple(f"{place}-{i}" for i in range(count))


def _empty(path: str) -> InputError:
    return InputError(f"0 rows read from {path}")


def _load(path: str, name: str | None, split: str) -> Any:
    try:
        import datasets
    except ImportError:
        raise MissingPrerequisiteError(
            "Hugging Face datasets are needed for this source: pip install 'sparring[train]'"
        ) from None
    local = Path(path)
    if (local / "dataset_info.json").is_file():
        return datasets.load_from_disk(path)
    if (local / "dataset_dict.json").is_file():
        parts = datasets.load_from_disk(path)
        if split not in parts:
            raise MissingResourceError(f"{path} has no split {split!r}; it has {', '.join(parts)}")
        return parts[split]
    options: dict[str, Any] = {"split": split, "cache_dir": str(cache_folder("datasets"))}
    datasets.disable_progress_bars()
    try:
        if local.is_file():
            if local.suffix not in BUILDERS:
                raise InputError(f"{path}: expected a name that ends in {', '.join(BUILDERS)}")
            if local.stat().st_size < BLANK and not local.read_bytes().strip():
                raise _empty(path)
            return datasets.load_dataset(BUILDERS[local.suffix], data_files=path, **options)
        return datasets.load_dataset(path, name, **options)
    except StopIteration:  # no row to tell the columns from
        raise _empty(path) from None
    except (OSError, ValueError, datasets.exceptions.DatasetGenerationError) as error:
        reason = " ".join(str(error.__cause__ or error).split())[:300]
        kind = InputError if local.exists() else MissingResourceError
        raise kind(f"{path}: cannot be read as a dataset, split {split!r}: {reason}") from None
