"""Columns of a CSV or Parquet file: texts as they stand, and numbers that are numbers; errors say which cell."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError, MissingResourceError


@dataclass(frozen=True, slots=True)
class Columns:
    """A table that was read; ``details`` is what our own Parquet files note about themselves."""

    path: Path
    table: Any
    details: dict[str, Any]

    @property
    def names(self) -> list[str]:
        """The columns of the file, in its order."""
        names: list[str] = self.table.column_names
        return names

    def texts(self, column: str) -> NDArray[np.object_]:
        """A column as strings, (rows,); InputError names the first row of a Parquet file that has none."""
        values = self.table[column]
        if values.null_count:
            raise InputError(
                f"{row_of(self.path, int(np.argmax(values.is_null().to_numpy())))}: {column} is empty"
            )
        return np.asarray(values.to_numpy(zero_copy_only=False), dtype=object).astype(str).astype(object)

    def numbers(self, column: str, high: float, remedy: str = "") -> NDArray[np.float64]:
        """A column of numbers from 0 to ``high``, (rows,).

        InputError names the first row whose value is a word, empty, not finite, negative or too large, and ends
        with ``remedy``.
        """
        import pyarrow as pa

        values = self.table[column]
        if any(test(values.type) for test in (pa.types.is_integer, pa.types.is_floating, pa.types.is_decimal)):
            found: NDArray[np.float64] = values.cast(pa.float64(), safe=False).to_numpy().astype(np.float64)
            if ((found >= 0) & (found <= high)).all():
                return found
        cells: Iterator[tuple[str, Any]]
        if self.path.suffix == ".parquet":
            cells = ((row_of(self.path, row), value) for row, value in enumerate(values.to_pylist()))
        else:
            cells = _cells(self.path, self.names.index(column))
        where, cell = next((where, cell) for where, cell in cells if not _fits(cell, high))
        raise InputError(f"{where}: {column} {_shown(cell)} is not a number from 0 to {high:g}{remedy}")


def read_columns_file(path: Path, text: tuple[str, ...]) -> Columns:
    """Reads a CSV file with a header line, or a Parquet file; the columns ``text`` are never taken for numbers."""
    import pyarrow as pa
    import pyarrow.csv as pc
    import pyarrow.parquet as pq

    if not path.is_file():
        raise MissingResourceError(f"{path}: no such file of preferences")
    try:
        if path.suffix == ".parquet":
            table = pq.read_table(path)
            return Columns(path, table, json.loads((table.schema.metadata or {}).get(b"sparring", b"{}")))
        options = pc.ConvertOptions(column_types=dict.fromkeys(text, pa.string()), strings_can_be_null=False)
        return Columns(path, pc.read_csv(path, convert_options=options), {})
    except (pa.ArrowInvalid, OSError) as error:
        raise InputError(f"{path}: cannot be read as {path.suffix.lstrip('.') or 'CSV'}: {error}") from None


def row_of(path: Path, row: int) -> str:
    """Where a row stands, counted from 0: ``path:line`` of a CSV file, ``path:row`` of a Parquet file."""
    if path.suffix == ".parquet":
        return f"{path}:row {row + 1}"
    return next(where for index, (where, _) in enumerate(_cells(path, 0)) if index == row)


def _cells(path: Path, column: int) -> Iterator[tuple[str, str]]:
    """``path:line`` and the content of one column, row by row; empty lines are skipped, as in reading."""
    with path.open(encoding="utf-8-sig", newline="") as stream:
        reader = csv.reader(stream)
        last = 0
        header = True
        for row in reader:
            start, last = last + 1, reader.line_num
            if row and not header:
                yield f"{path}:{start}", row[column]
            header = header and not row


def _fits(cell: object, high: float) -> bool:
    if isinstance(cell, bool) or cell is None:
        return False
    try:
        value = float(cell)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return False
    return math.isfinite(value) and 0 <= value <= high


def _shown(cell: object) -> str:
    return "''" if cell is None or cell == "" else repr(cell)[:40]
