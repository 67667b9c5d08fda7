"""The append-only store of outcomes: what a model said once it is never asked again, and a killed run goes on.

A group is known by the scorer's fingerprint, its query and its members' texts in the order shown (128-bit
hashes), so a changed model, dtype, template or text is another key and never a stale hit. Ids play no part: the
same pair of texts in another collection is a hit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from ..data.locks import Lock
from ..errors import InputError, SparringError
from ..stats import Stats
from ..vocabulary import Candidates, Groups, Outcomes, Scorer, Sink
from .call import Call
from .keys import HashedTopic, Table
from .store import Configuration, Keys, Pages, Part


class Ledger:
    """An open ledger; use it as a context manager, so that leaving the block commits what is pending.

    Two processes never write one ledger: `open` waits for the other, or refuses.
    """

    def __init__(self, pages: Pages, lock: Lock) -> None:
        self._pages = pages
        self._lock = lock
        self.path = pages.path

    @classmethod
    def open(cls, path: Path, wait_s: float = 0.0) -> Self:
        """Opens or creates the file; what a killed process left half-written is dropped.

        Raises:
            LockedError: another process holds it, and still does after ``wait_s`` seconds.
            InputError: the file is damaged or no ledger.
            StorageError: it cannot be written.
        """
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            lock = Lock(path, wait_s)
        except OSError as error:
            raise SparringError(f"{path}: cannot write the ledger there ({error.strerror})") from None
        try:
            return cls(Pages(path), lock)
        except BaseException:
            lock.release()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Commits what is pending, closes the file and lets others have it."""
        try:
            self._pages.close()
        finally:
            self._lock.release()

    def flush(self) -> None:
        """Commits what is pending; callable from any thread."""
        self._pages.flush()

    def describe(self) -> list[Configuration]:
        """What the ledger holds: every configuration with its readable fields and its number of groups."""
        return self._pages.configurations()

    def wrap(self, scorer: Scorer, fresh: bool = False) -> Recorded:
        """A scorer that looks every group up first and asks ``scorer`` for the missing ones only.

        Args:
            fresh: begin a new configuration in a ledger that holds others. Without it a ledger whose outcomes
                all come from other configurations is refused, because a run that was meant to go on would
                silently begin anew.

        Raises:
            InputError: nothing here was made by this scorer; the message names the fields that differ.
        """
        fields = scorer.description
        others = [known for known in self.describe() if known.groups]
        if not fresh and others and all(known.fingerprint != scorer.fingerprint for known in others):
            nearest = min(others, key=lambda known: len(_differences(known.fields, fields)))
            changed = "; ".join(_differences(nearest.fields, fields)) or "fingerprint"
            raise InputError(
                f"{self.path}: made by another configuration: {changed}. Name another ledger, or add --fresh to "
                "store the new outcomes beside the old ones"
            )
        return Recorded(scorer, self._pages, self._pages.configuration(scorer.fingerprint, fields))


