"""Late pair interaction: every (query, passage) is encoded once, a small head compares the vectors.

O(n) encoder passes give all O(n^2) preferences: the vectors are the first token's states of ``[CLS] query [SEP]
passage [SEP]``, the head and its formula are in `sparring.rerank.models.pair_head`. On disk a late pair model is a
transformers encoder (``model.safetensors``, tokenizer, ``config.json`` with ``"sparring_family": "late_pair"``)
and ``pair_head.safetensors``.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ....engine.batches import Batch
from ....engine.devices import choose_device, choose_dtype, default_budget, dtype_name
from ....engine.self_check import SelfCheck
from ....engine.shards import Shard, build_shard, prefetch, split_topics
from ....engine.stats import EngineStats
from ....engine.templates import Truncation, pair_template
from ....engine.token_store import TokenStore
from ....errors import InputError, SparringError, UsageError
from ....registry import families
from ....vocabulary import Candidates, Groups, Outcomes, Sink
from ...attention.packed import PACKED, packed_kwargs, register
from ...attention.post_norm import POST_NORM, PostNormEncoder, token_states
from ...checkpoints import Checkpoint
from ...loading import clamp_length, fingerprint, load_pretrained, load_tokenizer
from ...pair_head import HEAD_FILE, PairHead, pair_logits
from .sequence_classification import PACKABLE, ROBERTA

CACHED_PASSAGES = 1 << 18
STORE_TOKENS = 1 << 26


class LatePairEncoder:
    """Encoder and head: batches of (query, passage) to features; `scorer` makes pairs of them.

    The attributes are those of `sparring.rerank.engine.model.Model`; ``forward`` gives features (S, 1 + 2r) instead of
    scores. ``live`` leaves the weights where they are, with gradients, for training; without ``lean`` the forward
    pass is transformers' own, which knows dropout and checkpointing.
    """

    width: int | None = 2
    packed = True

    def __init__(
        self,
        checkpoint: Checkpoint,
        body: Any,
        head: PairHead,
        tokenizer: Any,
        length: int,
        first_position: int,
        lean: bool = True,
        live: bool = False,
    ) -> None:
        config = body.config
        self.name = checkpoint.name
        self.tokenizer, self.head = tokenizer, head
        self.template = pair_template(tokenizer, getattr(config, "type_vocab_size", 0) > 1)
        self.truncation = Truncation(length)
        self.first_position = first_position
        weights = b"".join(value.numpy().tobytes() for value in head.state_dict().values())
        digest = hashlib.sha256(weights + head.activation.encode()).hexdigest()
        self.fingerprint = fingerprint(checkpoint, self.template, self.truncation, digest)
        self.lean = lean and config.model_type in POST_NORM
        self.deterministic = False
        register()
        body.set_attn_implementation(PACKED)
        self.body: Any = PostNormEncoder(body, live) if self.lean else body

    def scorer(self, **options: Any) -> LatePair:
        """The scorer of this model; options are those of `LatePair`."""
        return LatePair(self, **options)

    def place(self, device: torch.device, dtype: torch.dtype, deterministic: bool = False) -> None:
        """Moves the encoder in ``dtype`` and the head in fp32 to a device."""
        self.deterministic = deterministic
        self.body.to(device=device, dtype=dtype)
        if self.lean:
            self.body.pack()
        self.head.to(device=device, dtype=torch.float32)

    def forward(self, batch: Batch) -> torch.Tensor:
        """Features of each sequence in fp32, (S, 1 + 2r)."""
        return self.head.features(self.states(batch))

    def states(self, batch: Batch) -> torch.Tensor:
        """First-token states, which the head reads, in fp32, (S, H)."""
        if self.lean:
            states: torch.Tensor = self.body(batch, self.deterministic)
        else:
            tokens = token_states(self.body, batch, **packed_kwargs(batch, self.deterministic))
            states = tokens.index_select(0, batch.boundaries[:-1])
        return states.float()


class LatePair:
    """A `sparring.rerank.vocabulary.Scorer` of width 2 that encodes each candidate of a topic once.

    Features are kept between calls, so schedules that ask in rounds pay for a candidate the first time only.

    Args:
        model: from `sparring.rerank.models.loading.load`.
        device, dtype, token_budget, deterministic, progress: as for `sparring.rerank.engine.engine.Engine`.
    """

    width: int | None = 2

    def __init__(
        self,
        model: LatePairEncoder,
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
        self.device = choose_device(device)
        self.dtype = choose_dtype(dtype, self.device)
        self.token_budget = token_budget or default_budget(self.device)
        self.fingerprint = hashlib.sha256(f"{model.fingerprint} {dtype_name(self.dtype)}".encode()).hexdigest()
        self.stats = EngineStats()
        self._features: dict[tuple[str, str], NDArray[np.float64]] = {}
        self._store = TokenStore(model.tokenizer, model.truncation.max_length)
        model.place(self.device, self.dtype, deterministic)

    @property
    def description(self) -> dict[str, object]:
        """What the fingerprint stands for, in readable fields."""
        return {
            "model": self.model.name,
            "weights, config and input": self.model.fingerprint[:16],
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
        """P(first is better) of every pair, (g,) for each topic, in the order asked.

        Args:
            sink: hears the outcomes of a topic once all its candidates are encoded.
            known: outcomes of an earlier, interrupted call on the same groups, NaN where there are none. They are
                returned as they are; candidates are encoded in the batches of an uninterrupted call.
        """
        start = time.perf_counter()
        self._validate(topics, groups)
        if len(self._features) > CACHED_PASSAGES:
            self._features.clear()
        with torch.inference_mode():
            self._encode(topics, groups)
        results = []
        for index, (topic, rows) in enumerate(zip(topics, groups, strict=True)):
            outcomes = self._compare(topic, rows)
            fresh = np.arange(len(rows), dtype=np.int64)
            if known is not None:
                fresh = np.flatnonzero(np.isnan(known[index]))
                outcomes = np.where(np.isnan(known[index]), outcomes, known[index])
            results.append(outcomes)
            if sink is not None and len(fresh):
                sink(np.full(len(fresh), index, np.int64), fresh, outcomes[fresh])
        self.stats.seconds += time.perf_counter() - start
        self.stats.count_ties(results)
        self.stats.observe_memory(self.device)
        return results

    def _validate(self, topics: Sequence[Candidates], groups: Sequence[Groups]) -> None:
        for topic, rows in zip(topics, groups, strict=True):
            if rows.ndim != 2 or (len(rows) and rows.shape[1] != 2):
                raise UsageError(
                    f"topic {topic.qid}: {self.model.name} scores groups of 2 candidates, found shape {rows.shape}"
                )
            if rows.size and not 0 <= rows.min() <= rows.max() < len(topic):
                raise UsageError(f"topic {topic.qid}: a pair names a position outside its {len(topic)} candidates")

    def _compare(self, topic: Candidates, rows: Groups) -> Outcomes:
        if not len(rows):
            return np.empty(0)
        self.stats.groups += len(rows)
        positions, place = np.unique(rows, return_inverse=True)
        features = np.stack([self._features[_key(topic, i)] for i in positions.tolist()])
        first, second = place.reshape(rows.shape).T
        outcomes: Outcomes = 1 / (1 + np.exp(-pair_logits(features[first], features[second])))
        return outcomes

    def _encode(self, topics: Sequence[Candidates], groups: Sequence[Groups]) -> None:
        """Features of every candidate that the groups name and that has none yet."""
        fresh: list[Groups] = []
        for topic, rows in zip(topics, groups, strict=True):
            keys = {
                _key(topic, i): i for i in np.unique(rows).tolist()[::-1]
            }  # equal texts once, the first of them
            new = sorted(position for key, position in keys.items() if key not in self._features)
            fresh.append(np.array(new, np.int32)[:, None])
        found: list[NDArray[np.float64]] = []
        work = prefetch(self._batches(topics, fresh))
        try:
            for shard, chosen, batch in work:
                values = self._forward(batch, lambda half, shard=shard, chosen=chosen: shard.batch(chosen[half]))  # type: ignore[misc]
                found.append(values)
                for t, row, feature in zip(*(x.tolist() for x in shard.owner(chosen)), values, strict=True):
                    if not np.isfinite(feature).all():
                        raise SparringError(
                            f"{self.model.name}: topic {topics[t].qid}, document "
                            f"{topics[t].docids[int(fresh[t][row, 0])]}: the vector is not finite in "
                            f"{dtype_name(self.dtype)}: try --dtype float32, else the weights are damaged"
                        )
                    self._features[_key(topics[t], int(fresh[t][row, 0]))] = feature
        finally:
            work.close()
        vectors = np.concatenate(found) if found else np.empty((0, 1))
        if len(vectors) >= SelfCheck.LEAST and np.ptp(vectors, axis=0).max() <= 1e-7 * np.abs(vectors).max():
            raise SparringError(
                f"{self.model.name}: {len(vectors)} passages have the same vector: head or encoder is wrong"
            )

    def _batches(
        self, topics: Sequence[Candidates], fresh: Sequence[Groups]
    ) -> Iterator[tuple[Shard, NDArray[np.int64], Batch]]:
        for chosen_topics in split_topics(fresh):
            if len(self._store.flat) > STORE_TOKENS:
                self._store = TokenStore(self.model.tokenizer, self.model.truncation.max_length)
            shard = build_shard(self._store, self.model, topics, fresh, chosen_topics)
            self.stats.count_shard(shard)
            self.stats.groups -= len(shard)  # groups are the pairs asked; these are encodings
            for chosen in shard.plan(self.token_budget):
                batch = shard.batch(chosen)
                yield shard, chosen, batch.pin() if self.device.type == "cuda" else batch

    def _forward(self, batch: Batch, part: Callable[[NDArray[np.int64]], Batch]) -> NDArray[np.float64]:
        """Features of a batch on the host; out of memory halves the budget. ``part`` makes a batch of rows."""
        self.stats.count_batch(batch, True)
        try:
            return np.asarray(self.model.forward(batch.to(self.device)).cpu().numpy(), np.float64)
        except torch.OutOfMemoryError:
            if len(batch.lengths) == 1:
                raise
            self.stats.retries += 1
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        self.token_budget = max(1, min(self.token_budget, len(batch.input_ids)) // 2)
        rows = np.arange(len(batch.lengths))
        return np.concatenate(
            [
                self._forward(part(half), lambda inner, half=half: part(half[inner]))  # type: ignore[misc]
                for half in np.array_split(rows, 2)
            ]
        )


def _key(topic: Candidates, position: int) -> tuple[str, str]:
    return topic.query, topic.texts[position] or ""


@families.register("late_pair")
@dataclass(frozen=True)
class LatePairs:
    """An encoder that reads each candidate once, and a small antisymmetric head that compares the vectors."""

    max_length: int | None = None

    def claims(self, checkpoint: Checkpoint) -> bool:
        """Folders with a ``pair_head.safetensors``; they also say so in their config."""
        return (checkpoint.folder / HEAD_FILE).is_file()

    def load(self, checkpoint: Checkpoint) -> LatePairEncoder:
        """Loads encoder and head; only encoders whose attention can be packed are served."""
        from transformers import AutoModel

        if checkpoint.model_type not in PACKABLE:
            raise InputError(
                f"{checkpoint.name}: model_type {checkpoint.model_type!r} is no encoder of this family "
                f"({', '.join(sorted(PACKABLE))})"
            )
        pooled = {"add_pooling_layer": False} if checkpoint.model_type in POST_NORM - {"electra"} else {}
        body = load_pretrained(AutoModel, checkpoint, **pooled)
        head = PairHead.load(checkpoint.folder, body.config.hidden_size)
        tokenizer = load_tokenizer(checkpoint)
        first = body.config.pad_token_id + 1 if checkpoint.model_type in ROBERTA else 0
        limit = body.config.max_position_embeddings - first
        length = clamp_length(self.max_length, limit, tokenizer.model_max_length)
        return LatePairEncoder(checkpoint, body, head, tokenizer, length, first)
