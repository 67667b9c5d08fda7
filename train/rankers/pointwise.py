"""Cross-encoders with a classification head: one score per passage."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from ...rerank.engine.batches import Batch
from ...rerank.engine.templates import Template
from ...rerank.models.families.encoders.sequence_classification import SUPPORTED, SequenceClassifier
from ..data.collator import Layout
from .bodies import IDENTITY, Body, find_start, lean, load_body, restore, write_model
from .kinds import Start, kinds
from .ranker import Ranker


@kinds.register("pointwise")
@dataclass(frozen=True)
class Pointwise:
    """One score per passage: an encoder with a classification head of one label; a missing head is made anew."""

    def start(self, start: Start) -> PointwiseRanker:
        return PointwiseRanker(start, open_classifier(start, "a pointwise reranker"))


def open_classifier(start: Start, what: str) -> Body:
    """An encoder with a classification head of one label, from any encoder of the family."""
    from transformers import AutoModelForSequenceClassification

    return load_body(start, find_start(start, SUPPORTED, what), AutoModelForSequenceClassification, num_labels=1)


def trainable(body: Body, template: Template | None = None) -> SequenceClassifier:
    """The forward pass of `SequenceClassifier` over weights that stay trainable."""
    module = body.module
    owner = module if module.config.model_type == "deberta-v2" else module.base_model
    pooler = getattr(owner, "pooler", None)
    model = SequenceClassifier(
        body.checkpoint,
        module,
        body.tokenizer,
        body.truncation,
        body.first_position,
        template,
        lean=lean(module),
        live=True,
    )
    if pooler is not None:  # taken away for inference; here it is saved with the rest
        owner.pooler = pooler
    return model


class PointwiseRanker(Ranker):
    """A cross-encoder with one label; what it saves loads in transformers and sentence-transformers too."""

    def __init__(self, start: Start, body: Body) -> None:
        model = trainable(body)
        layout = Layout(model.template, model.truncation, model.first_position, model.packed)
        super().__init__(start, body.tokenizer, layout)
        self.module, self.adapter = body.module, body.adapter
        self.model = model
        self.mark_head(model.head_parts)

    def read(self, batch: Batch) -> Tensor:
        """Scores of the sequences, (S,)."""
        states = self.model.states(batch)
        with self.full_precision():
            return self.model.score(states)

    def save(self, folder: Path) -> None:
        """The config says Identity, so that sentence-transformers ranks by the raw score too."""
        write_model(
            folder,
            self.module,
            self.tokenizer,
            adapter=self.adapter,
            sentence_transformers={"activation_fn": IDENTITY},
        )

    def load(self, folder: Path) -> None:
        restore(folder, self.module, self.adapter)
