"""duoBERT's layout: both passages in one sequence before an encoder with a classification head."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ...rerank.engine.batches import Batch
from ...rerank.models.families.encoders.duo import Duo as DuoFamily
from ...rerank.models.families.encoders.duo import duo_template
from ...rerank.models.loading import FAMILY_KEY
from ..data.collator import Layout
from .bodies import Body, restore, write_model
from .kinds import Start, kinds
from .pointwise import open_classifier, trainable
from .ranker import Ranker, pair_scores


@kinds.register("duo")
@dataclass(frozen=True)
class Duo:
    """Pairs read together, ``[CLS] query [SEP] first [SEP] second [SEP]``.

    ``segments`` is the number of token types. Encoders that have types get a third one, which starts as the
    second; those that have none, such as RoBERTa, take 1. The last layer of a head that was not trained on pairs
    is made anew.
    """

    segments: int | None = None

    def __post_init__(self) -> None:
        if self.segments is not None and not 1 <= self.segments <= 3:
            raise ValueError(f"segments={self.segments}: there are 1 to 3")

    def start(self, start: Start) -> DuoRanker:
        body = open_classifier(start, "a duo reranker")
        types = getattr(body.module.config, "type_vocab_size", 0)
        segments = self.segments or (3 if types > 1 else 1)
        if segments > max(types, 1):
            add_types(body.module, segments)
        if types < 3 and not str(body.checkpoint.config.get(FAMILY_KEY, "")).startswith("duo"):
            renew_last_layer(body.module)
        return DuoRanker(start, body, segments)


def add_types(module: Any, count: int) -> None:
    """Gives an encoder more token types, each of which starts as the last one it has."""
    embeddings = module.base_model.embeddings
    old = embeddings.token_type_embeddings.weight.detach()
    embeddings.token_type_embeddings = nn.Embedding(count, old.shape[1])
    with torch.no_grad():
        embeddings.token_type_embeddings.weight.copy_(torch.cat([old, old[-1:].expand(count - len(old), -1)]))
    module.config.type_vocab_size = count


def renew_last_layer(module: Any) -> None:
    """Draws the last layer of a classification head anew."""
    last = getattr(module.classifier, "out_proj", module.classifier)
    nn.init.normal_(last.weight, std=0.02)
    nn.init.zeros_(last.bias)


class DuoRanker(Ranker):
    """An encoder over pairs of passages with one label, the logit of "the first is better"."""

    def __init__(self, start: Start, body: Body, segments: int) -> None:
        model = trainable(body, duo_template(body.tokenizer, segments))
        layout = Layout(model.template, model.truncation, model.first_position, model.packed, width=2, alone=False)
        super().__init__(start, body.tokenizer, layout)
        self.module, self.adapter = body.module, body.adapter
        self.model = model
        self.family = str(DuoFamily(segments=segments))
        self.mark_head(model.head_parts)

    def read(self, batch: Batch) -> Tensor:
        """Scores of pairs, (S, 2), whose difference is the logit."""
        states = self.model.states(batch)
        with self.full_precision():
            return pair_scores(self.model.score(states))

    def combine(self, rows: Tensor, table: Tensor) -> Tensor:
        return rows[table[:, 0]]

    def save(self, folder: Path) -> None:
        write_model(
            folder,
            self.module,
            self.tokenizer,
            family=self.family,
            adapter=self.adapter,
            sentence_transformers=None,
        )

    def load(self, folder: Path) -> None:
        restore(folder, self.module, self.adapter)
