"""Texts as token ids, each tokenised once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

CHARACTERS_PER_TOKEN = (10, 100)
"""Texts are cut to so many characters per token kept; to the second where words are long."""
TOKENIZER_BATCH = 8192


class TokenStore:
    """The token ids of all texts seen, one after the other in a flat int32 array; each text is tokenised once.

    Args:
        tokenizer: a fast tokenizer of transformers; its truncation, padding and special tokens play no part.
            Text that spells a special token (``[SEP]``, ``</s>``) stays text.
        limit: no more than so many tokens of one text are kept.
    """

    def __init__(self, tokenizer: Any, limit: int) -> None:
        from tokenizers import Tokenizer

        backend = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
        backend.no_truncation()
        backend.no_padding()
        backend.encode_special_tokens = True
        self._backend = backend
        self.limit = limit
        self.clear()

    def clear(self) -> None:
        """Forgets everything; entry numbers given before are void."""
        self._known: dict[str | tuple[int, ...], int] = {}
        self._flat = np.empty(1 << 16, np.int32)
        self._used = 0
        self._starts = np.empty(1 << 10, np.int64)
        self._lengths = np.empty(1 << 10, np.int64)
        self._cut = np.empty(1 << 10, np.bool_)

    def __len__(self) -> int:
        return len(self._known)

    @property
    def flat(self) -> NDArray[np.int32]:
        """All token ids."""
        return self._flat[: self._used]

    @property
    def starts(self) -> NDArray[np.int64]:
        """Where each entry begins in `flat`."""
        return self._starts[: len(self._known)]

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens of each entry."""
        return self._lengths[: len(self._known)]

    @property
    def cut(self) -> NDArray[np.bool_]:
        """Whether the text of an entry was longer than the limit."""
        return self._cut[: len(self._known)]

    def constant(self, ids: tuple[int, ...]) -> int:
        """The entry of a piece that is given as ids."""
        if ids not in self._known:
            self._append(ids, list(ids), False)
        return self._known[ids]

    def entries(self, texts: Sequence[str]) -> NDArray[np.int64]:
        """The entry of each text; unseen texts are tokenised in large batches."""
        known = self._known
        fresh = [text for text in dict.fromkeys(texts) if text not in known]
        for start in range(0, len(fresh), TOKENIZER_BATCH):
            self._tokenise(fresh[start : start + TOKENIZER_BATCH])
        return np.fromiter((known[text] for text in texts), np.int64, len(texts))

    def _tokenise(self, texts: list[str]) -> None:
        short, long = (self.limit * factor for factor in CHARACTERS_PER_TOKEN)
        ids = self._encode([text[:short] for text in texts])
        again = [i for i, text in enumerate(texts) if len(text) > short and len(ids[i]) <= self.limit]
        if again:  # long words: more characters are needed to fill the limit
            for i, longer in zip(again, self._encode([texts[i][:long] for i in again]), strict=True):
                ids[i] = longer
        for text, tokens in zip(texts, ids, strict=True):
            self._append(text, tokens[: self.limit], len(tokens) > self.limit or len(text) > long)

    def _encode(self, texts: list[str]) -> list[list[int]]:
        try:
            encodings = self._backend.encode_batch_fast(texts, add_special_tokens=False)
        except (TypeError, UnicodeEncodeError):  # lone surrogates are no Unicode text
            texts = [text.encode("utf-16", "surrogatepass").decode("utf-16", "replace") for text in texts]
            encodings = self._backend.encode_batch_fast(texts, add_special_tokens=False)
        return [encoding.ids for encoding in encodings]

    def _append(self, key: str | tuple[int, ...], ids: list[int], cut: bool) -> None:
        number, end = len(self._known), self._used + len(ids)
        if end > len(self._flat):
            self._flat = np.resize(self._flat, max(end, 2 * len(self._flat)))
        if number == len(self._starts):
            size = 2 * number
            self._starts = np.resize(self._starts, size)
            self._lengths = np.resize(self._lengths, size)
            self._cut = np.resize(self._cut, size)
        self._flat[self._used : end] = ids
        self._starts[number], self._lengths[number], self._cut[number] = self._used, len(ids), cut
        self._known[key] = number
        self._used = end
