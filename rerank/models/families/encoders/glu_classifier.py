"""What gte's and JinaBERT's cross-encoders have in common: a `GluEncoder`, BERT's pooler and a classifier."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from ....engine.batches import Batch
from ....engine.templates import Truncation, pair_template
from ....errors import InputError
from ...attention.glu import GluEncoder, GluShape
from ...checkpoints import Checkpoint
from ...heads import label_names, label_score, score_column
from ...loading import clamp_length, fingerprint, load_tokenizer
from ...stored_weights import fill


class GluNetwork(nn.Module):
    """An encoder, its pooler and a head of ``labels`` rows; weights are found by these names."""

    def __init__(self, shape: GluShape, labels: int) -> None:
        super().__init__()
        self.body = GluEncoder(shape)
        self.pooler = nn.Linear(shape.width, shape.width)
        self.classifier = nn.Linear(shape.width, labels)


class GluClassifier:
    """A cross-encoder with a gated feed-forward; see `sparring.rerank.engine.model.Model`."""

    width: int | None = 1
    first_position = 0
    packed = True

    def __init__(
        self, checkpoint: Checkpoint, network: GluNetwork, tokenizer: Any, truncation: Truncation, column: int
    ) -> None:
        self.name = checkpoint.name
        self.network, self.tokenizer, self.truncation, self.column = network, tokenizer, truncation, column
        self.template = pair_template(tokenizer, network.body.shape.types > 1)
        self.fingerprint = fingerprint(checkpoint, self.template, truncation, column)
        self.deterministic = False

    def place(self, device: torch.device, dtype: torch.dtype, deterministic: bool = False) -> None:
        """Moves the body in ``dtype`` and the head in fp32 to a device."""
        self.deterministic = deterministic
        self.network.to(device=device)
        self.network.body.to(dtype)

    def forward(self, batch: Batch) -> torch.Tensor:
        """Raw fp32 scores, (S,)."""
        states = self.network.body(batch, self.deterministic).float()
        logits = self.network.classifier(torch.tanh(self.network.pooler(states)))
        return label_score(logits, self.column)


def build(
    checkpoint: Checkpoint,
    shape: GluShape,
    state: Mapping[str, torch.Tensor],
    what: str,
    label: str | int | None,
    max_length: int | None,
) -> GluClassifier:
    """The classifier of a shape and its weights, by the names of a `GluNetwork`; ``what`` is told in errors."""
    head = state.get("classifier.weight")
    if head is None:
        raise InputError(f"{checkpoint.name}: not {what}: the weights hold no classifier.weight")
    names = label_names(checkpoint.config, len(head))
    column = score_column(checkpoint, names, label)
    network = GluNetwork(shape, len(names))
    fill(checkpoint, network, state, what)
    tokenizer = load_tokenizer(checkpoint)
    limit = int(checkpoint.config.get("max_position_embeddings", 512))
    length = clamp_length(max_length, limit, tokenizer.model_max_length)
    return GluClassifier(checkpoint, network.eval(), tokenizer, Truncation(length), column)


def by_layer(names: Mapping[str, str], layer: Mapping[str, str], layers: int) -> dict[str, str]:
    """Pairs of (a module here, its name in the checkpoint), those of one layer repeated for all of them."""
    found = dict(names)
    for i in range(layers):
        found |= {f"body.layers.{i}.{ours}": theirs.format(i=i) for ours, theirs in layer.items()}
    return found


def renamed(
    state: Mapping[str, torch.Tensor], modules: Mapping[str, str], parts: Mapping[str, tuple[str, ...]]
) -> dict[str, torch.Tensor]:
    """Weights by the names of a `GluNetwork`; what no module here has keeps its name, so that it is noticed.

    Args:
        modules: a module here → its name in the checkpoint.
        parts: a module here → modules of the checkpoint that lie below each other in it.
    """
    left = dict(state)
    found: dict[str, torch.Tensor] = {}
    for kind in ("weight", "bias"):
        for ours, theirs in modules.items():
            if f"{theirs}.{kind}" in left:
                found[f"{ours}.{kind}"] = left.pop(f"{theirs}.{kind}")
        for ours, several in parts.items():
            if all(f"{part}.{kind}" in left for part in several):
                found[f"{ours}.{kind}"] = torch.cat([left.pop(f"{part}.{kind}") for part in several])
    return found | left


def number(checkpoint: Checkpoint, key: str) -> int:
    """A size that the config must give; raises InputError where it does not."""
    value = checkpoint.config.get(key)
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise InputError(f"{checkpoint.name}: config.json gives {key} {value!r}, which is no size")
    return value
