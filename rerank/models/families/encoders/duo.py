"""duoBERT's layout: ``[CLS] query [SEP] first [SEP] second [SEP]`` before any encoder with a classification head.

One label is the logit of "the first passage is better"; of two labels that logit is l1 - l0. Nogueira, Yang, Cho,
Lin, Multi-Stage Document Ranking with BERT, arXiv 1910.14424, with three token types; checkpoints that have fewer
keep two (both passages 1) or none.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from ....engine.templates import Constant, Slot, Template, Text, Truncation, pair_template
from ....errors import UsageError
from ....registry import families
from ...checkpoints import Checkpoint
from ...config_fields import token_types
from ..about import About
from .sequence_classification import SequenceClassifier, is_classifier, load_classifier


def duo_template(tokenizer: Any, segments: int) -> Template:
    """Query and two passages, joined as the checkpoint's own tokenizer joins two texts.

    Args:
        segments: token types to use, 1 to 3; the second passage has type ``segments`` - 1, a separator that of the
            text before it.
    """
    before, between, after = _constants(pair_template(tokenizer, segments=False))
    slots: list[Slot] = [Constant(before), Text("query"), Constant(between)]
    for index, closing in ((0, between), (1, after)):
        kind = min(index + 1, segments - 1)
        slots += [Text("passage", index, kind), Constant(closing, kind)]
    return Template(tuple(slot for slot in slots if isinstance(slot, Text) or slot.ids))


def _constants(pair: Template) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    """What a tokenizer puts before, between and after two texts."""
    parts: list[tuple[int, ...]] = [()]
    for slot in pair.slots:
        if isinstance(slot, Constant):
            parts[-1] += slot.ids
        else:
            parts.append(())
    before, between, after = parts
    return before, between, after


@families.register("duo")
@dataclass(frozen=True)
class Duo:
    """Encoders with a classification head trained on pairs, ``[CLS] query [SEP] first [SEP] second [SEP]``.

    ``segments`` is the number of token types to use (by default all that the checkpoint has, at most 3);
    ``query_length`` and ``doc_length`` cap the texts (duoBERT: 62 and 223).
    """

    about: ClassVar[About] = About(
        "pairwise",
        "packed or padded",
        'the logit of "the first is better"; of two labels l1 - l0',
        made_by="sparring train --family duo",
    )
    segments: int | None = None
    query_length: int | None = None
    doc_length: int | None = None
    max_length: int | None = None

    def __post_init__(self) -> None:
        if self.segments is not None and not 1 <= self.segments <= 3:
            raise ValueError(f"segments={self.segments}: there are 1 to 3")
        for name in ("query_length", "doc_length"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1")

    def claims(self, checkpoint: Checkpoint) -> bool:
        """Classifiers with a third token type, which only pairs of passages use."""
        typed = checkpoint.config.get("type_vocab_size", 2)
        return checkpoint.plain and is_classifier(checkpoint) and typed == 3

    def load(self, checkpoint: Checkpoint) -> SequenceClassifier:
        """Loads the checkpoint; its head must have one or two labels."""
        module, tokenizer, truncation, first = load_classifier(checkpoint, self.max_length)
        types = max(1, token_types(module.config))
        segments = min(types, 3) if self.segments is None else self.segments
        if segments > types:
            raise UsageError(f"{checkpoint.name}: segments={segments}, but the checkpoint has {types} token types")
        truncation = Truncation(truncation.max_length, self.query_length, self.doc_length)
        template = duo_template(tokenizer, segments)
        return SequenceClassifier(checkpoint, module, tokenizer, truncation, first, template)
