"""The engine: groups of candidates of any topics in, raw scores out, in batches of a token budget.

It knows no TREC, no schedule and no file: topics, groups and outcomes are those of `sparring.rerank.vocabulary`.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import expit

from .. import console
from ..errors import SparringError, UsageError
from ..stats import Stats
from ..vocabulary import Candidates, Groups, Outcomes, Scorer, Sink, blank, keep, unknown_rows
from .devices import choose_device, choose_dtype, default_budget, dtype_name
from .forward import Forward, Scored
from .model import AnyModel, Model, OwnScorer, ScorerOptions
from .precision import claim_precision, in_precision
from .self_check import SelfCheck
from .shards import Shard
from .stats import observe_memory

COMMIT_GROUPS, COMMIT_SECONDS = 4096, 1.0


class Engine:
    """Scores groups with a model; a `sparring.rerank.vocabulary.Scorer`.

    Each text is tokenised once, inputs are assembled from ids in a thread, sorted by true length across topics and
    filled to ``token_budget``. Scores do not depend on batch, order or neighbours (<= 1e-5 in fp32).

    Args:
        model: from `sparring.rerank.models.loading.load`.
        device, dtype, token_budget, deterministic, progress: see `sparring.rerank.engine.model.ScorerOptions`.
    """

    remembers = False

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
        ScorerOptions(token_budget=token_budget)  # raises where it is out of range
        self.model = model
        self.width = model.width
        self.device = choose_device(device)
        self.dtype = choose_dtype(dtype, self.device)
        self.deterministic = deterministic
        self.fingerprint = in_precision(model.fingerprint, self.dtype)
        self.stats = Stats()
        self._progress = progress
        self._check = SelfCheck(model.name)
        claim_precision(model, self.dtype)
        model.place(self.device, self.dtype, deterministic)
        self._forward = Forward(model, self.device, token_budget or default_budget(self.device), self.stats)

    @property
    def token_budget(self) -> int:
        """Tokens of one batch; less than was asked for once a batch did not fit in memory."""
        return self._forward.token_budget

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

    def close(self) -> None:
        """Nothing is held but the model's memory, which goes with the model."""

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
            known: see `sparring.rerank.vocabulary.Scorer`.

        Raises:
            UsageError: a group's width is not the model's. SparringError: the scores are not finite even in fp32,
            or do not depend on the document.
        """
        self._validate(topics, groups)
        results = [blank(rows, self.width) if known is None else known[t].copy() for t, rows in enumerate(groups)]
        start = time.perf_counter()
        with torch.inference_mode():
            self._run(_Call(topics, groups, results, sink))
        self.stats.seconds += time.perf_counter() - start
        self.stats.count_ties(results)
        observe_memory(self.stats, self.device)
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

    def _run(self, call: _Call) -> None:
        pending: list[Scored] = []
        waiting, last = 0, time.monotonic()
        bar = console.progress(unit="tok", label=self.model.name) if self._progress else None
        done = self.stats.tokens
        batches = self._forward(call.topics, call.groups, lambda t: unknown_rows(call.results[t]))
        try:
            for scored in batches:
                pending.append(scored)
                waiting += len(scored.groups)
                if bar is not None:
                    bar.total = self.stats.tokens - done
                    bar.update(scored.tokens)
                due = waiting >= COMMIT_GROUPS or time.monotonic() - last > COMMIT_SECONDS
                if due or self.device.type == "cpu":
                    self._commit(call, pending)
                    waiting, last = 0, time.monotonic()
            self._commit(call, pending)
            self._check.finish()
        finally:
            batches.close()
            if bar is not None:
                bar.close()

    def _commit(self, call: _Call, pending: list[Scored]) -> None:
        """Copies scores to the host in one go, checks them, and hands them out."""
        there = [scored.values.float() for scored in pending if scored.values is not None]
        values = torch.cat(there).cpu().numpy().astype(np.float64) if there else np.empty(0)
        start = 0
        for scored in pending:
            if scored.values is None:
                self.stats.quarantined.append(call.names(scored.shard, scored.groups))
                mine = np.full(scored.sequences, np.nan)
            else:
                mine = values[start : start + scored.sequences]
                start += scored.sequences
                if not np.isfinite(mine).all():
                    mine = self._in_full_precision(call, scored)
            self._check.observe(scored.shard, scored.groups, mine)
            self._hand_out(call, scored, mine)
        pending.clear()

    def _hand_out(self, call: _Call, scored: Scored, scores: NDArray[np.float64]) -> None:
        shard, chosen = scored.shard, scored.groups
        topic, row = shard.owner(chosen)
        outcomes: Outcomes
        if self.width == 2:
            outcomes = expit(scores)
        else:
            column = shard.column[shard.rows(chosen)]
            counts = shard.first[chosen + 1] - shard.first[chosen]
            outcomes = np.full((len(chosen), int(column.max()) + 1), np.nan)
            outcomes[np.repeat(np.arange(len(chosen)), counts), column] = scores
        keep(call.results, topic, row, outcomes)
        if call.sink is not None:
            call.sink(topic, row, outcomes)

    def _in_full_precision(self, call: _Call, scored: Scored) -> NDArray[np.float64]:
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


def open_on_device(model: AnyModel, options: ScorerOptions) -> Scorer:
    """An `Engine`, or what a model that batches on its own (a bi-encoder) brings, on the device of ``options``."""
    return model.scorer(options) if isinstance(model, OwnScorer) else Engine(model, **vars(options))
