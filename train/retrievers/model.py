"""What is trained into a retriever: a sentence-transformers model, alone or with the codes of a poly-encoder."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ...rerank.console import log
from ...rerank.data.atomic import atomic_write
from ...rerank.errors import UsageError
from ...rerank.models.checkpoints import find
from ...rerank.models.families.encoders.bi_encoder import load_encoder
from ...rerank.models.families.encoders.poly_encoder import (
    CODES_FILE,
    CONTEXTS,
    PolyCodes,
    poly_scores,
    token_width,
)
from ...rerank.models.loading import EMBEDDERS, FAMILY_KEY
from ...rerank.registry import Registry
from ...rerank.search.bi_encoder import batches
from ..loop.development import Development
from ..rankers.kinds import USUAL_LENGTH
from .data import DOCUMENT, QUERY
from .losses import LibraryLoss, PassageCentric, RetrieverLoss, parse

retrievers = Registry("family of retrievers", "sparring.train.retrievers.model")
VECTOR = "sentence_embedding"


class RetrieverKind(Protocol):
    """What is trained; registered in `retrievers`."""

    def codes(self, folder: Path, body: Any) -> PolyCodes | None:
        """The codes behind a checkpoint's body, if there are any."""
        ...


@retrievers.register("bi_encoder")
@dataclass(frozen=True)
class BiEncoderKind:
    """Query and passage are encoded apart and compared by the model's own similarity."""

    def codes(self, folder: Path, body: Any) -> PolyCodes | None:
        """None."""
        return None


@retrievers.register("poly_encoder")
@dataclass(frozen=True)
class PolyEncoderKind:
    """``codes`` learned vectors read the query, and each passage weighs anew what they found."""

    codes_: int = 64

    def __post_init__(self) -> None:
        if self.codes_ < 1:
            raise ValueError("codes must be at least 1")

    def codes(self, folder: Path, body: Any) -> PolyCodes | None:
        """Those of the checkpoint, else new ones."""
        hidden = token_width(body, str(folder))
        return (
            PolyCodes.load(folder, hidden) if (folder / CODES_FILE).is_file() else PolyCodes(self.codes_, hidden)
        )


def named(kind: str, loss: str, list_size: int) -> tuple[RetrieverKind, RetrieverLoss | LibraryLoss]:
    """The kind and the loss that two specs name; UsageError where they are unknown or do not fit."""
    found, cost = retrievers.parse(kind), parse(loss, list_size)
    if isinstance(found, PolyEncoderKind) and isinstance(cost, LibraryLoss | PassageCentric):
        raise UsageError(f"--loss {cost} compares vectors with vectors: a poly-encoder has none of its query")
    return found, cost


