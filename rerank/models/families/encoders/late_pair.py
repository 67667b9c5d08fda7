"""Late pair interaction: every (query, passage) is encoded once, a small head compares the vectors.

O(n) encoder passes give all O(n^2) preferences: the vectors are the first token's states of ``[CLS] query [SEP]
passage [SEP]``, the head and its formula are in `sparring.rerank.models.pair_head`. On disk a late pair model is a
transformers encoder (``model.safetensors``, tokenizer, ``config.json`` with ``"sparring_family": "late_pair"``)
and ``pair_head.safetensors``.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import expit

from ....engine.batches import Batch
from ....engine.devices import choose_device, choose_dtype, default_budget, dtype_name
from ....engine.forward import Forward, Scored
from ....engine.model import SCHEDULES, ScorerOptions
from ....engine.precision import claim_precision, described, in_precision
from ....engine.self_check import SelfCheck
from ....engine.stats import observe_memory
from ....engine.templates import Truncation, pair_template
from ....errors import InputError, SparringError, UsageError
from ....registry import families
from ....stats import Stats
from ....vocabulary import Candidates, Groups, Outcomes, Sink
from ...attention.layers import POST_NORM
from ...attention.packed import attach, packed_kwargs
from ...attention.post_norm import PostNormEncoder, token_states
from ...checkpoints import Checkpoint
from ...config_fields import token_types
from ...loading import clamp_length, fingerprint, load_pretrained, load_tokenizer
from ...pair_head import HEAD_FILE, PairHead, pair_logits
from ..about import About
from .sequence_classification import PACKABLE, ROBERTA

CACHED_PASSAGES = 1 << 18
STORE_TOKENS = 1 << 26


class LatePairEncoder:
    """Encoder and head: batches of (query, passage) to features; `scorer` makes pairs of them.

    The attributes are those of `sparring.rerank.engine.model.Model`; ``forward`` gives features (S, 1 + 2r), not
    scores. ``live`` leaves the weights where they are, with gradients, for training; without ``lean`` the forward
    pass is transformers' own, which knows dropout and checkpointing.
    """

    width: int | None = 2
    packed = True
    schedule = SCHEDULES[2]

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
        self.template = pair_template(tokenizer, token_types(config) > 1)
        self.truncation = Truncation(length)
        self.max_length: int | None = length
        self.first_position = first_position
        weights = b"".join(value.numpy().tobytes() for value in head.state_dict().values())
        digest = hashlib.sha256(weights + head.activation.encode()).hexdigest()
        self.fingerprint = fingerprint(checkpoint, self.template, self.truncation, digest)
        self.lean = lean and config.model_type in POST_NORM
        self.deterministic = False
        attach(body)
        self.body: Any = PostNormEncoder(body, live) if self.lean else body

    def scorer(self, options: ScorerOptions) -> LatePair:
        """A scorer of pairs; see `sparring.rerank.engine.model.ScorerOptions`."""
        return LatePair(self, options)

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
        options: see `sparring.rerank.engine.model.ScorerOptions`.
    """

    width: int | None = 2
    remembers = True

    def __init__(self, model: LatePairEncoder, options: ScorerOptions) -> None:
        self.model = model
        self.device = choose_device(options.device)
        self.dtype = choose_dtype(options.dtype, self.device)
        self.fingerprint = in_precision(model.fingerprint, self.dtype)
        self.stats = Stats()
        self._features: dict[tuple[str, str], NDArray[np.float64]] = {}
        claim_precision(model, self.dtype)
        model.place(self.device, self.dtype, options.deterministic)
        self._forward = Forward(
            model, self.device, options.token_budget or default_budget(self.device), self.stats
        )

    @property
    def description(self) -> dict[str, object]:
        """What the fingerprint stands for, in readable fields."""
        return described(self.model, self.dtype)

    def close(self) -> None:
        """Forgets the vectors."""
        self._features.clear()

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
        observe_memory(self.stats, self.device)
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
        outcomes: Outcomes = expit(pair_logits(features[first], features[second]))
        return outcomes

    def _encode(self, topics: Sequence[Candidates], groups: Sequence[Groups]) -> None:
        """Features of every candidate that the groups name and that has none yet."""
        fresh: list[Groups] = []
        for topic, rows in zip(topics, groups, strict=True):
            backwards = np.unique(rows).tolist()[::-1]  # of equal texts the first stays
            keys = {_key(topic, i): i for i in backwards}
            new = sorted(position for key, position in keys.items() if key not in self._features)
            fresh.append(np.array(new, np.int32)[:, None])
        found: list[NDArray[np.float64]] = []
        encodings = sum(map(len, fresh))
        batches = self._forward(topics, fresh, lambda t: np.ones(len(fresh[t]), np.bool_))
        try:
            for scored in batches:
                found.append(self._keep(topics, fresh, scored))
        finally:
            batches.close()
        self.stats.groups -= encodings  # groups are the pairs asked
        vectors = np.concatenate(found) if found else np.empty((0, 1))
        if len(vectors) >= SelfCheck.LEAST and np.ptp(vectors, axis=0).max() <= 1e-7 * np.abs(vectors).max():
            raise SparringError(
                f"{self.model.name}: {len(vectors)} passages have the same vector: head or encoder is wrong"
            )

    def _keep(self, topics: Sequence[Candidates], fresh: Sequence[Groups], scored: Scored) -> NDArray[np.float64]:
        """Remembers the vectors of a batch, (S, 1 + 2r); SparringError where one is not finite, or has no room."""
        owner, row = scored.shard.owner(scored.groups)
        who = [(topics[t], int(fresh[t][r, 0])) for t, r in zip(owner.tolist(), row.tolist(), strict=True)]
        if scored.values is None:
            topic, position = who[0]
            raise SparringError(
                f"{self.model.name}: topic {topic.qid}, document {topic.docids[position]}: out of memory with "
                "this one passage; try a smaller --max-length or another --device"
            )
        values = np.asarray(scored.values.cpu().numpy(), np.float64)
        for (topic, position), feature in zip(who, values, strict=True):
            if not np.isfinite(feature).all():
                raise SparringError(
                    f"{self.model.name}: topic {topic.qid}, document {topic.docids[position]}: the vector is not "
                    f"finite in {dtype_name(self.dtype)}: try --dtype float32, else the weights are damaged"
                )
            self._features[_key(topic, position)] = feature
        return values


def _key(topic: Candidates, position: int) -> tuple[str, str]:
    return topic.query, topic.texts[position] or ""


@families.register("late_pair")
@dataclass(frozen=True)
class LatePairs:
    """An encoder that reads each candidate once, and a small antisymmetric head that compares the vectors."""

    about: ClassVar[About] = About(
        "pairwise",
        "its own batches",
        'the logit of "the first is better", from vectors of passages read once',
        made_by="sparring train --family late_pair",
    )
    max_length: int | None = None

    def claims(self, checkpoint: Checkpoint) -> bool:
        """Folders with a ``pair_head.safetensors``; they also say so in their config."""
        return checkpoint.plain and (checkpoint.folder / HEAD_FILE).is_file()

    def load(self, checkpoint: Checkpoint) -> LatePairEncoder:
        """Loads encoder and head; only encoders whose attention can be packed are served."""
        from transformers import AutoModel

        if checkpoint.model_type not in PACKABLE:
            raise InputError(
                f"{checkpoint.name}: model_type {checkpoint.model_type!r} is not an encoder of this family "
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
