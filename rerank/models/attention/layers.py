"""The inner parts of transformers' post-norm encoders, by the names that they have there.

transformers promises nothing about the names of sub-modules. Tried with transformers 5.23;
``tests/rerank/models/attention/test_layers.py`` says which release renamed one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

TYPED = frozenset({"bert", "electra"})
"""Families whose forward pass takes token types; the others have one type, which is the default."""
POST_NORM = frozenset({"bert", "electra", "roberta", "xlm-roberta", "camembert"})
"""Families with the layout of BERT: what `PostNormParts` and `LayerParts` read."""


@dataclass(frozen=True, slots=True)
class EmbeddingParts:
    """The embeddings of an encoder; ``project`` follows where they are narrower than the layers (ELECTRA)."""

    words: nn.Embedding
    positions: nn.Embedding
    types: nn.Embedding
    norm: nn.LayerNorm
    project: nn.Linear | None


@dataclass(frozen=True, slots=True)
class LayerParts:
    """One layer: attention with its output and norm, then the feed-forward with its output and norm."""

    query: nn.Linear
    key: nn.Linear
    value: nn.Linear
    attention_out: nn.Linear
    attention_norm: nn.LayerNorm
    inner: nn.Linear
    activation: Callable[[torch.Tensor], torch.Tensor]
    out: nn.Linear
    norm: nn.LayerNorm


@dataclass(frozen=True, slots=True)
class PostNormParts:
    """An encoder taken apart.

    Args:
        heads, head_size: of every layer.
        exact_gelu: whether ``activation`` is the exact GELU, as the config says.
    """

    embeddings: EmbeddingParts
    layers: tuple[LayerParts, ...]
    heads: int
    head_size: int
    exact_gelu: bool


def parts_of(body: Any) -> PostNormParts:
    """Takes apart a transformers encoder whose ``model_type`` is in `POST_NORM`; weights are shared with it."""
    config, embeddings = body.config, body.embeddings
    narrow = config.model_type == "electra" and config.embedding_size != config.hidden_size
    return PostNormParts(
        EmbeddingParts(
            embeddings.word_embeddings,
            embeddings.position_embeddings,
            embeddings.token_type_embeddings,
            embeddings.LayerNorm,
            body.embeddings_project if narrow else None,
        ),
        tuple(_layer(layer) for layer in body.encoder.layer),
        config.num_attention_heads,
        config.hidden_size // config.num_attention_heads,
        config.hidden_act == "gelu",
    )


def _layer(layer: Any) -> LayerParts:
    own, mixed, fed = layer.attention.self, layer.attention.output, layer.output
    return LayerParts(
        query=own.query,
        key=own.key,
        value=own.value,
        attention_out=mixed.dense,
        attention_norm=mixed.LayerNorm,
        inner=layer.intermediate.dense,
        activation=layer.intermediate.intermediate_act_fn,
        out=fed.dense,
        norm=fed.LayerNorm,
    )
