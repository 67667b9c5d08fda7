"""allRank's list transformer over the vectors of a cross-encoder (Pobrotyn et al., arXiv 2005.10084)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ...rerank.data.atomic import atomic_write
from ...rerank.engine.batches import Batch
from ...rerank.models.families.encoders.list_head import FILE, ContextHead, load_head
from ...rerank.models.families.encoders.sequence_classification import PACKABLE, SequenceClassifier
from ..data.collator import Layout
from .bodies import Body, find_start, load_body, restore, write_model
from .kinds import Start, kinds
from .pointwise import trainable
from .ranker import Ranker


@kinds.register("list_head")
@dataclass(frozen=True)
class ListHeads:
    """Self-attention over a list's cross-encoder vectors: each passage is read once, then all are compared.

    Args:
        layers, heads, width, feed: of the list transformer; a saved one is taken as it is.
        freeze: train the list transformer alone.
    """

    layers: int = 2
    heads: int = 4
    width: int = 128
    feed: int = 256
    freeze: bool = False

    def __post_init__(self) -> None:
        if min(self.layers, self.heads, self.width, self.feed) < 1:
            raise ValueError("layers, heads, width and feed must be at least 1")
        if self.width % self.heads:
            raise ValueError(f"width {self.width} does not divide into {self.heads} heads")

    def start(self, start: Start) -> ListHeadRanker:
        if self.freeze:
            start.refuse_adapter("a frozen body")
        from transformers import AutoModelForSequenceClassification

        found = find_start(start, PACKABLE, "a list head's cross-encoder")
        body = load_body(start, found, AutoModelForSequenceClassification, num_labels=1)
        if (found.folder / FILE).is_file():
            head = load_head(found, body.module.config.hidden_size)
        else:
            head = ContextHead(body.module.config.hidden_size, self.width, self.feed, self.layers, self.heads, 1)
        return ListHeadRanker(start, body, trainable(body), head, self.freeze)


class ListHeadRanker(Ranker):
    """A cross-encoder without its head, and the list transformer; the cross-encoder's head is saved as it was."""

    def __init__(
        self, start: Start, body: Body, model: SequenceClassifier, head: ContextHead, freeze: bool
    ) -> None:
        layout = Layout(model.template, model.truncation, model.first_position, model.packed, width=None)
        super().__init__(start, body.tokenizer, layout)
        self.module, self.head = body.module, head
        self.model = model
        self.freeze = freeze
        self.adapter = body.adapter
        if freeze:
            self.module.requires_grad_(False)
        for part in model.head_parts:
            part.requires_grad_(False)
        self.mark_head([head])

    def train(self, mode: bool = True) -> ListHeadRanker:
        """Training mode; a frozen encoder keeps out of it, so that its vectors are the same every time."""
        super().train(mode)
        if self.freeze:
            self.module.eval()
        return self

    def read(self, batch: Batch) -> Tensor:
        """Vectors of the sequences, (S, H)."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.freeze):
            return self.model.states(batch)

    def combine(self, rows: Tensor, table: Tensor) -> Tensor:
        """Scores of the lists, (Q, n)."""
        scores = rows.new_zeros(table.shape, dtype=torch.float32)
        with self.full_precision():
            for number, members in enumerate(table):
                real = members >= 0
                scores[number, real] = self.head(rows[members[real]])
        return scores

    def save(self, folder: Path) -> None:
        from safetensors.torch import save as to_bytes

        write_model(
            folder,
            self.module,
            self.tokenizer,
            family="list_head",
            adapter=self.adapter,
            sentence_transformers=None,
            list_head={"heads": self.head.heads},
        )
        state = {name: value.detach().float().cpu().contiguous() for name, value in self.head.state_dict().items()}
        with atomic_write(folder / FILE, "wb") as stream:
            stream.write(to_bytes(state))

    def load(self, folder: Path) -> None:
        from safetensors.torch import load_file

        restore(folder, self.module, self.adapter)
        self.head.load_state_dict(load_file(folder / FILE))
