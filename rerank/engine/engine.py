"""The engine: groups of candidates of any topics in, raw scores out, in batches of a token budget.

It knows no TREC, no schedule and no file: topics, groups and outcomes are those of `sparring.rerank.vocabulary`.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import numpy as np
import torch
from numpy.typing import NDArray

from .. import console
from ..errors import SparringError, UsageError
from ..vocabulary import Candidates, Groups, Outcomes, Sink, keep
from .batches import Batch
from .devices import choose_device, choose_dtype, default_budget, dtype_name
from .model import Model
from .self_check import SelfCheck
from .shards import Shard, build_shard, prefetch, split_topics
from .stats import EngineStats
from .token_store import TokenStore

STORE_TOKENS = 1 << 26  # 256 MB of token ids are kept between calls
COMMIT_GROUPS, COMMIT_SECONDS = 4096, 1.0


class Engine:
    """Scores groups with a model; a `sparring.rerank.vocabulary.Scorer`.

    Each text is tokenised once, inputs are assembled from ids in a thread, sorted by true length across topics and
    filled to ``token_budget``. Scores do not depend on batch, order or neighbours (<= 1e-5 in fp32).

    Args:
        model: from `sparring.rerank.models.loading.load`.
        device: auto, cpu, cuda or cuda:N.
        dtype: auto (bf16 body and fp32 head where the hardware has bf16, else fp32), float32, bfloat16, float16.
        token_budget: tokens of one batch; by default what suits the device.
        deterministic: bit-identical scores from run to run.
        progress: show a bar on terminals.
    """

    def __init__(
        self,
        model: Model,
        *,
        device: str = "auto",
        dtype: str = "auto",
        token_budget: int | None = None,
        deterministic: bool = False,
        progress: bool = True,
    ) -> None:
        if token_budget is not None and token_budget < 1:
            raise UsageError(f"token budget {token_budget} must be at least 1")
        self.model = model
        self.width = model.width
        self.device = choose_device(device)
        self.dtype = choose_dtype(dtype, self.device)
        self.deterministic = deterministic
        self.token_budget = token_budget or default_budget(self.device)
        self.fingerprint = hashlib.sha256(f"{model.fingerprint} {dtype_name(self.dtype)}".encode()).hexdigest()
        self.stats = EngineStats()
        self._progress = progress
        self._check = SelfCheck(model.name)
        self._store = self._new_store()
        _check_precision(model, self.dtype)
        model.place(self.device, self.dtype, deterministic)

    @property
    def description(self) -> dict[str, object]:
        """What the fingerprint stands for, in readable fields."""
        return {
            "model": self.model.name,
            "weights, config and input": self.model.fingerprint[:16],
            "template": str(self.model.template),
            "truncation": str(self.model.truncation),
            "dtype": dtype_name(self.dtype),
        }

    def __call__(
        self,
        topics: Sequence[Candidates],
        groups: Sequence[Groups],
        sink: Sink | None = None,
        known: Sequence[Outcomes] | None = None,
    ) -> list[Outcomes]:
        """Outcomes of ``groups[t]`` for each topic: pairs (g,), else (g, width); rows in the order asked.

        Args:
            sink: hears outcomes as soon as they are on the host.
            known: outcomes of an earlier, interrupted call on the same groups, NaN where there are none. Batches
                are planned as if nothing were known, then what is known is left out of them: a call that was
                stopped between batches gives the bits of an uninterrupted one.

        Raises:
            UsageError: a group's width is not the model's. SparringError: the scores are not finite even in fp32,
            or do not depend on the document.
        """
        self._validate(topics, groups)
        results = [self._blank(rows) if known is None else known[t].copy() for t, rows in enumerate(groups)]
        start = time.perf_counter()
        with torch.inference_mode():
            self._run(_Call(topics, groups, results, sink))
        self.stats.seconds += time.perf_counter() - start
        self.stats.count_ties(results)
        self.stats.observe_memory(self.device)
        return results

    def _validate(self, topics: Sequence[Candidates], groups: Sequence[Groups]) -> None:
        if len(topics) != len(groups):
            raise UsageError(f"{len(topics)} topics but groups for {len(groups)}")
        for topic, rows in zip(topics, groups, strict=True):
            if rows.ndim != 2 or (self.width is not None and len(rows) and rows.shape[1] != self.width):
                raise UsageError(
                    f"topic {topic.qid}: {self.model.name} scores groups of {self.width or 'any number of'} "
                    f"candidates, found groups of shape {rows.shape}"
                )
            if rows.size and (rows.max() >= len(topic) or (self.width is not None and rows.min() < 0)):
                raise UsageError(
                    f"topic {topic.qid}: a group names a position outside its {len(topic)} candidates"
                )

    def _blank(self, rows: Groups) -> Outcomes:
        return np.full(len(rows) if self.width == 2 else rows.shape, np.nan)

    def _new_store(self) -> TokenStore:
        limit = self.model.truncation.max_length
        return TokenStore(self.model.tokenizer, limit)

    def _batches(self, call: _Call) -> Iterator[tuple[Shard, NDArray[np.int64], Batch]]:
        for chosen_topics in split_topics(call.groups):
            if len(self._store.flat) > STORE_TOKENS:  # shards in flight keep the old one alive
                self._store = self._new_store()
            shard = build_shard(self._store, self.model, call.topics, call.groups, chosen_topics)
            self.stats.count_shard(shard)
            missing = np.concatenate([_unknown(call.results[t]) for t in chosen_topics])
            for chosen in shard.plan(self.token_budget):
                chosen = chosen[missing[chosen]]
                if len(chosen):
                    batch = shard.batch(chosen)
                    yield shard, chosen, batch.pin() if self.device.type == "cuda" else batch

    def _run(self, call: _Call) -> None:
        pending: list[_Scored] = []
        waiting, last = 0, time.monotonic()
        bar = console.progress(unit="tok", label=self.model.name) if self._progress else None
        done = self.stats.tokens
        work = prefetch(self._batches(call))
        try:
            for shard, chosen, batch in work:
                for scored in self._score(call, shard, chosen, batch):
                    pending.append(scored)
                    waiting += len(scored.groups)
                if bar is not None:
                    bar.total = self.stats.tokens - done
                    bar.update(len(batch.input_ids))
                due = waiting >= COMMIT_GROUPS or time.monotonic() - last > COMMIT_SECONDS
                if due or self.device.type == "cpu":
                    self._commit(call, pending)
                    waiting, last = 0, time.monotonic()
            self._commit(call, pending)
            self._check.finish()
        finally:
            work.close()
            if bar is not None:
                bar.close()

    def _score(self, call: _Call, shard: Shard, chosen: NDArray[np.int64], batch: Batch) -> Iterator[_Scored]:
        """Scores of a batch; out of memory halves the budget, and a group that cannot fit alone gets NaN."""
        self.stats.count_batch(batch, self.model.packed)
        try:
            yield _Scored(shard, chosen, self.model.forward(batch.to(self.device)))
            return
        except torch.OutOfMemoryError:
            self.stats.retries += 1
        # outside the handler, whose traceback would keep the failed batch's memory alive
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        if len(chosen) == 1:
            self.stats.quarantined.append(call.names(shard, chosen))
            nothing = torch.full((len(batch.lengths),), torch.nan, device=self.device)
            yield _Scored(shard, chosen, nothing, quarantined=True)
            return
        self.token_budget = max(1, min(self.token_budget, len(batch.input_ids)) // 2)
        for half in np.array_split(chosen, 2):
            yield from self._score(call, shard, half, shard.batch(half))

    def _commit(self, call: _Call, pending: list[_Scored]) -> None:
        """Copies scores to the host in one go, checks them, and hands them out."""
        if not pending:
            return
        values = torch.cat([scored.scores.float() for scored in pending]).cpu().numpy().astype(np.float64)
        ends = np.cumsum([len(scored.scores) for scored in pending])
        for scored, mine in zip(pending, np.split(values, ends[:-1]), strict=True):
            if not scored.quarantined and not np.isfinite(mine).all():
                mine = self._in_full_precision(call, scored)
            self._check.observe(scored.shard, scored.groups, mine)
            self._hand_out(call, scored, mine)
        pending.clear()

    def _hand_out(self, call: _Call, scored: _Scored, scores: NDArray[np.float64]) -> None:
        shard, chosen = scored.shard, scored.groups
        topic, row = shard.owner(chosen)
        outcomes: Outcomes
        if self.width == 2:
            outcomes = 1 / (1 + np.exp(-scores))
        else:
            column = shard.column[shard.rows(chosen)]
            counts = shard.first[chosen + 1] - shard.first[chosen]
            outcomes = np.full((len(chosen), int(column.max()) + 1), np.nan)
            outcomes[np.repeat(np.arange(len(chosen)), counts), column] = scores
        keep(call.results, topic, row, outcomes)
        if call.sink is not None:
            call.sink(topic, row, outcomes)

    def _in_full_precision(self, call: _Call, scored: _Scored) -> NDArray[np.float64]:
        """Scores again in fp32 what was not finite; still not finite is an error that names the pair."""
        self.stats.retries += 1
        batch = scored.shard.batch(scored.groups)
        self.model.place(self.device, torch.float32, self.deterministic)
        try:
            values = self.model.forward(batch.to(self.device)).cpu().numpy().astype(np.float64)
        finally:
            self.model.place(self.device, self.dtype, self.deterministic)
        bad = np.flatnonzero(~np.isfinite(values))
        if len(bad):
            sequence = scored.shard.rows(scored.groups)[bad[:1]]
            qid, docids = call.names(scored.shard, scored.shard.sequences.group[sequence])
            tried = dict.fromkeys((dtype_name(self.dtype), "float32"))
            raise SparringError(
                f"{self.model.name}: topic {qid}, document {' and '.join(docids)}: the score is "
                f"{values[bad[0]]} in {' and in '.join(tried)}: the weights are damaged"
            )
        return values


@dataclass(frozen=True, slots=True)
class _Call:
    """What one call of the engine was asked, and where its answers go."""

    topics: Sequence[Candidates]
    groups: Sequence[Groups]
    results: list[Outcomes]
    sink: Sink | None

    def names(self, shard: Shard, group: NDArray[np.int64]) -> tuple[str, tuple[str, ...]]:
        """The qid and the docids of one group."""
        topic, row = shard.owner(group)
        t, r = int(topic[0]), int(row[0])
        who = self.topics[t]
        return who.qid, tuple(who.docids[i] for i in self.groups[t][r].tolist() if i >= 0)


@dataclass(frozen=True, slots=True)
class _Scored:
    """Scores of a batch, one per sequence, on the device."""

    shard: Shard
    groups: NDArray[np.int64]
    scores: torch.Tensor
    quarantined: bool = False


_lowered: WeakKeyDictionary[Model, torch.dtype] = WeakKeyDictionary()


def _check_precision(model: Model, dtype: torch.dtype) -> None:
    """Refuses weights that another engine has rounded to another precision: their fingerprint would be a lie."""
    before = _lowered.get(model, dtype)
    if before != dtype:
        raise UsageError(
            f"{model.name}: its weights were rounded to {dtype_name(before)} by another engine; load the model "
            f"again to use {dtype_name(dtype)}"
        )
    if dtype != torch.float32:
        _lowered[model] = dtype


def _unknown(outcomes: Outcomes) -> NDArray[np.bool_]:
    """Rows without any outcome."""
    unknown: NDArray[np.bool_] = np.isnan(outcomes.reshape(len(outcomes), -1)).min(axis=1, initial=True)
    return unknown
