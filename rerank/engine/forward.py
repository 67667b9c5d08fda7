"""A model's forward pass over the groups of a call: planned once, halved when out of memory."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from ..errors import UsageError
from ..stats import Stats
from ..vocabulary import Candidates, Groups
from .batches import Batch
from .model import Told
from .shards import Instructed, Reader, Shard, build_shard, prefetch, split_topics
from .stats import count_batch, count_shard
from .token_store import TokenStore

STORE_TOKENS = 1 << 26  # 256 MB of token ids are kept between calls
Wanted = Callable[[int], NDArray[np.bool_]]
"""Of a topic of the call, which of its groups are to be computed, (g,)."""


class Body(Reader, Protocol):
    """What is asked of a model here; `sparring.rerank.engine.model.Model` has it."""

    @property
    def name(self) -> str: ...
    @property
    def tokenizer(self) -> object: ...

    def forward(self, batch: Batch) -> torch.Tensor: ...


@dataclass(frozen=True, slots=True)
class Scored:
    """What a batch gave: ``values`` on the device, a row per sequence; None for a group that cannot fit alone."""

    shard: Shard
    groups: NDArray[np.int64]
    values: torch.Tensor | None
    sequences: int
    tokens: int


class Forward:
    """Runs a model over groups; token ids and the budget are kept from call to call.

    Args:
        token_budget: tokens of one batch; it is halved whenever a batch does not fit in memory.
    """

    def __init__(self, model: Body, device: torch.device, token_budget: int, stats: Stats) -> None:
        self.model, self.device, self.token_budget, self.stats = model, device, token_budget, stats
        self._store = self._new_store()

    def __call__(
        self, topics: Sequence[Candidates], groups: Sequence[Groups], wanted: Wanted
    ) -> Generator[Scored, None, None]:
        """Batches of all groups, without those that are not ``wanted``; close it to stop early."""
        work = prefetch(self._batches(topics, groups, wanted))
        try:
            for shard, chosen, batch in work:
                yield from self._score(shard, chosen, batch)
        finally:
            work.close()

    def _new_store(self) -> TokenStore:
        return TokenStore(self.model.tokenizer, self.model.truncation.max_length)

    def _batches(
        self, topics: Sequence[Candidates], groups: Sequence[Groups], wanted: Wanted
    ) -> Iterator[tuple[Shard, NDArray[np.int64], Batch]]:
        for chosen_topics in split_topics(topics, groups):
            if len(self._store.flat) > STORE_TOKENS:  # shards in flight keep the old one alive
                self._store = self._new_store()
            reader = self._reader(topics[chosen_topics[0]].instruction)
            shard = build_shard(self._store, reader, topics, groups, chosen_topics)
            count_shard(self.stats, shard)
            missing = np.concatenate([wanted(t) for t in chosen_topics])
            for chosen in shard.plan(self.token_budget):
                chosen = chosen[missing[chosen]]
                if len(chosen):
                    batch = shard.batch(chosen)
                    yield shard, chosen, batch.pin() if self.device.type == "cuda" else batch

    def _reader(self, instruction: str | None) -> Reader:
        """The model as it reads topics with this instruction; UsageError where it takes none."""
        model = self.model
        if instruction is None:
            return model
        if not isinstance(model, Told):
            raise UsageError(f"{model.name}: topics carry an instruction, and this model takes none")
        return Instructed(
            model.instructed(instruction), model.truncation, model.first_position, packed=model.packed
        )

    def _score(self, shard: Shard, chosen: NDArray[np.int64], batch: Batch) -> Iterator[Scored]:
        """Values of a batch; out of memory halves the budget, and a group that cannot fit alone has none."""
        count_batch(self.stats, batch, self.model.packed)
        size = len(batch.lengths), len(batch.input_ids)
        try:
            yield Scored(shard, chosen, self.model.forward(batch.to(self.device)), *size)
            return
        except torch.OutOfMemoryError:
            self.stats.retries += 1
        # outside the handler, whose traceback would keep the failed batch's memory alive
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        if len(chosen) == 1:
            yield Scored(shard, chosen, None, *size)
            return
        self.token_budget = max(1, min(self.token_budget, len(batch.input_ids)) // 2)
        for half in np.array_split(chosen, 2):
            yield from self._score(shard, half, shard.batch(half))
