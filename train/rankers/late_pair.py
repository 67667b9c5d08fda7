"""Late pair models: every passage is encoded once, an antisymmetric head compares the vectors."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ...rerank.console import log
from ...rerank.engine.batches import Batch
from ...rerank.models.checkpoints import Checkpoint
from ...rerank.models.families.encoders.late_pair import LatePairEncoder
from ...rerank.models.families.encoders.sequence_classification import PACKABLE, ROBERTA, is_classifier
from ...rerank.models.pair_head import HEAD_FILE, Activation, PairHead, pair_logits
from ..data.collator import Layout
from .bodies import Body, find_start, lean, load_body, restore, write_model
from .kinds import Start, kinds
from .ranker import Ranker, pair_scores

POOLED = ROBERTA | {"bert"}


@kinds.register("late_pair")
@dataclass(frozen=True)
class LatePair:
    """Pairs from one encoding per passage; from a pointwise model it starts with that model's preferences.

    The head of BERT, RoBERTa, XLM-R and ELECTRA classifiers becomes the utilities, whose differences are the
    logits at the start; the skew form on top starts at zero.

    Args:
        rank: of the skew form, which can hold cycles; 0 leaves the utilities alone.
        width: of a head that is made anew; a saved pair head is taken as it is.
        freeze: train the head alone.
    """

    rank: int = 16
    width: int = 128
    freeze: bool = False

    def __post_init__(self) -> None:
        if self.rank < 0 or self.width < 1:
            raise ValueError("rank must be at least 0, width at least 1")

    def start(self, start: Start) -> LatePairRanker:
        if self.freeze:
            start.refuse_adapter("a frozen body")
        from transformers import AutoModel, AutoModelForSequenceClassification

        found = find_start(start, PACKABLE, "a late pair model")
        if is_classifier(found) and not (found.folder / HEAD_FILE).is_file():
            body = load_body(start, found, AutoModelForSequenceClassification)
            head = head_of_classifier(body.module, self.rank)
            module = body.module.base_model
            if head is None:
                log.info("%s: a head of this form does not fit into pairs: a new one is trained", start.name)
        else:
            body = load_body(start, found, AutoModel)
            head = None
            module = body.module
        if head is None:
            head = _saved_or_new(found, module.config.hidden_size, self)
        if getattr(module, "pooler", None) is not None:
            module.pooler = None
        return LatePairRanker(start, body, module, head, self.freeze)


def head_of_classifier(module: Any, rank: int) -> PairHead | None:
    """The pair head whose utilities are the scores of a classifier with one hidden layer; None for other heads.

    The bias of the last layer cancels in differences. Of two labels the utility is l1 - l0.
    """
    kind = module.config.model_type
    if kind == "bert":
        dense, last = module.bert.pooler.dense, module.classifier
    elif kind in ROBERTA or kind == "electra":
        dense, last = module.classifier.dense, module.classifier.out_proj
    else:
        return None
    activation: Activation = "gelu" if kind == "electra" else "tanh"
    head = _skewless(PairHead(dense.in_features, dense.out_features, rank, activation))
    with torch.no_grad():
        head.dense.load_state_dict(dense.state_dict())
        rows = last.weight
        head.utility.weight.copy_(rows[:1] if len(rows) == 1 else rows[1:2] - rows[:1])
    return head


def _skewless(head: PairHead) -> PairHead:
    nn.init.zeros_(head.right.weight)  # of (L z_i)(R z_j) one factor is 0 and the other has a gradient
    return head


def _saved_or_new(found: Checkpoint, hidden: int, kind: LatePair) -> PairHead:
    if (found.folder / HEAD_FILE).is_file():
        return PairHead.load(found.folder, hidden)
    return _skewless(PairHead(hidden, kind.width, kind.rank))


class LatePairRanker(Ranker):
    """Encoder and head, trained on pairs of one list; with ``freeze`` the encoder stays as it is."""

    def __init__(self, start: Start, body: Body, module: Any, head: PairHead, freeze: bool) -> None:
        length = body.truncation.max_length
        model = LatePairEncoder(
            body.checkpoint,
            module,
            head,
            body.tokenizer,
            length,
            body.first_position,
            lean=lean(module),
            live=True,
        )
        layout = Layout(model.template, model.truncation, model.first_position, model.packed, width=2)
        super().__init__(start, body.tokenizer, layout)
        self.body, self.head = module, head
        self.model = model
        self.freeze = freeze
        self.adapter = body.adapter
        if freeze:
            self.body.requires_grad_(False)
        self.mark_head([head])

    def train(self, mode: bool = True) -> LatePairRanker:
        """Training mode; a frozen encoder keeps out of it, so that its vectors are the same every time."""
        super().train(mode)
        if self.freeze:
            self.body.eval()
        return self

    def read(self, batch: Batch) -> Tensor:
        """Features of the sequences, (S, 1 + 2r)."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.freeze):
            states = self.model.states(batch)
        with self.full_precision():
            return self.head.features(states)

    def combine(self, rows: Tensor, table: Tensor) -> Tensor:
        """Scores of pairs, (P, 2), whose difference is the logit."""
        return pair_scores(pair_logits(rows[table[:, 0]], rows[table[:, 1]]))

    def save(self, folder: Path) -> None:
        write_model(
            folder, self.body, self.tokenizer, family="late_pair", adapter=self.adapter, sentence_transformers=None
        )
        self.head.save(folder)

    def load(self, folder: Path) -> None:
        restore(folder, self.body, self.adapter)
        self.head.load_state_dict(PairHead.load(folder, self.body.config.hidden_size).state_dict())