class Retriever:
    """A model under training with everything around it.

    Attributes:
        body: the plain ``SentenceTransformer``: what is saved, and what encodes passages.
        model: what the trainer sees: the body's own modules, and behind them the codes of a poly-encoder.
        scale: of similarities in losses that name none: 20 for cosines, else 1.
    """

    def __init__(self, name: str, kind: RetrieverKind, max_length: int | None, dropout: float | None) -> None:
        found = find(name)
        if found.plain:
            head = (
                "" if found.architecture.endswith(EMBEDDERS) else f"; its head ({found.architecture}) is left out"
            )
            log.warning("%s has no modules.json: mean pooling of the last layer is assumed%s", name, head)
        names = ("hidden_dropout_prob", "attention_probs_dropout_prob", "attention_dropout", "mlp_dropout")
        options = {key: dropout for key in names if key in found.config and dropout is not None}
        self.body = load_encoder(found, max_length, **options)
        if max_length is None and self.body.max_seq_length is not None:
            self.body.max_seq_length = min(USUAL_LENGTH, self.body.max_seq_length)
        self.codes = kind.codes(found.folder, self.body)
        self.model = self.body
        if self.codes is not None:
            from sentence_transformers import SentenceTransformer

            self.model = SentenceTransformer(
                modules=[*self.body, self.codes],
                device="cpu",
                prompts=self.body.prompts,
                default_prompt_name=self.body.default_prompt_name,
            )
        self.scale = 20.0 if self.codes is None and self.body.similarity_fn_name == "cosine" else 1.0

    def similarity(self, queries: Tensor, documents: Tensor) -> Tensor:
        """Queries (Q, d), or contexts (Q, m, d), with documents (N, d): (Q, N)."""
        if queries.ndim == 3:
            return poly_scores(queries, documents)
        compared: Tensor = self.body.similarity(queries, documents)
        return compared

    def prompts(self) -> dict[str, str]:
        """The prompts with which sentence-transformers encodes queries and documents, by column."""
        known = self.body.prompts
        default = known.get(self.body.default_prompt_name, "")
        names = (DOCUMENT, "passage", "corpus")
        return {
            QUERY: known.get(QUERY, default),
            DOCUMENT: next((known[name] for name in names if name in known), default),
        }

    def save(self, folder: Path) -> None:
        """Writes a sentence-transformers model in safetensors, and the codes beside it."""
        folder.mkdir(parents=True, exist_ok=True)
        self.body.save_pretrained(str(folder), create_model_card=False)
        path = folder / "config.json"
        config = json.loads(path.read_text(encoding="utf-8"))
        config.pop(FAMILY_KEY, None)
        if self.codes is not None:
            config[FAMILY_KEY] = "poly_encoder"
            self.codes.save(folder)
        with atomic_write(path) as stream:
            stream.write(json.dumps(config, indent=2, sort_keys=True) + "\n")

    def load(self, folder: Path) -> None:
        """Takes the weights that `save` wrote."""
        self.body.load_state_dict(load_encoder(find(str(folder))).state_dict())
        if self.codes is not None:
            codes = PolyCodes.load(folder, self.codes.codes.shape[1])
            self.codes.load_state_dict(codes.state_dict())


def embed(model: nn.Module, features: dict[str, Any], feature: str, budget: int, caching: bool = False) -> Tensor:
    """What a model says of tokenised texts, (B, ...) in fp32: parts of like length and at most ``budget`` tokens.

    Args:
        feature: the output that is wanted.
        caching: keep no activations: each part is computed again in the backward pass.
    """
    mask = features["attention_mask"]
    order, found = [], []
    for rows in batches(mask.sum(1).cpu().numpy(), budget):
        chosen = torch.from_numpy(rows).to(mask.device)
        kept = mask[chosen].any(0)
        part = {
            key: value[chosen][:, kept] if isinstance(value, Tensor) and value.shape == mask.shape else value
            for key, value in features.items()
        }
        if caching and model.training:
            vectors = checkpoint(lambda inner: model(dict(inner))[feature], part, use_reentrant=False)
        else:
            vectors = model(part)[feature]
        order.append(chosen)
        found.append(vectors.float())
    return torch.cat(found)[torch.cat(order).argsort()]


class RetrieverJudge:
    """Reranks the development set with a retriever, as `sparring rerank` would with the saved model."""

    def __init__(self, development: Development) -> None:
        self.development = development

    @torch.inference_mode()
    def __call__(self, retriever: Retriever, dtype: torch.dtype) -> float:
        """The measure now; the body runs in ``dtype``."""
        training = retriever.model.training
        with torch.autocast(retriever.body.device.type, dtype=dtype, enabled=dtype != torch.float32):
            scores = [self._topic(retriever, topic.query, list(topic.texts)) for topic in self.development.topics]
        retriever.model.train(training)
        return self.development.value(np.concatenate(scores))

    def _topic(self, retriever: Retriever, query: str, texts: Sequence[str]) -> NDArray[np.float64]:
        quiet: dict[str, Any] = {"show_progress_bar": False, "convert_to_tensor": True}
        passages = retriever.body.encode_document(texts, batch_size=16, **quiet).float()
        wanted = VECTOR if retriever.codes is None else None
        asked = retriever.model.encode_query([query], output_value=wanted, **quiet)
        asked = asked.float() if retriever.codes is None else asked[0][CONTEXTS][None]
        with torch.autocast(passages.device.type, enabled=False):
            scores: NDArray[np.float64] = retriever.similarity(asked, passages)[0].double().cpu().numpy()
        return scores
