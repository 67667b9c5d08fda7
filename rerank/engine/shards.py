"""The work of one call, in shards of bounded memory: groups become sequences, sequences become planned batches."""

from __future__ import annotations

import queue
import threading
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from ..arrays import ragged
from ..vocabulary import Candidates, Groups
from .batches import Batch, Sequences, build_sequences, gather, plan
from .templates import Template, Text, Truncation
from .token_store import TokenStore

T = TypeVar("T")
SHARD_MEMBERS = 1 << 18
"""Group members of the topics that are tokenised, sorted and planned together."""


class Reader(Protocol):
    """How a `sparring.rerank.engine.model.Model` reads its input."""

    @property
    def template(self) -> Template: ...
    @property
    def truncation(self) -> Truncation: ...
    @property
    def first_position(self) -> int: ...
    @property
    def packed(self) -> bool: ...


@dataclass(frozen=True, slots=True)
class Instructed:
    """A `Reader` with another template: that of an instruction which topics carry."""

    template: Template
    truncation: Truncation
    first_position: int
    packed: bool


@dataclass(frozen=True, slots=True)
class Shard:
    """Groups of neighbouring topics, laid out as sequences.

    Args:
        topics: indices of the topics in the call, (t,); `edges` (t + 1,) are their groups inside the shard.
        column: the place of a sequence's member in its group, (S,); 0 where the group is one sequence.
        first: group g owns sequences ``first[g]:first[g + 1]``, (G + 1,).
        passages: store entries of the passages of a sequence, (S, p).
        empty: group members without text.
    """

    store: TokenStore
    model: Reader
    topics: NDArray[np.int64]
    edges: NDArray[np.int64]
    sequences: Sequences
    column: NDArray[np.int64]
    first: NDArray[np.int64]
    passages: NDArray[np.int64]
    empty: int

    def __len__(self) -> int:
        return int(self.edges[-1])

    def rows(self, groups: NDArray[np.int64]) -> NDArray[np.int64]:
        """The sequences of some groups, group after group."""
        counts = self.first[groups + 1] - self.first[groups]
        return ragged(self.first[groups], counts)

    def batch(self, groups: NDArray[np.int64]) -> Batch:
        """The batch of some groups."""
        model = self.model
        return gather(self.store, model.template, self.sequences, self.rows(groups), model.first_position)

    def owner(self, groups: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Topic index in the call and row inside that topic, of groups of the shard."""
        place = np.searchsorted(self.edges, groups, side="right") - 1
        return self.topics[place], groups - self.edges[place]

    def plan(self, budget: int) -> Iterator[NDArray[np.int64]]:
        """Groups of each batch, longest first."""
        tokens = self.sequences.tokens
        starts, members = self.first[:-1], np.diff(self.first)
        return plan(
            np.add.reduceat(tokens, starts),
            np.maximum.reduceat(tokens, starts),
            members,
            budget,
            not self.model.packed,
            *self._by_query(starts),
        )

    def _by_query(self, starts: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]] | tuple[()]:
        """Of each group its query and the tokens before its passages, where the model computes these once."""
        template = self.model.template
        if not (template.by_query and self.model.packed):
            return ()
        return self.sequences.query[starts], self.sequences.pieces[starts, : template.beginning].sum(axis=1)


def split_topics(topics: Sequence[Candidates], groups: Sequence[Groups]) -> Iterator[list[int]]:
    """Indices of neighbouring topics with groups, of one instruction, about `SHARD_MEMBERS` members at a time."""
    chosen: list[int] = []
    size = 0
    for index, rows in enumerate(groups):
        if len(rows):
            if chosen and topics[index].instruction != topics[chosen[0]].instruction:
                yield chosen
                chosen, size = [], 0
            chosen.append(index)
            size += rows.size
        if size >= SHARD_MEMBERS:
            yield chosen
            chosen, size = [], 0
    if chosen:
        yield chosen


def build_shard(
    store: TokenStore, model: Reader, topics: Sequence[Candidates], groups: Sequence[Groups], chosen: Sequence[int]
) -> Shard:
    """Tokenises the texts that the chosen topics' groups name and lays out their sequences."""
    sizes = np.array([len(groups[t]) for t in chosen], np.int64)
    edges = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    needed = [np.unique(groups[t][groups[t] >= 0]) for t in chosen]
    texts = [
        topics[t].texts[i] or "" for t, positions in zip(chosen, needed, strict=True) for i in positions.tolist()
    ]
    offsets = np.concatenate([[0], np.cumsum([len(positions) for positions in needed])])
    blank = np.fromiter((not text or text.isspace() for text in texts), np.bool_, len(texts))

    member_text, member_group, member_column = [], [], []
    for place, t in enumerate(chosen):
        row, column = np.nonzero(groups[t] >= 0)
        positions = groups[t][row, column]
        member_text.append(offsets[place] + np.searchsorted(needed[place], positions))
        member_group.append(row + edges[place])
        member_column.append(column)
    text_of, group_of = np.concatenate(member_text), np.concatenate(member_group)

    passage_slots = [s for s in model.template.slots if isinstance(s, Text) and s.role == "passage"]
    query_slot = next(
        (s for s in model.template.slots if isinstance(s, Text) and s.role == "query"), Text("query")
    )
    passage_slots.sort(key=lambda slot: slot.index)
    count = len(passage_slots)
    entries = {}
    for slot in passage_slots:
        key = (slot.prefix, slot.suffix, slot.strip)
        if key not in entries:
            entries[key] = store.entries([slot.render(text) for text in texts] if any(key) else texts)
    table = np.stack([entries[slot.prefix, slot.suffix, slot.strip] for slot in passage_slots], axis=1)
    query_entries = store.entries([query_slot.render(topics[t].query) for t in chosen])

    passages = table[text_of.reshape(-1, count), np.arange(count)]
    group = group_of[::count]
    topic_of = np.searchsorted(edges, group, side="right") - 1
    sequences = build_sequences(
        store, model.template, model.truncation, query_entries[topic_of], passages, group.astype(np.int64)
    )
    return Shard(
        store=store,
        model=model,
        topics=np.asarray(chosen, np.int64),
        edges=edges,
        sequences=sequences,
        column=np.concatenate(member_column)[::count].astype(np.int64),
        first=np.concatenate([[0], np.cumsum(np.bincount(group, minlength=edges[-1]))]).astype(np.int64),
        passages=passages,
        empty=int(blank[text_of].sum()),
    )


def prefetch(items: Iterator[T], depth: int = 3) -> Generator[T, None, None]:
    """Runs an iterator in a thread, ``depth`` items ahead; its exceptions come out here."""
    ready: queue.Queue[tuple[bool, object]] = queue.Queue(depth)
    stop = threading.Event()

    def put(message: tuple[bool, object]) -> bool:
        while not stop.is_set():
            try:
                ready.put(message, timeout=0.2)
                return True
            except queue.Full:
                continue
        return False

    def work() -> None:
        try:
            for item in items:
                if not put((True, item)):
                    return
            put((False, None))
        except BaseException as error:  # whatever it is, it is raised in the consumer's thread
            put((False, error))

    thread = threading.Thread(target=work, name="sparring-batches", daemon=True)
    thread.start()
    try:
        while True:
            alive, item = ready.get()
            if alive:
                yield item  # type: ignore[misc]
            elif isinstance(item, BaseException):
                raise item
            else:
                return
    finally:
        stop.set()
        thread.join()
