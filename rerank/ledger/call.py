"""One scorer call laid out flat: what is asked, what is known, what has been answered."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from ..vocabulary import Groups, Outcomes, Sink, unknown_rows
from .keys import HashedTopic, Rows, Values, group_keys


class Call:
    """The groups of one scorer call, one after the other over all topics.

    Attributes:
        topic, row: where each group comes from, (G,).
        number: where its outcome belongs in the ledger, (G,).
        keys: (G, 2).
        done: which groups have their answer, (G,).
    """

    def __init__(self, hashed: Sequence[HashedTopic], groups: Sequence[Groups], width: int | None) -> None:
        counts = [len(part) for part in groups]
        self._width = width
        self.topic = np.repeat(np.arange(len(groups)), counts)
        self._ends = np.cumsum([0, *counts])
        self.number = np.repeat(np.array([entry.number for entry in hashed], np.int64), counts)
        self.row = np.arange(self._ends[-1]) - self._ends[self.topic]
        widest = max((part.shape[1] for part in groups), default=1)
        self._members = np.full((len(self.topic), widest), -1, np.int64)
        texts, offset = [np.empty((0, 2), np.uint64)], 0
        for index, (entry, part) in enumerate(zip(hashed, groups, strict=True)):
            texts.append(entry.texts(part))
            place = self._members[self._ends[index] : self._ends[index + 1], : part.shape[1]]
            np.add(part, offset, out=place, where=part >= 0)
            offset += len(entry.topic)
        queries = np.array([entry.query for entry in hashed], np.uint64).reshape(-1, 2)
        self.keys = group_keys(queries[self.topic], np.concatenate(texts), self._members)
        self._sizes = np.ones(len(self.topic), np.int64)
        if width != 2:
            self._sizes = (self._members >= 0).sum(axis=1)
        self._said = np.full((len(self.topic), int(self._sizes.max(initial=1))), np.nan)
        self.done = np.zeros(len(self.topic), np.bool_)
        self._like = np.arange(len(self.topic))

    def by_size(self, rows: Rows | None = None) -> Iterator[tuple[int, Rows]]:
        """The groups (or some of them) by the number of values in their outcome."""
        chosen = np.arange(len(self.topic)) if rows is None else rows
        sizes = self._sizes[chosen]
        if len(sizes) and (sizes == sizes[0]).all():
            yield int(sizes[0]), chosen
            return
        for size in np.unique(sizes).tolist():
            yield size, chosen[sizes == size]

    def fill(self, rows: Rows, values: Values) -> None:
        """Answers of groups of one size, (g, size), members in the order shown."""
        self._said[rows, : values.shape[1]] = values
        self.done[rows] = True

    def take(self, rows: Rows, outcomes: Outcomes) -> None:
        """Answers as a scorer gives them: (g,) for pairs, else (g, width) with NaN where a group is padded."""
        table = outcomes.reshape(len(rows), -1)
        if self._width == 2 or self._members.shape[1] == 1:
            self._said[rows, :1] = table[:, :1]
        else:
            columns = min(table.shape[1], self._members.shape[1])
            real = self._members[rows, :columns] >= 0
            packed = np.full((len(rows), self._said.shape[1]), np.nan)
            packed[np.arange(packed.shape[1]) < self._sizes[rows, None]] = table[:, :columns][real]
            self._said[rows] = packed
        self.done[rows] = True

    def know(self, known: Sequence[Outcomes]) -> None:
        """Answers that the caller has already, NaN where there are none."""
        for index, said in enumerate(known):
            rows = np.flatnonzero(~unknown_rows(said))
            self.take(self._ends[index] + rows, said[rows])

    def values(self, rows: Rows, size: int) -> Values:
        """The answers of groups of one size, (g, size)."""
        said = self._said[rows]
        return said if said.shape[1] == size else said[:, :size]

    def distinct(self) -> Rows:
        """One group of each key, the first, ascending; the others take its answer in `copy_equals`."""
        lane = np.sort(self.keys[:, 0])
        if (lane[1:] == lane[:-1]).any():
            _, first, inverse = np.unique(self.keys[:, 0], return_index=True, return_inverse=True)
            like = first[inverse]
            same = (self.keys[like] == self.keys).all(axis=1)
            self._like[same] = like[same]
        return np.flatnonzero(self._like == np.arange(len(self._like)))

    def copy_equals(self) -> Rows:
        """Hands answers on to equal groups; returns those that had none."""
        rows = np.flatnonzero(self._like != np.arange(len(self._like)))
        new = rows[~self.done[rows]]
        self._said[rows] = self._said[self._like[rows]]
        self.done[rows] = True
        return new

    def report(self, sink: Sink, rows: Rows) -> None:
        """Tells a listener of these groups."""
        sink(self.topic[rows], self.row[rows], self.shaped(self._members[rows], rows))

    def answers(self, groups: Sequence[Groups]) -> list[Outcomes]:
        """One `Outcomes` per topic, rows in the order asked."""
        spans = zip(self._ends, self._ends[1:], groups, strict=False)
        return [self.shaped(part, np.arange(start, end)) for start, end, part in spans]

    def shaped(self, part: Groups, rows: Rows) -> Outcomes:
        """Answers in the shape of their groups ``part``: (g,) for pairs, else (g, width); NaN is none."""
        if self._width == 2:
            return np.asarray(self._said[rows, 0])
        shaped = np.full(part.shape, np.nan)
        shaped[part >= 0] = self._said[rows][np.arange(self._said.shape[1]) < self._sizes[rows, None]]
        return shaped
