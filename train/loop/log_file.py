"""The training log: one row of a CSV file per measurement."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

from ...rerank.data.atomic import atomic_write

COLUMNS = ("step", "pairs", "seconds", "loss", "constant_loss", "grad_norm", "learning_rate", "measure", "value")


def append_csv(path: Path, row: dict[str, Any]) -> None:
    """Adds a row to the training log; measures are name and value."""
    fields = {key: row[key] for key in COLUMNS if key in row}
    for key in row:
        if key.startswith("eval_"):
            fields["measure"], fields["value"] = key.removeprefix("eval_"), row[key]
    if not fields.keys() & {"loss", "value"}:
        return
    fresh = not path.exists()
    with path.open("a", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, COLUMNS, lineterminator="\n")
        if fresh:
            writer.writeheader()
        writer.writerow(fields)


def cut_csv(path: Path, step: int) -> None:
    """Drops the rows of the training log from after a step: what is trained again is logged again."""
    if not path.is_file():
        return
    with path.open(encoding="utf-8", newline="") as stream:
        rows = [
            row for row in csv.DictReader(stream) if (row["step"] or "").isdigit() and int(row["step"]) <= step
        ]
    with atomic_write(path) as stream:
        writer = csv.DictWriter(stream, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
