"""Fields of transformers' configs that not every family has."""

from __future__ import annotations

from typing import Any

WITH_TYPES = frozenset({"bert", "electra", "roberta", "xlm-roberta", "xlm-roberta-xl", "camembert", "deberta-v2"})
"""Families whose config says how many token types there are; ModernBERT has none."""


def token_types(config: Any) -> int:
    """How many token types an encoder has; 0 without any."""
    return int(config.type_vocab_size) if config.model_type in WITH_TYPES else 0


def mean_pooled(config: Any) -> bool:
    """Whether the head of a classifier reads the mean of all states: ModernBERT says so, others read the first."""
    return bool(config.model_type == "modernbert" and config.classifier_pooling == "mean")


def position_limit(config: Any) -> int | None:
    """How many positions a decoder has; None where its config sets no limit (BLOOM, MPT)."""
    name = config.attribute_map.get("max_position_embeddings", "max_position_embeddings")  # GPT-2: n_positions
    limit = config.to_dict().get(name)
    return None if limit is None else int(limit)
