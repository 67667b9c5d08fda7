"""What the engine asks of a model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from .templates import Template, Truncation

if TYPE_CHECKING:
    import torch

    from .batches import Batch


class Model(Protocol):
    """Weights with a template: turns batches of token ids into raw fp32 scores.

    Attributes:
        name: what the user called it.
        width: passages in one group: 1, 2, or None for any number.
        fingerprint: SHA-256 of weights, config, template and truncation; with a dtype it keys stored outcomes.
        tokenizer: a fast tokenizer of transformers.
        template, truncation: how inputs are written and cut.
        first_position: the position of the first token (2 for RoBERTa).
        packed: whether a batch costs its true tokens; else rows of its longest sequence.
    """

    name: str
    width: int | None
    fingerprint: str
    tokenizer: Any
    template: Template
    truncation: Truncation
    first_position: int
    packed: bool

    def place(self, device: torch.device, dtype: torch.dtype, deterministic: bool = False) -> None:
        """Moves the weights to a device, the body in ``dtype`` and the head in fp32."""
        ...

    def forward(self, batch: Batch) -> torch.Tensor:
        """Raw fp32 scores (S,), one per sequence; of a pair the logit of "first is better"."""
        ...