class Recorded:
    """A `Scorer` in front of another: answers from the ledger, asks for the rest, records as answers arrive.

    The scorer is given all groups with what is known of them: it plans the work of an uninterrupted run and leaves
    out what is known, so that a resumed run ends in the same bits. Equal groups are asked once; rows with a NaN
    (quarantined) are not stored.

    Attributes:
        hits, asked: groups answered from the ledger (or twice in one call), and groups put to the scorer.
    """

    def __init__(self, scorer: Scorer, pages: Pages, configuration: int) -> None:
        self.width = scorer.width
        self.fingerprint = scorer.fingerprint
        self.hits = self.asked = 0
        self._scorer = scorer
        self._pages = pages
        self._configuration = configuration
        self._skipped: list[Asked] = []
        self._live: dict[int, HashedTopic] = {}
        self._known: dict[int, Table] = {}

    @property
    def description(self) -> Mapping[str, object]:
        """That of the scorer behind it."""
        return self._scorer.description

    @property
    def stats(self) -> Stats:
        """Those of the scorer behind it: what came from the ledger is not counted."""
        return self._scorer.stats

    @property
    def remembers(self) -> bool:
        """As the scorer behind it."""
        return self._scorer.remembers

    def close(self) -> None:
        """Closes the scorer behind it; the ledger is closed by whoever opened it."""
        self._scorer.close()

    def __call__(
        self,
        topics: Sequence[Candidates],
        groups: Sequence[Groups],
        sink: Sink | None = None,
        known: Sequence[Outcomes] | None = None,
    ) -> list[Outcomes]:
        """Outcomes of all groups; see `sparring.rerank.vocabulary.Scorer`."""
        self._settle(topics)
        call = Call([self._live[id(topic)] for topic in topics], groups, self.width)
        if known is not None:
            call.know(known)
        given = call.done.copy()
        for size, rows in call.by_size():
            if size in self._known:
                found, values = self._known[size].find(call.keys[rows])
                call.fill(rows[found], values)
        found_here = np.flatnonzero(call.done & ~given)
        if sink is not None and len(found_here):
            call.report(sink, found_here)
        distinct = call.distinct()
        missing = distinct[~call.done[distinct]]
        self.asked += len(missing)
        self.hits += len(call.done) - len(missing)
        if not len(missing):
            if self._scorer.remembers:
                self._skipped.append(self._parts(topics, groups, call, distinct))
        else:
            for before in self._skipped:  # what an uninterrupted run had computed by now
                self._scorer(before.topics, before.groups, None, before.known)
            self._skipped.clear()
            self._ask(topics, groups, call, distinct, sink)
            for size, rows in call.by_size(missing):
                rows, values = _whole(rows, call.values(rows, size))
                self._known.setdefault(size, Table()).add(call.keys[rows], values)
        return call.answers(groups)

    def _settle(self, topics: Sequence[Candidates]) -> None:
        """Keeps the hashes and stored outcomes of the topics at work, and of no others."""
        if all(id(topic) in self._live for topic in topics):
            return
        self._skipped.clear()
        self._live = {id(topic): HashedTopic(topic) for topic in topics}
        self._known = {}
        pages: dict[int, list[tuple[Keys, NDArray[np.float64]]]] = {}
        numbers = np.array([entry.number for entry in self._live.values()], np.int64)
        for keys, values in self._pages.load(self._configuration, numbers):
            pages.setdefault(values.shape[1], []).append((keys, values))
        for size, parts in pages.items():
            self._known[size] = Table()
            self._known[size].add(*(np.concatenate(column) for column in zip(*parts, strict=True)))

    def _parts(
        self, topics: Sequence[Candidates], groups: Sequence[Groups], call: Call, ask: NDArray[np.int64]
    ) -> Asked:
        """The groups ``ask`` of a call, by topic, with what is known of them."""
        owners, starts = np.unique(call.topic[ask], return_index=True)
        parts = np.split(ask, starts[1:])
        rows = [groups[owner][call.row[part]] for owner, part in zip(owners.tolist(), parts, strict=True)]
        known = [call.shaped(group, part) for group, part in zip(rows, parts, strict=True)]
        return Asked([topics[owner] for owner in owners.tolist()], rows, known, starts, parts)

    def _ask(
        self,
        topics: Sequence[Candidates],
        groups: Sequence[Groups],
        call: Call,
        ask: NDArray[np.int64],
        sink: Sink | None,
    ) -> None:
        asked = self._parts(topics, groups, call, ask)
        starts, parts = asked.starts, asked.parts

        def record(topic: NDArray[np.int64], row: NDArray[np.int64], outcomes: Outcomes) -> None:
            rows = ask[starts[topic] + row]
            call.take(rows, outcomes)
            self._store(call, rows)
            if sink is not None:
                call.report(sink, rows)

        answers = self._scorer(asked.topics, asked.groups, record, asked.known)
        for index, (part, outcomes) in enumerate(zip(parts, answers, strict=True)):
            late = np.flatnonzero(~call.done[part])  # a scorer need not report as it goes
            if len(late):
                record(np.full(len(late), index), late, outcomes[late])
        copies = call.copy_equals()
        if sink is not None and len(copies):
            call.report(sink, copies)

    def _store(self, call: Call, rows: NDArray[np.int64]) -> None:
        parts: list[Part] = []
        for size, part in call.by_size(rows):
            part, values = _whole(part, call.values(part, size))
            if size and len(part):
                parts.append((call.number[part], call.keys[part], values))
        if parts:
            self._pages.append(self._configuration, parts)


@dataclass(frozen=True, slots=True)
class Asked:
    """A call as it is put to the scorer; ``parts`` are rows of the ledger's call, a topic each, at ``starts``."""

    topics: list[Candidates]
    groups: list[Groups]
    known: list[Outcomes]
    starts: NDArray[np.int64]
    parts: list[NDArray[np.int64]]


def _whole(rows: NDArray[np.int64], values: NDArray[np.float64]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """The groups that have an answer: a NaN anywhere means that the model had none."""
    missing = np.isnan(values)
    if not missing.any():
        return rows, values
    keep = ~missing.any(axis=1)
    return rows[keep], values[keep]


def _differences(before: Mapping[str, object], now: Mapping[str, object]) -> list[str]:
    """Fields that differ, as "dtype is bfloat16 there and float32 here"."""
    names = [*before, *(name for name in now if name not in before)]
    plain = {name: (_plain(before.get(name)), _plain(now.get(name))) for name in names}
    return [f"{name} is {there} there and {here} here" for name, (there, here) in plain.items() if there != here]


def _plain(value: object) -> str:
    return "absent" if value is None else str(value)
