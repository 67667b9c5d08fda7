"""The engine: groups of candidates of any topics in, raw scores out, in batches of a token budget.

It knows no TREC, no schedule and no file: topics, groups and outcomes are those of `sparring.rerank.vocabulary`.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from . import console
from .batching import Batch, TokenStore
from .devices import choose_device, choose_dtype, default_budget, dtype_name
from .errors import SparringError, UsageError
from .models import Model
from .shards import Shard, build_shard, prefetch, split_topics
from .statistics import EngineStats, SelfCheck
from .vocabulary import Candidates, Groups, Outcomes, Scorer, Sink

STORE_TOKENS = 1 << 26  # 256 MB of token ids are kept between calls
COMMIT_GROUPS, COMMIT_SECONDS = 4096, 1.0


class Engine:
    """Scores groups with a model; a `sparring.rerank.vocabulary.Scorer`.

    Each text is tokenised once, inputs are assembled from ids in a thread, sorted by true length across topics and
    filled to ``token_budget``. Scores do not depend on batch, order or neighbours (<= 1e-5 in fp32).

    Args:
        model: from `sparring.rerank.models.load`.
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
        model.place(self.device, self.dtype, deterministic)

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
                are planned as if nothing were known and one is left out when all of it is, so that a resumed
                call gives the bits of an uninterrupted one.

        Raises:
            UsageError: a group's width is not the model's. SparringError: the scores are not finite even in fp32,
            or do not depend on the document.
        """
        self._validate(topics, groups)
        results = [self._blank(rows) if known is None else known[t].copy() for t, rows in enumerate(groups)]
        start = time.perf_counter()
        with torch.inference_mode():
            self._run(topics, groups, results, sink)
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

    def _shards(self, topics: Sequence[Candidates], groups: Sequence[Groups]) -> Iterator[Shard]:
        for chosen in split_topics(groups):
            if len(self._store.flat) > STORE_TOKENS:  # shards in flight keep the old one alive
                self._store = self._new_store()
            yield build_shard(self._store, self.model, topics, groups, chosen)

    def _batches(
        self, topics: Sequence[Candidates], groups: Sequence[Groups], results: list[Outcomes]
    ) -> Iterator[tuple[Shard, NDArray[np.int64], Batch]]:
        for shard in self._shards(topics, groups):
            self.stats.count_shard(shard)
            missing = np.concatenate([_unknown(results[t]) for t in shard.topics.tolist()])
            for chosen in shard.plan(self.token_budget):
                if missing[chosen].any():
                    batch = shard.batch(chosen)
                    yield shard, chosen, batch.pin() if self.device.type == "cuda" else batch

    def _run(
        self, topics: Sequence[Candidates], groups: Sequence[Groups], results: list[Outcomes], sink: Sink | None
    ) -> None:
        pending: list[tuple[Shard, NDArray[np.int64], torch.Tensor]] = []
        waiting, last = 0, time.monotonic()
        bar = console.progress(unit="tok", label=self.model.name) if self._progress else None
        work = prefetch(self._batches(topics, groups, results))
        try:
            for shard, chosen, batch in work:
                for part, scores in self._score(topics, shard, chosen, batch):
                    pending.append((shard, part, scores))
                    waiting += len(part)
                if bar is not None:
                    bar.total = self.stats.tokens
                    bar.update(len(batch.input_ids))
                due = waiting >= COMMIT_GROUPS or time.monotonic() - last > COMMIT_SECONDS
                if due or self.device.type == "cpu":
                    self._commit(topics, pending, results, sink)
                    waiting, last = 0, time.monotonic()
            self._commit(topics, pending, results, sink)
            self._check.finish()
        finally:
            work.close()  # type: ignore[attr-defined]
            if bar is not None:
                bar.close()

    def _score(
        self, topics: Sequence[Candidates], shard: Shard, chosen: NDArray[np.int64], batch: Batch
    ) -> Iterator[tuple[NDArray[np.int64], torch.Tensor]]:
        """Scores of a batch; out of memory halves the budget, and a group that cannot fit alone gets NaN."""
        try:
            scores = self.model.forward(batch.to(self.device))
        except torch.OutOfMemoryError:
            scores = None
        self.stats.count_batch(batch, self.model.packed)
        if scores is not None:
            yield chosen, scores
            return
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        if len(chosen) == 1:
            topic, row = shard.owner(chosen)
            self.stats.quarantine(topics[int(topic[0])].qid, int(row[0]))
            yield chosen, torch.full((len(batch.lengths),), torch.nan)
            return
        self.stats.retries += 1
        self.token_budget = max(1, min(self.token_budget, len(batch.input_ids)) // 2)
        for half in np.array_split(chosen, 2):
            yield from self._score(topics, shard, half, shard.batch(half))

    def _commit(
        self,
        topics: Sequence[Candidates],
        pending: list[tuple[Shard, NDArray[np.int64], torch.Tensor]],
        results: list[Outcomes],
        sink: Sink | None,
    ) -> None:
        """Copies scores to the host, checks them, and hands them out."""
        if not pending:
            return
        values = torch.cat([scores.float() for _, _, scores in pending]).cpu().numpy().astype(np.float64)
        start = 0
        for shard, chosen, scores in pending:
            mine = values[start : start + len(scores)]
            start += len(scores)
            topic, row = shard.owner(chosen)
            if not np.isfinite(mine).all() and not self.stats.is_quarantined(
                topics[int(topic[0])].qid, int(row[0])
            ):
                mine = self._in_full_precision(topics, shard, chosen)
            self._check.observe(shard, chosen, mine)
            self._store_outcomes(shard, chosen, mine, topic, row, results, sink)
        pending.clear()

    def _store_outcomes(
        self,
        shard: Shard,
        chosen: NDArray[np.int64],
        scores: NDArray[np.float64],
        topic: NDArray[np.int64],
        row: NDArray[np.int64],
        results: list[Outcomes],
        sink: Sink | None,
    ) -> None:
        outcomes: NDArray[np.float64]
        if self.width == 2:
            outcomes = 1 / (1 + np.exp(-scores))
        else:
            rows = shard.rows(chosen)
            column = shard.column[rows]
            counts = shard.first[chosen + 1] - shard.first[chosen]
            outcomes = np.full((len(chosen), int(column.max()) + 1), np.nan)
            outcomes[np.repeat(np.arange(len(chosen)), counts), column] = scores
        for t in np.unique(topic).tolist():
            mine = topic == t
            if self.width == 2:
                results[t][row[mine]] = outcomes[mine]
            else:
                width = min(results[t].shape[1], outcomes.shape[1])
                results[t][row[mine], :width] = outcomes[mine, :width]
        if sink is not None:
            sink(topic, row, outcomes)

    def _in_full_precision(
        self, topics: Sequence[Candidates], shard: Shard, chosen: NDArray[np.int64]
    ) -> NDArray[np.float64]:
        """Scores again in fp32 what was not finite; still not finite is an error that names the pair."""
        self.stats.retries += 1
        batch = shard.batch(chosen)
        self.model.place(self.device, torch.float32, self.deterministic)
        try:
            values = self.model.forward(batch.to(self.device)).cpu().numpy().astype(np.float64)
        finally:
            self.model.place(self.device, self.dtype, self.deterministic)
        bad = np.flatnonzero(~np.isfinite(values))
        if len(bad):
            rows = shard.rows(chosen)[bad[:1]]
            topic, row = shard.owner(shard.sequences.group[rows])
            who = topics[int(topic[0])]
            raise SparringError(
                f"{self.model.name}: the score of topic {who.qid}, group {int(row[0])} is {values[bad[0]]} in "
                f"{dtype_name(self.dtype)} and in float32 as well: the weights are damaged"
            )
        return values


def _unknown(outcomes: Outcomes) -> NDArray[np.bool_]:
    """Rows without any outcome."""
    unknown: NDArray[np.bool_] = np.isnan(outcomes.reshape(len(outcomes), -1)).min(axis=1, initial=True)
    return unknown


def open_scorer(model: Any, **options: Any) -> Scorer:
    """The scorer of a loaded model: an `Engine`, or what a model that batches on its own (a bi-encoder) returns.

    ``options`` are those of `Engine`.
    """
    own: Scorer | None = model.scorer(**options) if hasattr(model, "scorer") else None
    return Engine(model, **options) if own is None else own
