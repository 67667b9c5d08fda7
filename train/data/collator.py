"""Lists become packed batches of a token budget, as the engine makes them, in groups of the ranker's width."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import expit

from ...rerank.engine.shards import build_shard
from ...rerank.engine.templates import Template, Truncation
from ...rerank.engine.token_store import TokenStore
from ...rerank.rounds import Play, topic_rng
from ...rerank.vocabulary import Candidates, Groups, Schedule
from .mixture import Example
from .near_duplicates import near_duplicates

STORE_TOKENS = 50_000_000
"""The store of token ids is emptied when it is larger: 200 MB."""


@dataclass(frozen=True, slots=True)
class Layout:
    """How a ranker reads its input.

    Args:
        template, truncation, first_position, packed: as of a `sparring.rerank.engine.model.Model`.
        width: passages in one group: 1, 2, or None for a whole list.
        alone: every passage is read by itself, and groups are made of what was read.
        query_alone: texts are read without a query, and the query is the first text of its list.
        twins: one passage of every list is read twice, for the detection of duplicates.
    """

    template: Template
    truncation: Truncation
    first_position: int
    packed: bool
    width: int | None = 1
    alone: bool = True
    query_alone: bool = False
    twins: bool = False


class Collator:
    """Callable for a DataLoader: examples to batches, order, table, labels, mask, owner and members, by name.

    Batches hold every sequence once, longest first, at most ``budget`` tokens each: they are filled by what is
    computed, so that grouping lists of like length would gain nothing. Sequence s of all batches is row
    ``order[s]``, (S,). Group g, a list or a pair, has the members ``table[g]``, rows or -1; labels and mask
    are (G, w). The group belongs to list ``owner[g]``, whose places ``members[g]`` it holds, -1 under the padding.

    Args:
        sampler: of rankers of width 2, which pairs of a list are looked at; see `sampled_pairs`.
        seed: of the sampler.
        novelty: labels are (G, w, 2), with the number of a passage's group of near-duplicates beside its label, as
            the loss ``duplicate_ranknet`` takes them.
    """

    def __init__(
        self,
        tokenizer: Any,
        layout: Layout,
        budget: int,
        sampler: Schedule | None = None,
        seed: int = 0,
        novelty: bool = False,
    ) -> None:
        self.layout = layout
        self.budget = budget
        self.sampler = sampler
        self.seed = seed
        self.novelty = novelty
        self.store = TokenStore(tokenizer, layout.truncation.max_length)

    def __call__(self, examples: Sequence[Example]) -> dict[str, Any]:
        topics = [Candidates(e.qid, e.query, e.docids, e.texts, e.labels.astype(np.float64)) for e in examples]
        if self.layout.twins:
            topics = [with_twin(topic, self.seed) for topic in topics]
        groups = [self._groups(topic) for topic in topics]
        inputs = self.inputs(topics, groups)
        members = stack(groups)
        owner = np.repeat(np.arange(len(topics)), [len(rows) for rows in groups])
        labels = stack([topic.scores[None] for topic in topics])[owner[:, None], np.maximum(members, 0)]
        mask = members >= 0
        values = torch.from_numpy(np.where(mask, labels, 0).astype(np.float32))
        if self.layout.twins:
            values = torch.stack([values, torch.from_numpy(twins(topics, members))], dim=2)
        elif self.novelty:
            found = stack([near_duplicates(topic.texts)[None] for topic in topics])
            values = torch.stack([values, torch.from_numpy(found.astype(np.float32))], dim=2)
        placed = {"owner": torch.from_numpy(owner), "members": torch.from_numpy(members.astype(np.int64))}
        return inputs | placed | {"labels": values, "mask": torch.from_numpy(mask)}

    def inputs(self, topics: Sequence[Candidates], groups: Sequence[Groups]) -> dict[str, Any]:
        """``batches``, ``order`` and ``table`` of the groups of each topic, groups in the order given."""
        if len(self.store.flat) > STORE_TOKENS:
            self.store.clear()
        layout = self.layout
        read = [np.arange(len(topic), dtype=np.int32)[:, None] for topic in topics] if layout.alone else groups
        if layout.query_alone:
            topics = [replace(topic, texts=(topic.query, *topic.texts)) for topic in topics]
            read = [np.arange(len(rows) + 1, dtype=np.int32)[:, None] for rows in read]
        shard = build_shard(self.store, layout, topics, read, range(len(topics)))
        parts = list(shard.plan(self.budget))
        order = np.concatenate([shard.rows(part) for part in parts])
        return {
            "batches": [shard.batch(part) for part in parts],
            "order": torch.from_numpy(order),
            "table": torch.from_numpy(self._table(groups, [len(rows) for rows in read])),
        }

    def _table(self, groups: Sequence[Groups], sizes: Sequence[int]) -> NDArray[np.int64]:
        """The rows of each group's members, (G, w); a query that is read alone stands first, (G, 1 + w)."""
        if self.layout.alone:
            starts = np.cumsum(sizes) - sizes
            first = int(self.layout.query_alone)
            tables = [
                np.where(rows >= 0, rows + start + first, -1) for rows, start in zip(groups, starts, strict=True)
            ]
            if self.layout.query_alone:
                tables = [
                    np.concatenate([np.full((len(rows), 1), start), rows], axis=1)
                    for rows, start in zip(tables, starts, strict=True)
                ]
            return stack(tables)
        if not self.layout.template.per_member:  # a group is one sequence
            return np.arange(sum(sizes), dtype=np.int64)[:, None]
        members = stack(groups)
        table = np.full(members.shape, -1, np.int64)
        table[members >= 0] = np.arange((members >= 0).sum())
        return table

    def _groups(self, topic: Candidates) -> Groups:
        if self.layout.width == 2 and self.sampler is not None:
            return sampled_pairs(self.sampler, topic, self.seed)
        return np.arange(len(topic), dtype=np.int32)[None]


