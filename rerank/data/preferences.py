"""Preferences on disk: our Parquet files, and comparisons from anywhere as CSV or Parquet.

Ours has one row per comparison: ``qid, first, second, probability, order``; ``first`` was shown first,
``probability`` is P(first is better), ``order`` counts the comparisons of a topic as they were asked. Files from
elsewhere have ``left, right, winner`` (left, right, tie, or the name of the winner) and optionally ``qid``,
``weight``, ``tie`` and ``worker`` or ``source``.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..console import log
from ..errors import InputError
from ..vocabulary import Preferences
from .atomic import atomic_write
from .columns import read_columns_file, row_of

if TYPE_CHECKING:
    from .runs import Run

OURS = ("qid", "first", "second", "probability")
GIVEN = ("left", "right", "winner")
TEXT = ("qid", "left", "right", "winner", "first", "second", "worker", "source")
HEAVIEST = 1e9
"""The largest weight of a comparison: sums of larger ones would swallow those of ordinary ones."""


@dataclass(frozen=True, slots=True)
class Stored:
    """Preferences with the names of what was compared; ``details`` says which model answered, and how."""

    qids: tuple[str, ...]
    docids: tuple[tuple[str, ...], ...]
    preferences: Preferences
    details: dict[str, Any]


def write_preferences(
    path: Path,
    topics: Iterable[tuple[str, tuple[str, ...], Preferences]],
    details: dict[str, Any],
) -> int:
    """Writes (qid, docids, preferences of that topic) as they arrive; returns the number of comparisons."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pa.schema(
        [
            ("qid", pa.string()),
            ("first", pa.string()),
            ("second", pa.string()),
            ("probability", pa.float32()),
            ("order", pa.int32()),
        ],
        metadata={"sparring": json.dumps(details, default=str)},
    )
    rows = 0
    with atomic_write(path, "wb") as stream, pq.ParquetWriter(stream, schema, compression="zstd") as writer:
        for qid, docids, said in topics:
            names = np.array(docids, dtype=object)
            count = len(said.first)
            columns = [
                np.full(count, qid, dtype=object),
                names[said.first],
                names[said.second],
                said.probability.astype(np.float32),
                np.arange(count, dtype=np.int32),
            ]
            arrays = [pa.array(c, field.type) for c, field in zip(columns, schema, strict=True)]
            writer.write_table(pa.Table.from_arrays(arrays, schema=schema))
            rows += count
    return rows


def read_preferences(
    path: Path, run: Run | None = None, depth: int | None = None, uncompared: bool = False
) -> Stored:
    """Reads stored preferences; with ``run``, its documents (to ``depth``) are candidates, its scores the prior.

    Without a run the candidates of a topic are whatever was compared there, in order of their names. Comparisons
    of something with itself are left out with a note.

    Args:
        uncompared: keep topics of the run without comparisons too; one with a single candidate never has any.

    Raises:
        InputError: columns are missing, a winner is neither side, a probability is not a number from 0 to 1 or a
            weight not one from 0 to `HEAVIEST`, or a compared document is not in the run.
    """
    read = read_columns_file(path, TEXT)
    names = read.names
    if all(column in names for column in OURS):
        qid, first, second = (read.texts(column) for column in OURS[:3])
        probability = read.numbers("probability", 1.0, ": pass logits through a sigmoid first")
    elif all(column in names for column in GIVEN):
        first, second, winner = (read.texts(column) for column in GIVEN)
        qid = read.texts("qid") if "qid" in names else np.full(len(first), "all", dtype=object)
        probability = _winners(path, first, second, winner)
    else:
        raise InputError(
            f"{path}: expected columns {', '.join(OURS)} or {', '.join(GIVEN)}, found {', '.join(names)}"
        )
    weight = read.numbers("weight", HEAVIEST) if "weight" in names else None
    judge = next((c for c in ("source", "worker") if c in names), None)
    source = np.unique(read.texts(judge), return_inverse=True)[1].astype(np.int32) if judge else None
    keep = first != second
    if not keep.all():
        log.info("%s: %d comparisons of something with itself are left out", path, int((~keep).sum()))
    columns = [None if c is None else c[keep] for c in (qid, first, second, probability, weight, source)]
    if not keep.any():
        raise InputError(f"{path}: 0 comparisons read")
    return _assemble(path, columns, run, depth, uncompared, read.details)


def _winners(
    path: Path, left: NDArray[np.object_], right: NDArray[np.object_], winner: NDArray[np.object_]
) -> NDArray[np.float64]:
    wins = (winner == "left") | (winner == left)
    losses = (winner == "right") | (winner == right)
    ties = winner == "tie"
    known = wins | losses | ties
    if not known.all():
        row = int(np.flatnonzero(~known)[0])
        raise InputError(
            f"{row_of(path, row)}: winner {winner[row]!r} is not left, right, tie, {left[row]!r} or {right[row]!r}"
        )
    return np.where(ties, 0.5, np.where(wins, 1.0, 0.0))


def _assemble(
    path: Path,
    columns: list[Any],
    run: Run | None,
    depth: int | None,
    uncompared: bool,
    details: dict[str, Any],
) -> Stored:
    qid, first, second, probability, weight, source = columns
    topics, topic = np.unique(qid, return_inverse=True)
    order = np.argsort(topic, kind="stable")
    bounds = np.searchsorted(topic[order], np.arange(len(topics) + 1))
    where = {name: index for index, name in enumerate(topics)}
    wanted = list(topics) if run is None else [q for q in run if uncompared or q in where]
    if absent := sorted(set(topics) - set(wanted)):
        raise InputError(f"{path}: {len(absent)} topics are not in the run: {', '.join(absent[:5])}")
    parts, docids = [], []
    for name in wanted:
        rows = order[bounds[where[name]] : bounds[where[name] + 1]] if name in where else order[:0]
        prior = None
        if run is not None:
            items, scores = run[name]
            items, prior = items[:depth], np.asarray(scores[:depth], dtype=np.float64)
        else:
            items = tuple(np.unique(np.concatenate([first[rows], second[rows]])))
        position = {item: index for index, item in enumerate(items)}
        sides = [_positions(path, name, side[rows], position) for side in (first, second)]
        parts.append(
            Preferences(
                sizes=np.array([len(items)]),
                offsets=np.array([0, len(rows)]),
                first=sides[0],
                second=sides[1],
                probability=probability[rows],
                weight=None if weight is None else weight[rows],
                prior=prior,
                source=None if source is None else source[rows],
            )
        )
        docids.append(tuple(items))
    return Stored(tuple(wanted), tuple(docids), Preferences.join(parts), details)


def _positions(path: Path, qid: str, names: NDArray[np.object_], position: dict[str, int]) -> NDArray[np.int32]:
    try:
        return np.fromiter((position[name] for name in names), np.int32, len(names))
    except KeyError as missing:
        raise InputError(
            f"{path}: topic {qid} compares {missing.args[0]!r}, which is not in the run to that depth: give the "
            "run that the comparisons were made from"
        ) from None
