"""Keys of groups, tables of known outcomes, and one scorer call laid out flat: vectorised, no work per group."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from ..vocabulary import Candidates, Groups, Outcomes, Sink
from .store import Keys

Rows = NDArray[np.int64]
Values = NDArray[np.float64]


class HashedTopic:
    """A topic's query and texts as 128-bit hashes, each computed once and only if a group shows the text.

    ``number`` is 63 bits of the query's hash: where the topic's outcomes lie in the ledger.
    """

    def __init__(self, topic: Candidates) -> None:
        self.topic = topic
        self.query = text_hashes([topic.query])[0]
        self.number = int(self.query[0] >> np.uint64(1))
        self._texts = np.empty((len(topic), 2), np.uint64)
        self._ready = np.zeros(len(topic), np.bool_)

    def texts(self, shown: Groups) -> Keys:
        """Hashes of all candidates, (n, 2), valid at the positions in ``shown``."""
        wanted = np.zeros(len(self._ready) + 1, np.bool_)
        wanted[shown.ravel()] = True  # -1, padding, falls on the spare last cell
        new = np.flatnonzero(wanted[:-1] & ~self._ready)
        if len(new):
            texts = self.topic.texts
            self._texts[new] = text_hashes([texts[position] for position in new.tolist()])
            self._ready[new] = True
        return self._texts


def text_hashes(texts: Sequence[str | None]) -> Keys:
    """The first 128 bits of each text's SHA-256 (processors have instructions for it), (n, 2); None is ""."""
    sha256 = hashlib.sha256
    digests = b"".join([sha256((text or "").encode("utf-8", "surrogatepass")).digest() for text in texts])
    return np.frombuffer(digests, np.uint64).reshape(len(texts), 4)[:, :2]


def group_keys(queries: Keys, texts: Keys, members: NDArray[np.int64]) -> Keys:
    """Keys of groups: queries (g, 2) and rows of ``texts`` named by members (g, w), -1 for none, folded in order.

    Each step is a bijection of the state for a given text and of the text for a given state (the finaliser of
    SplitMix64 over an exclusive or), so different hashes meet no more often than chance has it: 2^-128 per pair.
    """
    state = queries.copy()
    for column in members.T:
        real = column >= 0
        if real.all():
            state = _mixed(state ^ texts[column])
        else:
            state[real] = _mixed(state[real] ^ texts[column[real]])
    return state


def _mixed(z: Keys) -> Keys:
    z += np.uint64(0x9E3779B97F4A7C15)
    z ^= z >> np.uint64(30)
    z *= np.uint64(0xBF58476D1CE4E5B9)
    z ^= z >> np.uint64(27)
    z *= np.uint64(0x94D049BB133111EB)
    z ^= z >> np.uint64(31)
    return z


class Table:
    """Outcomes of one size by key: sorted runs, merged as they grow, so that adding costs O(log) per entry."""

    def __init__(self) -> None:
        self._runs: list[tuple[Keys, Values]] = []

    def add(self, keys: Keys, values: Values) -> None:
        """Adds outcomes (g, k); where a key is there already, the older one may answer."""
        if not len(keys):
            return
        self._runs.append(_sorted(keys, values))
        while len(self._runs) > 1 and 2 * len(self._runs[-1][0]) > len(self._runs[-2][0]):
            older, newer = self._runs[-2:]
            merged = (np.concatenate([a, b]) for a, b in zip(older, newer, strict=True))
            self._runs[-2:] = [_sorted(*merged)]

    def find(self, keys: Keys) -> tuple[Rows, Values]:
        """Which of ``keys`` are known (indices, ascending) and their outcomes."""
        where, what = [np.empty(0, np.int64)], []
        open_ = np.arange(len(keys))
        for known, values in self._runs:
            spot = np.searchsorted(known[:, 0], keys[open_, 0])
            spot[spot == len(known)] = 0
            hit = (known[spot] == keys[open_]).all(axis=1)
            where.append(open_[hit])
            what.append(values[spot[hit]])
            open_ = open_[~hit]
        rows = np.concatenate(where)
        order = np.argsort(rows)
        return rows[order], np.concatenate(what)[order] if what else np.empty((0, 0))


def _sorted(keys: Keys, values: Values) -> tuple[Keys, Values]:
    order = np.argsort(keys[:, 0])
    return keys[order], values[order]


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
