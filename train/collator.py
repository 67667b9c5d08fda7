"""Lists of text become packed batches: every text is tokenised once, sorted by length, cut to a token budget."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ..rerank.batching import Batch, TokenStore, build_sequences, gather, plan
from ..rerank.templates import Template, Text, Truncation
from .data import Example

STORE_TOKENS = 50_000_000
"""The store of token ids is emptied when it is larger: 200 MB."""


@dataclass(frozen=True, slots=True)
class Layout:
    """How a kind of model reads its input."""

    template: Template
    truncation: Truncation
    first_position: int
    packed: bool


class Collator:
    """Callable for a DataLoader: examples to ``{"batches", "order", "labels", "mask"}``.

    ``batches`` hold every candidate of every list once, longest first, at most ``budget`` tokens each. Sequence s
    of all batches is the ``order[s]``-th candidate of the lists, (S,). labels and mask are (Q, n).
    """

    def __init__(self, tokenizer: Any, layout: Layout, budget: int) -> None:
        self.layout = layout
        self.budget = budget
        self.store = TokenStore(tokenizer, layout.truncation.max_length)

    def __call__(self, examples: Sequence[Example]) -> dict[str, Any]:
        rows = [(example.query, text) for example in examples for text in example.texts]
        batches, order = self.batches(rows)
        width = max(len(example.labels) for example in examples)
        labels = torch.zeros(len(examples), width)
        mask = torch.zeros(len(examples), width, dtype=torch.bool)
        for number, example in enumerate(examples):
            labels[number, : len(example.labels)] = torch.from_numpy(example.labels)
            mask[number, : len(example.labels)] = True
        return {"batches": batches, "order": torch.from_numpy(order), "labels": labels, "mask": mask}

    def batches(self, rows: Sequence[tuple[str, str]]) -> tuple[list[Batch], NDArray[np.int64]]:
        """Packed batches of (query, passage) rows, and the row that each of their sequences is, (S,)."""
        if len(self.store.flat) > STORE_TOKENS:
            self.store.clear()
        queries = self.store.entries([self._render("query", query) for query, _ in rows])
        passages = self.store.entries([self._render("passage", text) for _, text in rows])
        group = np.arange(len(rows))
        layout = self.layout
        sequences = build_sequences(
            self.store, layout.template, layout.truncation, queries, passages[:, None], group
        )
        ones = np.ones(len(rows), np.int64)
        parts = list(plan(sequences.tokens, sequences.tokens, ones, self.budget, not layout.packed))
        batches = [gather(self.store, layout.template, sequences, part, layout.first_position) for part in parts]
        return batches, np.concatenate(parts) if parts else np.empty(0, np.int64)

    def _render(self, role: str, text: str) -> str:
        for slot in self.layout.template.slots:
            if isinstance(slot, Text) and slot.role == role:
                return slot.render(text)
        return text
