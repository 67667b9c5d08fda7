"""Keys of groups, tables of known outcomes, and one scorer call laid out flat: vectorised, no work per group."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ..vocabulary import Candidates, Groups
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
        if topic.instruction is not None:  # another instruction is another question
            told = text_hashes([topic.instruction])
            self.query = group_keys(self.query[None], told, np.zeros((1, 1), np.int64))[0]
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
