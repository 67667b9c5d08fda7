"""monoT5, duoT5 and RankT5: encoder-decoders scored from one decoder step."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from ...rerank.engine.batches import Batch
from ...rerank.models.checkpoints import Checkpoint
from ...rerank.models.families.language_models.t5 import EXTRA_10, FALSE, PROMPTS, TRUE, T5Reranker, entry, sliced
from ...rerank.models.families.language_models.t5 import T5 as T5Family
from ...rerank.models.loading import load_tokenizer
from ..data.collator import Layout
from .bodies import find_start, load_quietly, load_weights, write_model
from .kinds import USUAL_LENGTH, Start, kinds
from .ranker import Ranker, pair_scores

MODEL_TYPES = frozenset({"t5", "mt5", "umt5"})


@kinds.register("t5")
@dataclass(frozen=True)
class T5:
    """An encoder-decoder that answers a prompt with a word: mono and rank score passages, duo compares two.

    The score of mono and duo is the logit of ``true`` less that of ``false`` (tokens, as ``\u2581yes``), so that
    monoT5's cross-entropy over the two words is the loss ``bce``; that of rank is the logit of ``true`` alone.
    """

    kind: Literal["mono", "duo", "rank"] = "mono"
    true: str | None = None
    false: str | None = None

    def start(self, start: Start) -> T5Ranker:
        from transformers import AutoModelForSeq2SeqLM

        found = find_start(start, MODEL_TYPES, "a T5 reranker")
        dropout = {} if start.dropout is None else {"dropout_rate": start.dropout}
        module = load_quietly(AutoModelForSeq2SeqLM, found.body, **dropout)
        if start.checkpointing:
            module.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        known = entry(found)
        default = (EXTRA_10, EXTRA_10) if self.kind == "rank" else known[1:] if known else (TRUE, FALSE)
        return T5Ranker(start, found, module, self, (self.true or default[0], self.false or default[1]))


class T5Ranker(Ranker):
    """A T5 under training; the rows of the output embedding that score are trained with the rest."""

    def __init__(self, start: Start, found: Checkpoint, module: Any, kind: T5, words: tuple[str, str]) -> None:
        length = start.max_length or USUAL_LENGTH
        tokenizer = load_tokenizer(found)
        model = T5Reranker(found, module, tokenizer, kind.kind, words, PROMPTS[kind.kind], length)
        layout = Layout(
            template=model.template,
            truncation=model.truncation,
            first_position=model.first_position,
            packed=model.packed,
            width=model.width,
            alone=model.width == 1,
        )
        super().__init__(start, tokenizer, layout)
        self.module = module
        self.adapter = None if start.adapter is None else start.adapter.attach(module, start.name)
        self.model = model
        self.family = str(T5Family(kind.kind, *words, max_length=length))

    def read(self, batch: Batch) -> Tensor:
        """Scores of the sequences, (S,); of pairs (S, 2), whose difference is the logit."""
        states = self.model.states(batch)
        with self.full_precision():
            scores = states @ sliced(self.module.lm_head.weight, self.model.ids)
        return scores if self.layout.alone else pair_scores(scores)

    def combine(self, rows: Tensor, table: Tensor) -> Tensor:
        return super().combine(rows, table) if self.layout.alone else rows[table[:, 0]]

    def save(self, folder: Path) -> None:
        write_model(folder, self.module, self.tokenizer, family=self.family, adapter=self.adapter)

    def load(self, folder: Path) -> None:
        if self.adapter is not None:
            self.adapter.load(self.module, folder)
            return
        self.module.load_state_dict(load_weights(folder), strict=False)  # a tied embedding is saved under one name
        self.module.tie_weights()
