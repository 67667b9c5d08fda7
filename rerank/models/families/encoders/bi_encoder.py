"""Bi-encoders as scorers: sentence-transformers models with their own prompts, pooling and similarity."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ....engine.devices import choose_device, choose_dtype, dtype_name
from ....engine.stats import EngineStats
from ....errors import InputError, UsageError
from ....registry import families
from ....vocabulary import Candidates, Groups, Outcomes, Sink
from ...checkpoints import Checkpoint

CACHED_TEXTS = 1 << 17
Compare = Callable[[Any, str, torch.Tensor], torch.Tensor]
"""From an encoder, a query and the embeddings of passages (n, d) to scores (n,)."""


def similarity(encoder: Any, query: str, passages: torch.Tensor) -> torch.Tensor:
    """The model's own similarity (cosine, dot, ...) of a query's embedding with those of passages, (n,)."""
    vector = encoder.encode_query([query], show_progress_bar=False)
    compared: torch.Tensor = encoder.similarity(torch.from_numpy(np.asarray(vector, np.float32)), passages)
    return compared[0]


class BiEncoder:
    """Compares queries with embeddings of passages; a `sparring.rerank.vocabulary.Scorer` of width 1.

    Every passage is encoded once; scores are in fp32.
    """

    width = 1

    def __init__(
        self, checkpoint: Checkpoint, encoder: Any, fingerprint: str, compare: Compare = similarity
    ) -> None:
        self.name = checkpoint.name
        self.encoder = encoder
        self.fingerprint = fingerprint
        self.compare = compare
        self.stats = EngineStats()
        self.batch_size = 32
        self._vectors: dict[str, NDArray[np.float32]] = {}
        encoder[0].register_forward_hook(_to_fp32)

    def scorer(self, *, device: str = "auto", dtype: str = "auto", **options: Any) -> BiEncoder:
        """Places the encoder on a device and returns itself; a bi-encoder batches on its own."""
        where = choose_device(device)
        precision = choose_dtype(dtype, where)
        self.encoder.to(device=where)
        self.encoder[0].to(dtype=precision)  # pooling, projections and similarity stay in fp32
        self.fingerprint = hashlib.sha256(f"{self.fingerprint} {dtype_name(precision)}".encode()).hexdigest()
        self.batch_size = 256 if where.type == "cuda" else 16
        return self

    def __call__(
        self, topics: Sequence[Candidates], groups: Sequence[Groups], sink: Sink | None = None
    ) -> list[Outcomes]:
        """Similarities, (g, 1) for each topic, in the order asked."""
        start = time.perf_counter()
        results = []
        for index, (topic, rows) in enumerate(zip(topics, groups, strict=True)):
            if rows.ndim != 2 or (len(rows) and rows.shape[1] != 1):
                raise UsageError(f"topic {topic.qid}: a bi-encoder scores groups of 1, found shape {rows.shape}")
            outcomes = self._topic(topic, rows[:, 0]) if len(rows) else np.empty((0, 1))
            results.append(outcomes)
            self.stats.groups += len(rows)
            self.stats.sequences += len(rows)
            if sink is not None and len(rows):
                sink(np.full(len(rows), index, np.int64), np.arange(len(rows), dtype=np.int64), outcomes)
        self.stats.seconds += time.perf_counter() - start
        self.stats.count_ties(results)
        self.stats.observe_memory(torch.device(self.encoder.device))
        return results

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Embeddings of passages, (n, d), each distinct text encoded once."""
        clean = [_valid(text) for text in texts]
        if len(self._vectors) > CACHED_TEXTS:
            self._vectors.clear()
        fresh = [text for text in dict.fromkeys(clean) if text not in self._vectors]
        if fresh:
            vectors = self.encoder.encode_document(fresh, batch_size=self.batch_size, show_progress_bar=False)
            self._vectors.update(zip(fresh, np.asarray(vectors, np.float32), strict=True))
        return np.stack([self._vectors[text] for text in clean])

    def _topic(self, topic: Candidates, positions: NDArray[np.int32]) -> Outcomes:
        texts = [topic.texts[i] for i in positions.tolist()]
        self.stats.empty_texts += sum(not text or text.isspace() for text in texts)
        passages = self.encode(texts)
        compared = self.compare(self.encoder, _valid(topic.query), torch.from_numpy(passages))
        scores: NDArray[np.float64] = compared.numpy().astype(np.float64)[:, None]
        return scores


def _to_fp32(module: Any, inputs: Any, features: dict[str, Any]) -> dict[str, Any]:
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

    max_length: int | None = None
    POOLING: str = field(default="Pooling", init=False, repr=False)

    def claims(self, checkpoint: Checkpoint) -> bool:
        """Folders whose ``modules.json`` has a pooling module."""
        path = checkpoint.folder / "modules.json"
        return path.is_file() and any(kind.rpartition(".")[2] == self.POOLING for kind in _modules(checkpoint))

    def load(self, checkpoint: Checkpoint) -> BiEncoder:
        """Loads the model with sentence-transformers, in fp32."""
        if not (checkpoint.folder / "modules.json").is_file():
            raise InputError(f"{checkpoint.name}: no modules.json: not a sentence-transformers model")
        encoder = load_encoder(checkpoint, self.max_length)
        return BiEncoder(checkpoint, encoder, encoder_fingerprint(checkpoint, encoder.max_seq_length))


def load_encoder(checkpoint: Checkpoint, max_length: int | None = None, **config: Any) -> Any:
    """The ``SentenceTransformer`` of a folder, on the CPU in fp32; ``max_length`` and ``config`` replace its own.

    A plain encoder gets mean pooling. Raises UsageError where the length does not fit.
    """
    from sentence_transformers import SentenceTransformer

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


def _modules(checkpoint: Checkpoint) -> list[str]:
    import json

    modules = json.loads((checkpoint.folder / "modules.json").read_text(encoding="utf-8"))
    return [str(module.get("type", "")) for module in modules]


def encoder_fingerprint(checkpoint: Checkpoint, max_length: int | None) -> str:
    """SHA-256 over weights, config and the settings of all modules, and the length to which texts are cut."""
    from ....data.atomic import sha256

    parts = [checkpoint.digest(), str(max_length)]
    for path in sorted(checkpoint.folder.rglob("*")):
        if path.suffix in (".json", ".safetensors") and path not in checkpoint.weights:
            parts.append(f"{path.relative_to(checkpoint.folder)} {sha256(path)}")
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()
