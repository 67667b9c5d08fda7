"""Lists with a teacher's scores, one JSON object per line."""

from __future__ import annotations

import json
from array import array
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...rerank.data.datasets import Dataset, open_dataset
from ...rerank.errors import InputError
from ...rerank.registry import unknown
from ..data.mixture import Row, Rows, Sampling, sources, teaches
from . import held_out
from .lines import LineFile, Presence

FORMAT = "one JSON object per line is expected, with qid, docids and scores"
COLUMNS = ("qid", "docids", "scores", "query", "texts")


@sources.register("lists")
@dataclass(frozen=True)
class ScoredLists:
    """JSONL, one query per line: qid, docids, scores; query and texts too, unless a dataset has them."""

    path: str
    dataset: str | None = None
    scale: float = 1.0
    share: float = 1.0
    sampling: Sampling = "spread"
    holdout: int = 0

    def rows(self) -> Rows:
        """One row per line; every line is checked now, and read again when it is drawn."""
        data = open_dataset(self.dataset) if self.dataset else None
        file = LineFile(Path(self.path))
        presence = Presence(self.path, data.documents) if data is not None else None
        qids, offsets, sizes = [], array("q"), array("q")
        useless, number = 0, 0
        for number, offset, text in file.scan():
            row = self._row(f"{self.path}:{number}", text, data)
            if presence is not None and row.documents is presence.documents:
                presence.add(number, row.docids)
            if not teaches(row.labels):
                useless += 1
                continue
            qids.append(row.qid)
            offsets.append(offset)
            sizes.append(len(row.docids))
        if not number:
            raise InputError(f"0 rows read from {self.path}: {FORMAT}")
        if presence is not None:
            presence.check()
        left_out = held_out(qids, self.holdout)
        keep = np.array([qid not in left_out for qid in qids], np.bool_)
        count = int(np.asarray(sizes, np.int64)[keep].sum())

        def read(offset: int) -> Row:
            return self._row(self.path, file.read(offset), data)

        return Rows(read, np.asarray(offsets, np.int64)[keep], count, useless)

    def _row(self, where: str, text: str, data: Dataset | None) -> Row:
        record = _record(where, text)
        qid, docids = str(record["qid"]), tuple(map(str, record["docids"]))
        query = record.get("query", data.queries.get(qid) if data else None)
        texts = record.get("texts", data.documents if data else None)
        if query is None or texts is None:
            raise InputError(f"{where}: no text of {qid!r}: name a dataset, or give the columns query and texts")
        try:
            labels = np.array(record["scores"], np.float32)
        except (TypeError, ValueError):
            raise InputError(f"{where}: scores must be numbers") from None
        if labels.shape != (len(docids),) or not np.isfinite(labels).all():
            raise InputError(f"{where}: {len(docids)} docids need as many finite scores, found {labels.size}")
        if isinstance(texts, list) and len(texts) != len(docids):
            raise InputError(f"{where}: {len(docids)} docids, but {len(texts)} texts")
        return Row(qid, str(query), docids, labels, texts)


def _record(where: str, text: str) -> dict[str, Any]:
    try:
        record = json.loads(text)
    except json.JSONDecodeError as error:
        raise InputError(f"{where}: not valid JSON: {error}") from None
    if not isinstance(record, dict):
        raise InputError(f"{where}: expected a JSON object, found {type(record).__name__}")
    for key in record:
        if key not in COLUMNS:
            raise InputError(f"{where}: {unknown('column', str(key), COLUMNS)}")
    if absent := [key for key in COLUMNS[:3] if key not in record]:
        raise InputError(f"{where}: lacks {', '.join(absent)}; columns found: {', '.join(record)}")
    for key in ("docids", "texts"):
        if not isinstance(record.get(key, []), list):
            raise InputError(f"{where}: {key} must be a list, found {type(record[key]).__name__}")
    return record