def stack(parts: Sequence[NDArray[Any]]) -> NDArray[Any]:
    """Rows of several tables under each other, -1 where a table is narrower than the widest."""
    width = max(part.shape[1] for part in parts)
    return np.concatenate(
        [np.pad(part, ((0, 0), (0, width - part.shape[1])), constant_values=-1) for part in parts]
    )


def sampled_pairs(sampler: Schedule, topic: Candidates, seed: int) -> Groups:
    """The pairs that a schedule asks of a list, (p, 2), at least one; the same for the same list and seed.

    The list stands in the order of its labels, so that a schedule of rank neighbours asks the most confusable
    pairs; one that looks at answers gets the labels' own. Pairs are shown in random order, unless the schedule
    chose theirs on purpose.
    """
    rng = topic_rng(seed, " ".join((topic.qid, *topic.docids)))
    ranking = np.argsort(-topic.scores, kind="stable").astype(np.int32)
    labels = topic.scores[ranking]
    play = Play(replace(topic, scores=labels), sampler, 2, "random", rng)
    asked = []
    groups = play.start()
    while groups is not None:
        asked.append(groups)
        groups = play.answer(expit(labels[groups[:, 0]] - labels[groups[:, 1]]))
    found = np.concatenate(asked) if asked else rng.permutation(len(ranking))[None, :2]
    return ranking[found]


def with_twin(topic: Candidates, seed: int) -> Candidates:
    """The list with one of its passages again at its end."""
    place = int(topic_rng(seed, " ".join((topic.qid, *topic.docids))).integers(len(topic)))
    return Candidates(
        topic.qid,
        topic.query,
        (*topic.docids, topic.docids[place]),
        (*topic.texts, topic.texts[place]),
        np.append(topic.scores, topic.scores[place]),
    )


def twins(topics: Sequence[Candidates], members: Groups) -> NDArray[np.float32]:
    """Whether a passage stands twice in its list, (G, w): 2 for the second of them, which only duplicates."""
    said = np.zeros(members.shape, np.float32)
    for row, topic in zip(said, topics, strict=True):
        last = len(topic) - 1
        row[topic.docids.index(topic.docids[last])], row[last] = 1, 2
    return said
