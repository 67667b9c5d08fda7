"""Bi-encoders as scorers: sentence-transformers models with their own prompts, pooling and similarity."""

from __future__ import annotations

import contextlib
import hashlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from ....engine.devices import choose_device, choose_dtype
from ....engine.model import SCHEDULES, ScorerOptions
from ....engine.precision import claim_precision, described, in_precision
from ....engine.stats import observe_memory
from ....errors import InputError, UsageError
from ....registry import families
from ....stats import Stats
from ....vocabulary import Candidates, Groups, Outcomes, Sink, blank, unknown_rows
from ...checkpoints import Checkpoint
from ...layout import Kind
from ...loading import check_embeds
from ...tokenizers import check_tokenizer
from ..about import About, Example

Compare = Callable[[Any, str, torch.Tensor], torch.Tensor]
"""From an encoder, a query and the embeddings of passages (n, d) to scores (n,)."""


def similarity(encoder: Any, query: str, passages: torch.Tensor) -> torch.Tensor:
    """The model's own similarity (cosine, dot, ...) of a query's embedding with those of passages, (n,)."""
    vector = encoder.encode_query([query], show_progress_bar=False)
    compared: torch.Tensor = encoder.similarity(torch.from_numpy(np.asarray(vector, np.float32)), passages)
    return compared[0]


class BiEncoder:
    """A sentence-transformers model, loaded; a `sparring.rerank.engine.model.OwnScorer` of width 1."""

    width: int | None = 1
    schedule = SCHEDULES[1]

    def __init__(
        self, checkpoint: Checkpoint, encoder: Any, fingerprint: str, compare: Compare = similarity
    ) -> None:
        self.name = checkpoint.name
        self.encoder, self.fingerprint, self.compare = encoder, fingerprint, compare
        self.tokenizer = encoder.tokenizer
        self.max_length: int | None = encoder.max_seq_length

    def scorer(self, options: ScorerOptions) -> BiEncoderScorer:
        """Places the encoder on a device; it batches on its own, by the numbers of texts that suit devices."""
        options.refuse(self.name, "a bi-encoder encodes by numbers of texts", "token_budget")
        return BiEncoderScorer(self, options)


class BiEncoderScorer:
    """Compares queries with embeddings of passages; a `sparring.rerank.vocabulary.Scorer` of width 1.

    The texts of a topic are encoded together, each distinct one once, whatever came before: a run that goes on
    makes the batches of an uninterrupted one. Scores are in fp32.
    """

    width: int | None = 1
    remembers = False

    def __init__(self, model: BiEncoder, options: ScorerOptions) -> None:
        self.model, self.encoder = model, model.encoder
        self.device = choose_device(options.device)
        self.dtype = choose_dtype(options.dtype, self.device)
        if self.device.type == "cuda":
            options.refuse(model.name, "its kernels on a GPU are not the same from run to run", "deterministic")
        claim_precision(model, self.dtype)
        self.encoder.to(device=self.device)
        self.encoder[0].to(dtype=self.dtype)  # pooling, projections and similarity stay in fp32
        self.fingerprint = in_precision(model.fingerprint, self.dtype)
        self.batch_size = 256 if self.device.type == "cuda" else 16
        self.stats = Stats()

    @property
    def description(self) -> Mapping[str, object]:
        """What the fingerprint stands for, in readable fields."""
        return described(self.model, self.dtype)

    def close(self) -> None:
        """Nothing is held but the model's memory, which goes with the model."""

    def __call__(
        self,
        topics: Sequence[Candidates],
        groups: Sequence[Groups],
        sink: Sink | None = None,
        known: Sequence[Outcomes] | None = None,
    ) -> list[Outcomes]:
        """Similarities, (g, 1) for each topic, in the order asked; a topic is done whole, or not at all."""
        start = time.perf_counter()
        results = []
        for index, (topic, rows) in enumerate(zip(topics, groups, strict=True)):
            if rows.ndim != 2 or (len(rows) and rows.shape[1] != 1):
                raise UsageError(f"topic {topic.qid}: a bi-encoder scores groups of 1, found shape {rows.shape}")
            before = blank(rows, 1) if known is None else known[index]
            fresh = np.flatnonzero(unknown_rows(before))
            self.stats.groups += len(rows)
            self.stats.sequences += len(rows)
            if not len(fresh):
                results.append(before)
                continue
            outcomes = np.where(np.isnan(before), self._topic(topic, rows[:, 0]), before)
            results.append(outcomes)
            if sink is not None:
                sink(np.full(len(fresh), index, np.int64), fresh, outcomes[fresh])
        self.stats.seconds += time.perf_counter() - start
        self.stats.count_ties(results)
        observe_memory(self.stats, self.device)
        return results

    def encode(self, texts: Sequence[str | None]) -> NDArray[np.float32]:
        """Embeddings of passages, (n, d), each distinct text encoded once."""
        clean = [_valid(text) for text in texts]
        distinct = list(dict.fromkeys(clean))
        with self._counting():
            vectors = self.encoder.encode_document(distinct, batch_size=self.batch_size, show_progress_bar=False)
        where = {text: row for row, text in enumerate(distinct)}
        found: NDArray[np.float32] = np.asarray(vectors, np.float32)[[where[text] for text in clean]]
        return found

    def _topic(self, topic: Candidates, positions: NDArray[np.int32]) -> Outcomes:
        texts = [topic.texts[i] for i in positions.tolist()]
        self.stats.empty_texts += sum(not text or text.isspace() for text in texts)
        passages = self.encode(texts)
        compared = self.model.compare(self.encoder, _valid(topic.query), torch.from_numpy(passages))
        scores: NDArray[np.float64] = compared.numpy().astype(np.float64)[:, None]
        return scores

    @contextlib.contextmanager
    def _counting(self) -> Iterator[None]:
        """Counts the tokens that go through the encoder's body."""

        def count(module: Any, inputs: Any, features: dict[str, Any]) -> None:
            mask = features["attention_mask"]
            tokens = int(mask.sum())
            self.stats.batches += 1
            self.stats.tokens += tokens
            self.stats.computed += tokens
            self.stats.padding += mask.numel() - tokens

        handle = self.encoder[0].register_forward_hook(count)
        try:
            yield
        finally:
            handle.remove()


