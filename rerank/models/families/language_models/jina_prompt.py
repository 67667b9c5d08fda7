"""The prompt of jina-reranker-v3: a list of passages between marks, and where the marks lie.

Texts never become special tokens: the prompt is tokenised between its own special tokens, as plain text. Where no
text spells a special token that gives the ids of the whole string.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ....engine.token_store import TokenStore
from ....errors import InputError

PASSAGE_MARK, QUERY_MARK = "<|embed_token|>", "<|rerank_token|>"
HEAD = (
    "<|im_start|>system\nYou are a search relevance expert who can determine a ranking of the passages based on "
    "how relevant they are to the query. If the query is a question, how relevant a passage is depends on how "
    "well it answers the question. If not, try to analyze the intent of the query and assess how well each "
    "passage satisfies the intent. If an instruction is provided, you should follow the instruction when "
    "determining the ranking.<|im_end|>\n<|im_start|>user\n"
)
TAIL = "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
BLOCK = 125
"""Passages of one prompt at most."""
QUERY_TOKENS, PASSAGE_TOKENS = 512, 2048
PER_PASSAGE = 32
"""Tokens that stand around a passage, at most, where a length was asked that must not be passed."""


@dataclass(frozen=True, slots=True)
class Listed:
    """A prompt: its token ids, where its passages' marks lie, and the query's."""

    ids: NDArray[np.int32]
    passages: NDArray[np.int64]
    query: int


@dataclass(frozen=True, slots=True)
class Cut:
    """Texts as they are shown, with their lengths in tokens and whether they were cut."""

    texts: list[str]
    lengths: list[int]
    cut: int


class ListPrompt:
    """Writes prompts of one tokenizer.

    Args:
        length: tokens of one prompt.
        asked: whether the user asked for that length; else lengths are counted as the owner's code does, without
            what stands around the passages.
        instruction: an instruction of the user's.
    """

    def __init__(self, tokenizer: Any, name: str, length: int, asked: bool, instruction: str | None) -> None:
        self.tokenizer, self.length, self.instruction = tokenizer, length, instruction
        self.around = PER_PASSAGE if asked else 0
        self.query_limit, self.passage_limit = min(QUERY_TOKENS, length // 8), min(PASSAGE_TOKENS, length // 4)
        added = tokenizer.get_added_vocab()
        for mark in (PASSAGE_MARK, QUERY_MARK):
            if mark not in added:
                raise InputError(
                    f"{name}: its tokenizer has no token {mark}, at which this family reads its states"
                )
        self._special = dict(added)
        self._splits = re.compile("|".join(re.escape(token) for token in sorted(added, key=len, reverse=True)))
        self._queries = TokenStore(tokenizer, self.query_limit)
        self._passages = TokenStore(tokenizer, self.passage_limit)
        self._plain = TokenStore(tokenizer, length)

    def query(self, text: str) -> Cut:
        """The query, cut to its limit."""
        return self._shown(self._queries, [text])

    def passages(self, texts: Sequence[str]) -> Cut:
        """The passages, each cut to its limit."""
        return self._shown(self._passages, texts)

    def blocks(self, query_tokens: int, lengths: Sequence[int]) -> Iterator[range]:
        """Neighbouring passages that go into one prompt: up to `BLOCK`, as long as another long one would fit."""
        start, room = 0, self.length - 2 * query_tokens
        for place, tokens in enumerate(lengths):
            room -= tokens + self.around
            if place + 1 - start >= BLOCK or room <= self.passage_limit:
                yield range(start, place + 1)
                start, room = place + 1, self.length - 2 * query_tokens
        if start < len(lengths):
            yield range(start, len(lengths))

    def write(self, query: str, passages: Sequence[str]) -> Listed:
        """The prompt of a query and its passages, which are shown in this order."""
        pieces: list[str | int] = [""]
        self._add(pieces, HEAD)
        plain = (
            f"I will provide you with {len(passages)} passages, each indicated by a numerical identifier. "
            f"Rank the passages based on their relevance to query: {query}\n"
        )
        if self.instruction:
            plain += f"<instruct>\n{self.instruction}\n</instruct>\n"
        for number, passage in enumerate(passages):
            _join(pieces, f'{plain}<passage id="{number}">\n{passage}')
            pieces += [self._special[PASSAGE_MARK], ""]
            plain = "\n</passage>\n"
        _join(pieces, f"{plain}<query>\n{query}")
        pieces += [self._special[QUERY_MARK], "\n</query>"]
        self._add(pieces, TAIL)
        return self._tokens(pieces)

    def clear(self) -> None:
        """Forgets all texts."""
        for store in (self._queries, self._passages, self._plain):
            store.clear()

    def _shown(self, store: TokenStore, texts: Sequence[str]) -> Cut:
        store.clear()
        clean = [text.replace(QUERY_MARK, "").replace(PASSAGE_MARK, "") for text in texts]
        entries = store.entries(clean)
        cut = store.cut[entries]
        for place in np.flatnonzero(cut).tolist():
            start, size = store.starts[entries[place]], store.lengths[entries[place]]
            clean[place] = str(self.tokenizer.decode(store.flat[start : start + size].tolist()))
        return Cut(clean, store.lengths[entries].tolist(), int(cut.sum()))

    def _add(self, pieces: list[str | int], text: str) -> None:
        """Adds a part of the frame, split at the special tokens that it spells."""
        end = 0
        for found in self._splits.finditer(text):
            _join(pieces, text[end : found.start()])
            pieces += [self._special[found.group()], ""]
            end = found.end()
        _join(pieces, text[end:])

    def _tokens(self, pieces: list[str | int]) -> Listed:
        store = self._plain
        store.clear()
        entries = iter(store.entries([piece for piece in pieces if isinstance(piece, str)]).tolist())
        parts: list[NDArray[np.int32]] = []
        places: list[int] = []
        query = size = 0
        for piece in pieces:
            if isinstance(piece, int):
                part = np.array([piece], np.int32)
                if piece == self._special[PASSAGE_MARK]:
                    places.append(size)
                elif piece == self._special[QUERY_MARK]:
                    query = size
            else:
                entry = next(entries)
                part = store.flat[store.starts[entry] : store.starts[entry] + store.lengths[entry]]
            parts.append(part)
            size += len(part)
        return Listed(np.concatenate(parts).astype(np.int32), np.array(places, np.int64), query)


def _join(pieces: list[str | int], text: str) -> None:
    last = pieces[-1]
    if isinstance(last, str):
        pieces[-1] = last + text
    else:
        pieces.append(text)
