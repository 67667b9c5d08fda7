"""What can be trained: one file per family of rankers, written as a call: ``late_pair(rank=8)``.

A kind turns a checkpoint into a `sparring.train.rankers.ranker.Ranker`, which is trained and saved as a folder
that `sparring.rerank.models.loading.load` reads.
"""

from __future__ import annotations

from dataclasses import dataclass

from ...rerank.errors import UsageError
from ...rerank.registry import Registry
from .adapters import Adapter

kinds = Registry("family of rankers", "sparring.train.rankers")
USUAL_LENGTH = 256
"""Tokens of one input where nobody says how many."""


@dataclass(frozen=True)
class Start:
    """Where training starts, and how the body is run.

    Args:
        name: a folder, ``minilm`` (embedded) or a name on the hub. Where it lacks the head of the kind, a new one
            is made; that is what training is for.
        max_length: tokens of one input sequence; by default `USUAL_LENGTH`, or what the model reads if less.
        dropout: replaces the dropout of the checkpoint.
        caching: keep no activations: each batch is computed again in the backward pass (gradient caching), so that
            a list of any length needs the memory of one batch.
        checkpointing: keep the activations between layers only, and compute those inside again.
        adapter: what is trained in place of the body's own weights.
    """

    name: str
    max_length: int | None = None
    dropout: float | None = None
    caching: bool = False
    checkpointing: bool = False
    adapter: Adapter | None = None

    def refuse_adapter(self, kind: str) -> None:
        """Raises UsageError where an adapter is asked of a kind that saves its weights in a layout of its own."""
        if self.adapter is not None:
            raise UsageError(f"--adapter {self.adapter} is not for {kind}, which is saved whole: leave it out")
