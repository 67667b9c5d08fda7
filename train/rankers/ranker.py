"""The model under training: sequences are read in packed batches, then scored in the groups of its kind."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ...rerank.engine.batches import Batch
from ..data.collator import Layout
from ..losses import Loss
from .kinds import Start


class Ranker(nn.Module, ABC):
    """Scores groups of candidates with gradients, by the forward code that `sparring.rerank.models` runs.

    The body runs in the precision of the surrounding autocast, heads always in fp32. All batches of a step go
    through one forward call, so that data-parallel wrappers see one forward and one backward.

    Args:
        start: where it comes from.
        tokenizer: a fast tokenizer of transformers.
        layout: how its input is laid out, and the width of its groups.
    """

    def __init__(self, start: Start, tokenizer: Any, layout: Layout) -> None:
        super().__init__()
        self.name = start.name
        self.caching = start.caching
        self.tokenizer = tokenizer
        self.layout = layout
        self.head_parameters: set[int] = set()

    @abstractmethod
    def read(self, batch: Batch) -> Tensor:
        """What each sequence of a batch gives, (S, ...), in fp32."""

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Writes a folder that `sparring.rerank.models.loading.load` reads: safetensors, config, tokenizer."""

    @abstractmethod
    def load(self, folder: Path) -> None:
        """Takes the weights that `save` wrote."""

    def combine(self, rows: Tensor, table: Tensor) -> Tensor:
        """Scores of groups, (G, w), from what their sequences gave, (R, ...).

        ``table`` (G, w) holds the rows of each group's members, -1 under the padding, where scores are 0.
        """
        scores = rows[table.clamp(min=0)]
        real = (table >= 0).view(*table.shape, *[1] * (scores.ndim - 2))
        return torch.where(real, scores, scores.new_zeros(()))

    def forward(self, batches: Sequence[Batch], order: Tensor, table: Tensor) -> Tensor:
        """Raw fp32 scores of groups, (G, w); the arguments are those that `sparring.train.data.collator` makes."""
        device = self.device
        again = self.caching and self.training
        placed = [batch.to(device) for batch in batches]
        read = [
            checkpoint(self.read, batch, use_reentrant=False) if again else self.read(batch) for batch in placed
        ]
        rows = torch.cat(read)[order.to(device).argsort()]
        return self.combine(rows, table.to(device))

    def objective(self, loss: Loss) -> Loss:
        """The loss to minimise, where the kind adds a task of its own."""
        return loss

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device

    def full_precision(self) -> AbstractContextManager[Any]:
        """Switches autocast off, for heads."""
        return torch.autocast(self.device.type, enabled=False)

    def mark_head(self, parts: Iterable[nn.Module]) -> None:
        """Parameters of these modules are trained with the head's learning rate."""
        for part in parts:
            part.requires_grad_(True)  # an adapter froze what lies in the body
            self.head_parameters |= {id(parameter) for parameter in part.parameters()}


def pair_scores(logits: Tensor) -> Tensor:
    """Logits of "first is better", (P,), as scores whose differences they are, (P, 2): what losses take."""
    half = logits / 2
    return torch.stack([half, -half], dim=1)


class Kind(Protocol):
    """A frozen dataclass registered in `kinds`; its fields are what can be chosen about the kind."""

    spec_name: ClassVar[str]

    def start(self, start: Start) -> Ranker:
        """A ranker that stands where ``start`` says, ready to be trained.

        Raises InputError where the checkpoint cannot become one of this kind.
        """
        ...
