"""Training data: every source becomes rows of one shape, and a mixture of sources is a function of position.

A row is a query with candidates and labels: teacher scores or grades. Which row stands at which position, and
which of its candidates are drawn, depends on (seed, position) alone: a resumed training sees the same.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol, overload, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from ...rerank.console import log
from ...rerank.data.documents import Documents, Texts
from ...rerank.errors import InputError, UsageError
from ...rerank.registry import Registry

sources = Registry("data source", "sparring.train.sources")

Sampling = Literal["balanced", "spread", "top", "random", "log_random"]
TOP = 20
"""How deep "spread" looks for the third of a list that comes from the top."""


@dataclass(frozen=True, slots=True)
class Row:
    """A query with all its candidates: docids and labels (n,), best first only where the source says so."""

    qid: str
    query: str
    docids: tuple[str, ...]
    labels: NDArray[np.float32]
    documents: Documents | Sequence[str]

    def texts(self, chosen: NDArray[np.int64]) -> tuple[str, ...]:
        """The texts of some candidates."""
        if isinstance(self.documents, Documents):
            return tuple(Texts(self.documents, tuple(self.docids[i] for i in chosen)))
        return tuple(self.documents[i] for i in chosen)


@dataclass(frozen=True, slots=True)
class Rows(Sequence[Row]):
    """Rows that are read when they are asked for, so that a source of any size takes 8 bytes per row.

    Args:
        read: the row at a place: a file offset, a row number.
        places: where the rows are, (n,).
        candidates: of all rows together (of triples, as often as they are named).
        left_out: rows that were there, but have one label only.
    """

    read: Callable[[int], Row]
    places: NDArray[np.int64]
    candidates: int
    left_out: int = 0

    @staticmethod
    def teaching(read: Callable[[int], Row], places: Sequence[int]) -> Rows:
        """Reads every row once and keeps those that have two candidates with different labels."""
        kept, candidates = [], 0
        for place in places:
            row = read(place)
            if teaches(row.labels):
                kept.append(place)
                candidates += len(row.docids)
        return Rows(read, np.array(kept, np.int64), candidates, len(places) - len(kept))

    def __len__(self) -> int:
        return len(self.places)

    @overload
    def __getitem__(self, index: int) -> Row: ...
    @overload
    def __getitem__(self, index: slice) -> list[Row]: ...
    def __getitem__(self, index: int | slice) -> Row | list[Row]:
        if isinstance(index, slice):
            return [self.read(int(place)) for place in self.places[index]]
        return self.read(int(self.places[index]))


def teaches(labels: NDArray[np.float32]) -> bool:
    """Whether a list has anything to rank: two candidates with different labels."""
    return len(labels) > 1 and bool(np.ptp(labels) > 0)


@dataclass(frozen=True, slots=True)
class Example:
    """One list to train on: a query, some of its candidates, and a label for each, (n,)."""

    qid: str
    query: str
    docids: tuple[str, ...]
    texts: tuple[str, ...]
    labels: NDArray[np.float32]


@runtime_checkable
class Source(Protocol):
    """Where rows come from; registered in `sources` and written as a call, like every component.

    Attributes:
        share: how often this source is drawn, relative to the others.
        scale: labels are multiplied by it (20 turns cosines into logits for a softmax).
        sampling: how a list is drawn from a row, see `draw`.
    """

    spec_name: ClassVar[str]
    share: float
    scale: float
    sampling: Sampling

    def rows(self) -> Sequence[Row]:
        """All rows, checked; `Rows` where there may be many. These are taken as they are, others if they teach."""
        ...


def draw(
    labels: NDArray[np.float32], size: int, sampling: Sampling, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Positions of at most ``size`` candidates of a row, in random order.

    balanced: label values in turn, highest first, a random candidate of each, until the list is full;
    spread: a third from the 20 best labels, the rest from everywhere; top: the best labels; random: any;
    log_random: with probability proportional to 1/rank by label.
    """
    count = len(labels)
    if count <= size:
        return rng.permutation(count)
    order = np.argsort(-labels, kind="stable")
    if sampling == "top":
        chosen = order[:size]
    elif sampling == "random":
        chosen = rng.choice(count, size, replace=False)
    elif sampling == "log_random":
        weight = 1.0 / np.arange(1, count + 1)
        chosen = order[rng.choice(count, size, replace=False, p=weight / weight.sum())]
    elif sampling == "spread":
        first = rng.choice(order[:TOP], min(size // 3, TOP), replace=False)
        chosen = np.concatenate([first, rng.choice(np.setdiff1d(order, first), size - len(first), replace=False)])
    else:
        chosen = _balanced(labels, size, rng)
    return rng.permutation(chosen).astype(np.int64)


def _balanced(labels: NDArray[np.float32], size: int, rng: np.random.Generator) -> NDArray[np.int64]:
    shuffled = rng.permutation(len(labels))
    value = labels[shuffled]
    turn = np.empty(len(labels), np.int64)  # each candidate's count among those of the same label, from 0
    for level in np.unique(value):
        members = np.flatnonzero(value == level)
        turn[members] = np.arange(len(members))
    return shuffled[np.lexsort((-value, turn))[:size]]


class Mixture:
    """Lists of several sources, interleaved by share; item p is the same in every run with the same seed.

    Args:
        parts: sources; their rows are checked now.
        size: candidates per list.
        total: number of positions; each source is shuffled anew whenever it is used up. None: as many
            as ``passes`` times the rows of all sources together.

    Raises:
        UsageError: no source. InputError: a source without a row that can teach anything.
    """

    def __init__(
        self, parts: Sequence[Source], size: int, seed: int, total: int | None = None, passes: float = 1.0
    ) -> None:
        if not parts:
            raise UsageError("no training data: name at least one source by --data")
        if size < 2:
            raise UsageError(f"--list-size must be at least 2, not {size}")
        self.parts = tuple(parts)
        self.size = size
        self.seed = seed
        self.rows = [_useful(part) for part in self.parts]
        total = max(1, round(passes * sum(map(len, self.rows)))) if total is None else total
        rng = np.random.default_rng([seed, 0x5EED])
        share = np.array([part.share for part in self.parts])
        self.source = rng.choice(len(self.parts), total, p=share / share.sum())
        self.row = np.empty(total, np.int64)
        for number, rows in enumerate(self.rows):
            places = np.flatnonzero(self.source == number)
            rounds = -(-len(places) // len(rows))
            order = np.concatenate([rng.permutation(len(rows)) for _ in range(rounds)] or [np.empty(0, np.int64)])
            self.row[places] = order[: len(places)]

    def __len__(self) -> int:
        return len(self.row)

    def __getitem__(self, position: int) -> Example:
        part = self.parts[self.source[position]]
        row = self.rows[self.source[position]][self.row[position]]
        rng = np.random.default_rng([self.seed, position])
        chosen = draw(row.labels, self.size, part.sampling, rng)
        return Example(
            row.qid,
            row.query,
            tuple(row.docids[i] for i in chosen),
            row.texts(chosen),
            row.labels[chosen] * np.float32(part.scale),
        )

    def describe(self) -> list[dict[str, Any]]:
        """What each source holds: its spec, rows, candidates and the lists drawn from it."""
        return [
            {
                "source": str(part),
                "queries": len(rows),
                "candidates": rows.candidates,
                "lists": int((self.source == number).sum()),
            }
            for number, (part, rows) in enumerate(zip(self.parts, self.rows, strict=True))
        ]


def _useful(part: Source) -> Rows:
    if part.share <= 0:
        raise UsageError(f"{part}: share must be above 0, not {part.share}")
    found = part.rows()
    rows = found if isinstance(found, Rows) else Rows.teaching(found.__getitem__, range(len(found)))
    if not len(rows):
        raise InputError(f"{part}: no query has two candidates with different labels: nothing to learn from")
    if rows.left_out:
        log.info(
            "%s: %d of %d lists have one label only: left out", part, rows.left_out, rows.left_out + len(rows)
        )
    return rows
