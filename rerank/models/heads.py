"""Heads of classifiers: taken off transformers' models by the names they have there, and which row is the score.

One label is the score. Of several, a label's score is the log-odds of its probability: with two, ``l1 - l0`` for
the second, which orders as its softmax does. More than two say what is relevant only by name (an NLI head:
entailment, neutral, contradiction), so that the user must name it.

transformers promises nothing about the names of sub-modules. Tried with transformers 5.23;
``tests/rerank/models/test_heads.py`` says which release renamed one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from ..errors import InputError
from .checkpoints import Checkpoint

Head = Callable[[torch.Tensor], torch.Tensor]
YES = frozenset({"relevant", "yes", "true", "positive", "entailment", "match"})
NO = frozenset({"irrelevant", "not relevant", "not_relevant", "non-relevant", "no", "false", "negative"})


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


def label_names(config: Mapping[str, Any], rows: int) -> list[str]:
    """The names of a head's ``rows`` labels, in their order; ``LABEL_0`` and so on where the config names none."""
    names = config.get("id2label")
    if isinstance(names, dict) and len(names) == rows:
        return [str(names[key]) for key in sorted(names, key=int)]
    return [f"LABEL_{i}" for i in range(rows)]


def score_column(checkpoint: Checkpoint, names: list[str], label: str | int | None) -> int:
    """The row of the head that is the score; ``label`` is its name or its number.

    Raises InputError where there is no such label, or where it must be named.
    """
    count, listed = len(names), ", ".join(names)
    if label is not None:
        lowered = [name.lower() for name in names]
        if str(label).lower() in lowered:
            return lowered.index(str(label).lower())
        if str(label).isdigit() and int(label) < count:
            return int(label)
        raise InputError(f"{checkpoint.name}: the head has no label {label!r}; it has {listed}")
    if count > 2:
        raise InputError(
            f"{checkpoint.name}: the head has {count} labels ({listed}); a reranker has 1 or 2: name the one that "
            "means relevant with the family's option label=..."
        )
    if count == 2 and (names[0].lower() in YES or names[1].lower() in NO):
        raise InputError(
            f"{checkpoint.name}: of the two labels ({listed}) the second is not the one that means relevant: name "
            "it with the family's option label=..."
        )
    return count - 1


def label_score(logits: torch.Tensor, column: int) -> torch.Tensor:
    """Scores (S,) of logits (S, labels): the log-odds of one label."""
    if logits.shape[1] == 1:
        return logits[:, 0]
    if logits.shape[1] == 2:
        return logits[:, column] - logits[:, 1 - column]
    others = torch.cat([logits[:, :column], logits[:, column + 1 :]], dim=1)
    return logits[:, column] - others.logsumexp(dim=1)
