"""Heads of transformers' models, by the names that they have there: taken off, or read.

transformers promises nothing about the names of sub-modules. Tried with transformers 5.23;
``tests/rerank/models/test_heads.py`` says which release renamed one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

Head = Callable[[torch.Tensor], torch.Tensor]


def detach_head(module: Any) -> tuple[Head, list[nn.Module]]:
    """The head of a sequence classifier as a function of first-token states (S, H), and its modules.

    BERT's and DeBERTa's pooler is taken away from its owner, so that the body's forward pass leaves it out.
    """
    kind, classifier = module.config.model_type, module.classifier
    if kind == "modernbert":
        dense = module.head
        return lambda x: classifier(dense(x)), [dense, classifier]
    if kind in ("bert", "deberta-v2"):
        owner = module.base_model if kind == "bert" else module
        pooler, owner.pooler = owner.pooler, None
        return lambda x: classifier(pooler(x[:, None])), [pooler, classifier]
    return lambda x: classifier(x[:, None]), [classifier]


def decoder_head(module: Any) -> nn.Linear | None:
    """The head of a sequence classifier on a decoder, ``score``; None where the classifier is of another make."""
    found = dict(module.named_children()).get("score")
    return found if isinstance(found, nn.Linear) else None


def seq2seq_parts(module: Any) -> tuple[Any, Any, torch.Tensor]:
    """Encoder, decoder and output embedding (V, d) of a T5; the weights are shared with it."""
    return module.encoder, module.decoder, module.get_output_embeddings().weight.detach()
