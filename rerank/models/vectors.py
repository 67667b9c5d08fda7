"""Vectors of texts or pairs, each computed once, and any number of lists scored from them."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from ..engine.batches import Batch, build_sequences, gather, plan
from ..engine.devices import choose_device, choose_dtype, default_budget
from ..engine.model import OwnScorer, ScorerOptions
from ..engine.precision import claim_precision, described, in_precision
from ..engine.stats import count_batch, observe_memory
from ..engine.templates import Template, Truncation
from ..engine.token_store import TokenStore
from ..errors import UsageError
from ..stats import Stats
from ..vocabulary import Candidates, Groups, Outcomes, Sink, blank

CACHED = 1 << 17
Pair = tuple[str, str]


class Encoder(Protocol):
    """What turns packed batches of one passage slot into vectors."""

    tokenizer: object
    template: Template
    truncation: Truncation
    first_position: int

    def place(self, device: torch.device, dtype: torch.dtype, deterministic: bool = False) -> None:
        """Moves the encoder."""
        ...

    def states(self, batch: Batch) -> torch.Tensor:
        """Vectors (S, H) in fp32."""
        ...


class VectorStore:
    """Vectors of (query, passage) pairs, each pair encoded once, in batches of about ``token_budget`` tokens."""

    def __init__(self, encoder: Encoder, device: torch.device, token_budget: int, stats: Stats) -> None:
        self._encoder, self._device, self._budget, self._stats = encoder, device, token_budget, stats
        self._tokens = TokenStore(encoder.tokenizer, encoder.truncation.max_length)
        self._known: dict[Pair, torch.Tensor] = {}

    def __call__(self, pairs: Sequence[Pair]) -> torch.Tensor:
        """Vectors of the pairs in their order, (n, H), on the device."""
        if len(self._known) > CACHED:
            self.clear()
        fresh = [pair for pair in dict.fromkeys(pairs) if pair not in self._known]
        if fresh:
            self._encode(fresh)
        return torch.stack([self._known[pair] for pair in pairs])

    def clear(self) -> None:
        """Forgets everything."""
        self._known.clear()
        self._tokens.clear()

    def _encode(self, pairs: Sequence[Pair]) -> None:
        encoder, store = self._encoder, self._tokens
        query = store.entries([query for query, _ in pairs])
        passages = store.entries([text for _, text in pairs])[:, None]
        each = np.arange(len(pairs), dtype=np.int64)
        sequences = build_sequences(store, encoder.template, encoder.truncation, query, passages, each)
        self._stats.sequences += len(pairs)
        self._stats.tokens += int(sequences.tokens.sum())
        self._stats.truncated_passages += int(sequences.passage_cut.sum())
        self._stats.empty_texts += sum(not text or text.isspace() for _, text in pairs)
        for chosen in plan(sequences.tokens, sequences.tokens, np.ones_like(each), self._budget, False):
            batch = gather(store, encoder.template, sequences, chosen, encoder.first_position)
            count_batch(self._stats, batch, True)
            vectors = encoder.states(batch.to(self._device))
            self._known.update(zip((pairs[i] for i in chosen.tolist()), vectors, strict=True))


class ListModel(OwnScorer, Protocol):
    """A loaded model that scores lists from vectors, each text or pair encoded once.

    Attributes:
        encoder: makes the vectors.
        head: reads them, in fp32.
    """

    @property
    def encoder(self) -> Encoder: ...
    @property
    def head(self) -> nn.Module: ...

    def score(self, vectors: VectorStore, topic: Candidates, members: NDArray[np.int64]) -> NDArray[np.float64]:
        """Raw scores of a list, (n,), given as positions in its topic."""
        ...


class ListScorer:
    """Scores lists with a `ListModel`, one after the other; a `sparring.rerank.vocabulary.Scorer` of any width."""

    width: int | None = None
    remembers = True

    def __init__(self, model: ListModel, options: ScorerOptions) -> None:
        self.model = model
        self.device = choose_device(options.device)
        self.dtype = choose_dtype(options.dtype, self.device)
        self.fingerprint = in_precision(model.fingerprint, self.dtype)
        self.stats = Stats()
        claim_precision(model, self.dtype)
        model.encoder.place(self.device, self.dtype, options.deterministic)
        model.head.to(device=self.device)
        budget = options.token_budget or default_budget(self.device)
        self._vectors = VectorStore(model.encoder, self.device, budget, self.stats)

    @property
    def description(self) -> Mapping[str, object]:
        """What the fingerprint stands for, in readable fields."""
        return described(self.model, self.dtype)

    def close(self) -> None:
        """Forgets the vectors."""
        self._vectors.clear()

    @torch.inference_mode()
    def __call__(
        self,
        topics: Sequence[Candidates],
        groups: Sequence[Groups],
        sink: Sink | None = None,
        known: Sequence[Outcomes] | None = None,
    ) -> list[Outcomes]:
        """Outcomes of every list; UsageError where a group names a position outside its topic.

        A list that is ``known`` is scored all the same, so that vectors are made in the batches of an
        uninterrupted call, and keeps the outcome that it had.
        """
        start = time.perf_counter()
        results = []
        for index, (topic, rows) in enumerate(zip(topics, groups, strict=True)):
            if rows.ndim != 2 or (rows.size and rows.max() >= len(topic)):
                raise UsageError(
                    f"topic {topic.qid}: a group names a position outside its {len(topic)} candidates"
                )
            outcomes = blank(rows, None)
            for number, row in enumerate(rows):
                real = row >= 0
                if real.any():
                    outcomes[number, real] = self.model.score(self._vectors, topic, row[real].astype(np.int64))
                self.stats.groups += 1
                if known is not None and not np.isnan(known[index][number]).all():
                    outcomes[number] = known[index][number]
                elif sink is not None:
                    sink(np.array([index]), np.array([number]), outcomes[number : number + 1])
            results.append(outcomes)
        self.stats.seconds += time.perf_counter() - start
        self.stats.count_ties(results)
        observe_memory(self.stats, self.device)
        return results
