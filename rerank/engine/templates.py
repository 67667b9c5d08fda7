"""How a family writes its input: constant pieces around query and passages, and what gives way when it is long."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Lengths = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Constant:
    """Token ids that every input of the family holds at this place: separators, cues, chat frames.

    ``after_cut``: only where the text of that slot was cut, and with it the text's suffix.
    """

    ids: tuple[int, ...]
    segment: int = 0
    after_cut: int | None = None


@dataclass(frozen=True, slots=True)
class Text:
    """The query, or the ``index``-th passage of the group, tokenised without special tokens.

    ``prefix`` and ``suffix`` are tokenised together with the text: a byte-level BPE keeps its leading space there.
    ``strip`` leaves out white space at both ends of the text first.
    """

    role: Literal["query", "passage"]
    index: int = 0
    segment: int = 0
    prefix: str = ""
    suffix: str = ""
    strip: bool = field(default=False, kw_only=True)

    def render(self, text: str) -> str:
        """The string that is tokenised."""
        text = text.strip() if self.strip else text
        return self.prefix + text + self.suffix if self.prefix or self.suffix else text


Slot = Constant | Text


@dataclass(frozen=True, slots=True)
class Template:
    """The slots of one input sequence, in order.

    ``per_member`` says that every member of a group has a sequence of its own (one passage slot, index 0), as in
    a Set-Encoder; else a group is one sequence with as many passage slots as it has members. ``by_query`` puts
    sequences of one query into the same batch, for models that compute their common beginning once.
    """

    slots: tuple[Slot, ...]
    per_member: bool = False
    by_query: bool = field(default=False, repr=False)

    @property
    def passages(self) -> int:
        """Passages in one sequence."""
        return 1 + max(slot.index for slot in self.slots if isinstance(slot, Text) and slot.role == "passage")

    @property
    def beginning(self) -> int:
        """Slots before the first passage: what they hold depends on the query alone."""
        return next(i for i, slot in enumerate(self.slots) if isinstance(slot, Text) and slot.role == "passage")

    @property
    def overhead(self) -> int:
        """Constant tokens of one sequence."""
        return sum(len(slot.ids) for slot in self.slots if isinstance(slot, Constant))


@dataclass(frozen=True, slots=True)
class Truncation:
    """Which text gives way when an input is too long; the template's constants never do.

    The passages are guaranteed ``passage_share`` of the room (less where they are shorter); beyond that the query
    is kept whole and the passages are cut. Two passages are cut to the same length unless one is shorter.

    Args:
        max_length: tokens of one sequence, constants included.
        query_limit, passage_limit: caps of the single texts, as some checkpoints were trained with.
    """

    max_length: int
    query_limit: int | None = None
    passage_limit: int | None = None
    passage_share: float = 0.25

    def fit(self, overhead: int, query: Lengths, passages: Lengths) -> tuple[Lengths, Lengths]:
        """Lengths after cutting: query (S,) and passages (S, p) of sequences with ``overhead`` constant tokens."""
        room = self.max_length - overhead
        if self.query_limit is not None:
            query = np.minimum(query, self.query_limit)
        if self.passage_limit is not None:
            passages = np.minimum(passages, self.passage_limit)
        wanted = passages.sum(axis=1)
        guaranteed = np.minimum(wanted, int(room * self.passage_share))
        query = np.minimum(query, room - guaranteed)
        return query, _share(room - query, passages)


def _share(room: Lengths, passages: Lengths) -> Lengths:
    """Cuts the passages of each row to ``room`` tokens in all: the shortest are kept, the rest cut alike."""
    count = passages.shape[1]
    if count == 1:
        return np.minimum(passages, room[:, None])
    ascending = np.sort(passages, axis=1)
    level = room // count
    for place in range(1, count):  # what a shorter passage leaves goes to the longer ones, alike
        left = room - ascending[:, :place].sum(axis=1)
        level = np.where(ascending[:, place - 1] <= level, left // (count - place), level)
    kept: Lengths = np.minimum(passages, level[:, None])
    return kept


def pair_template(tokenizer: Any, segments: bool, always: bool = False) -> Template:
    """The template of a query-passage pair, as the checkpoint's own tokenizer joins two texts.

    Args:
        tokenizer: a fast tokenizer of transformers.
        segments: whether the model has more than one token type.
        always: use them even where the tokenizer yields none of itself.
    """
    pair = tokenizer("a", "b", return_token_type_ids=True if always else None)
    ids, owner = pair["input_ids"], pair.sequence_ids(0)
    # a tokenizer that yields no types (its model_input_names) means 0 everywhere, whatever the model could take
    types = pair["token_type_ids"] if segments and "token_type_ids" in pair else [0] * len(ids)
    slots: list[Slot] = []
    for token, whose, segment in zip(ids, owner, types, strict=True):
        if whose is not None:
            role: Literal["query", "passage"] = "query" if whose == 0 else "passage"
            if not slots or not isinstance(slots[-1], Text) or slots[-1].role != role:
                slots.append(Text(role, segment=segment))
        elif slots and isinstance(slots[-1], Constant) and slots[-1].segment == segment:
            slots[-1] = Constant((*slots[-1].ids, token), segment)
        else:
            slots.append(Constant((token,), segment))
    return Template(tuple(slots))
