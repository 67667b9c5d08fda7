"""Long documents: windows of tokens are scored as candidates of their own and reduced to one score.

MaxP, FirstP and the mean of passages: Dai and Callan, Deeper Text Understanding for IR with Contextual Neural
Language Modeling, SIGIR 2019.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from .registry import passages
from .stats import Stats
from .vocabulary import Candidates, Groups, Outcomes, Scorer, Sink, unknown_rows


class Passages(Protocol):
    """Which windows of a text are scored, and how their scores become one."""

    tokens: int

    def starts(self, length: int) -> range:
        """First tokens of the windows of a text of ``length`` tokens."""
        ...

    def reduce(self, scores: NDArray[np.float64]) -> float:
        """One score from those of a text's windows, (w,)."""
        ...


def _checked(tokens: int, stride: int | None = None) -> None:
    if tokens < 1 or (stride is not None and not 1 <= stride <= tokens):
        raise ValueError("tokens must be at least 1 and stride between 1 and tokens, or text is skipped")


@passages.register("maxp")
@dataclass(frozen=True)
class MaxP:
    """The best window's score; a window every ``stride`` tokens."""

    tokens: int = 256
    stride: int = 128

    def __post_init__(self) -> None:
        _checked(self.tokens, self.stride)

    def starts(self, length: int) -> range:
        return range(0, max(1, length - self.tokens + self.stride), self.stride)

    def reduce(self, scores: NDArray[np.float64]) -> float:
        return float(scores.max())


@passages.register("mean")
@dataclass(frozen=True)
class MeanP:
    """The mean of the windows' scores; a window every ``stride`` tokens."""

    tokens: int = 256
    stride: int = 128

    def __post_init__(self) -> None:
        _checked(self.tokens, self.stride)

    def starts(self, length: int) -> range:
        return range(0, max(1, length - self.tokens + self.stride), self.stride)

    def reduce(self, scores: NDArray[np.float64]) -> float:
        return float(scores.mean())


@passages.register("first")
@dataclass(frozen=True)
class FirstP:
    """The score of the first window alone."""

    tokens: int = 256

    def __post_init__(self) -> None:
        _checked(self.tokens)

    def starts(self, length: int) -> range:
        return range(1)

    def reduce(self, scores: NDArray[np.float64]) -> float:
        return float(scores[0])


class Windowed:
    """A pointwise `Scorer` in front of another: cuts texts into windows, scores them, reduces.

    Put it before a ledger, not behind: the ledger then stores windows, and a killed run goes on inside a document.
    """

    width = 1

    def __init__(self, scorer: Scorer, tokenizer: Any, how: Passages) -> None:
        self.fingerprint = hashlib.sha256(f"{scorer.fingerprint} {how}".encode()).hexdigest()
        self.description: Mapping[str, object] = {**scorer.description, "passages": str(how)}
        self._scorer, self._tokenizer, self._how = scorer, tokenizer, how

    @property
    def stats(self) -> Stats:
        """Those of the scorer behind it: groups are windows."""
        return self._scorer.stats

    @property
    def remembers(self) -> bool:
        """As the scorer behind it."""
        return self._scorer.remembers

    def close(self) -> None:
        """Closes the scorer behind it."""
        self._scorer.close()

    def __call__(
        self,
        topics: Sequence[Candidates],
        groups: Sequence[Groups],
        sink: Sink | None = None,
        known: Sequence[Outcomes] | None = None,
    ) -> list[Outcomes]:
        """A score per text; see `sparring.rerank.vocabulary.Scorer`."""
        if known is not None:
            return self._rest(topics, groups, sink, known)
        cut = [self._cut(topic, asked[:, 0]) for topic, asked in zip(topics, groups, strict=True)]
        windows = [
            replace(topic, docids=ids, texts=texts, scores=np.zeros(len(texts)))
            for topic, (ids, texts, _) in zip(topics, cut, strict=True)
        ]
        every = [np.arange(len(w), dtype=np.int32)[:, None] for w in windows]
        answers = []
        for index, (said, (_, _, ends)) in enumerate(zip(self._scorer(windows, every), cut, strict=True)):
            parts = np.split(said[:, 0], ends[:-1]) if len(ends) else []
            scores = np.array([[self._how.reduce(part)] for part in parts]).reshape(-1, 1)
            if sink is not None and len(scores):
                sink(np.full(len(scores), index), np.arange(len(scores)), scores)
            answers.append(scores)
        return answers

    def _rest(
        self,
        topics: Sequence[Candidates],
        groups: Sequence[Groups],
        sink: Sink | None,
        known: Sequence[Outcomes],
    ) -> list[Outcomes]:
        """Asks for what is not known; the windows of a text are known together or not at all."""
        rows = [np.flatnonzero(unknown_rows(said)) for said in known]

        def place(topic: NDArray[np.int64], row: NDArray[np.int64], outcomes: Outcomes) -> None:
            if sink is not None:
                pairs = zip(topic.tolist(), row.tolist(), strict=True)
                sink(topic, np.array([rows[t][r] for t, r in pairs], np.int64), outcomes)

        asked = [group[some] for group, some in zip(groups, rows, strict=True)]
        results = [said.copy() for said in known]
        for result, some, said in zip(results, rows, self(topics, asked, place), strict=True):
            result[some] = said
        return results

    def _cut(
        self, topic: Candidates, positions: NDArray[np.int32]
    ) -> tuple[tuple[str, ...], list[str], NDArray[np.int64]]:
        texts = [topic.texts[position] for position in positions]
        if not texts:
            return (), [], np.empty(0, np.int64)
        offsets = self._tokenizer(
            texts, add_special_tokens=False, return_offsets_mapping=True, truncation=False, verbose=False
        )["offset_mapping"]
        pieces = [self._windows(text, spans) for text, spans in zip(texts, offsets, strict=True)]
        names = tuple(
            f"{topic.docids[position]}#{number}"
            for position, parts in zip(positions, pieces, strict=True)
            for number in range(len(parts))
        )
        return names, [part for parts in pieces for part in parts], np.cumsum([len(parts) for parts in pieces])

    def _windows(self, text: str, spans: Sequence[tuple[int, int]]) -> list[str]:
        if len(spans) <= self._how.tokens:
            return [text]
        ends = [min(start + self._how.tokens, len(spans)) - 1 for start in self._how.starts(len(spans))]
        return [
            text[spans[start][0] : spans[end][1]]
            for start, end in zip(self._how.starts(len(spans)), ends, strict=True)
        ]