def to_fp32(module: Any, inputs: Any, features: dict[str, Any]) -> dict[str, Any]:
    """A forward hook of the body: pooling, projections and similarity work in fp32."""
    return features | {"token_embeddings": features["token_embeddings"].float()}


def _valid(text: str | None) -> str:
    """Text that a tokenizer takes: no lone surrogates, nothing instead of None."""
    if not text:
        return ""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace") if not text.isascii() else text


@families.register("bi_encoder")
@dataclass(frozen=True)
class BiEncoders:
    """sentence-transformers models with a pooling module, scored by the similarity of query and passage."""

    about: ClassVar[About] = About(
        "pointwise",
        "its own batches",
        "the similarity of the embeddings of query and passage: cosine, dot or another",
        examples=(
            Example("minilm", "apache-2.0, embedded"),
            Example("sentence-transformers/all-MiniLM-L6-v2", "apache-2.0"),
            Example("BAAI/bge-base-en-v1.5", "mit"),
        ),
    )
    max_length: int | None = None

    def claims(self, checkpoint: Checkpoint) -> bool:
        """Folders of sentence-transformers whose modules make one embedding of a text."""
        return checkpoint.layout.kind is Kind.BI_ENCODER

    def load(self, checkpoint: Checkpoint) -> BiEncoder:
        """Loads the model with sentence-transformers, in fp32."""
        if checkpoint.plain:
            raise InputError(f"{checkpoint.name}: no modules.json: not a sentence-transformers model")
        encoder = load_encoder(checkpoint, self.max_length)
        encoder[0].register_forward_hook(to_fp32)
        return BiEncoder(checkpoint, encoder, encoder_fingerprint(checkpoint, encoder.max_seq_length))


def load_encoder(checkpoint: Checkpoint, max_length: int | None = None, **config: Any) -> Any:
    """The ``SentenceTransformer`` of a folder, on the CPU in fp32; ``max_length`` and ``config`` replace its own.

    A plain encoder gets mean pooling. Raises UsageError where the length does not fit, InputError for another
    kind of model.
    """
    from sentence_transformers import SentenceTransformer

    if not checkpoint.plain:
        check_embeds(checkpoint)
    check_tokenizer(checkpoint)
    encoder = SentenceTransformer(
        str(checkpoint.folder),
        device="cpu",
        trust_remote_code=False,
        local_files_only=True,
        model_kwargs={"use_safetensors": True, "dtype": torch.float32},
        config_kwargs=config,
    ).eval()
    if max_length is not None:
        if encoder.max_seq_length is not None and not 8 <= max_length <= _limit(checkpoint):
            raise UsageError(f"max_length {max_length} is outside 8 .. {_limit(checkpoint)}")
        encoder.max_seq_length = max_length
    return encoder


def _limit(checkpoint: Checkpoint) -> int:
    return int(checkpoint.config.get("max_position_embeddings", 1 << 20))


def encoder_fingerprint(checkpoint: Checkpoint, max_length: int | None) -> str:
    """SHA-256 over weights, config and the settings of all modules, and the length to which texts are cut."""
    from ....data.atomic import sha256

    parts = [checkpoint.digest(), str(max_length)]
    for path in sorted(checkpoint.folder.rglob("*")):
        if path.suffix in (".json", ".safetensors") and path not in checkpoint.weights:
            parts.append(f"{path.relative_to(checkpoint.folder)} {sha256(path)}")
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()
