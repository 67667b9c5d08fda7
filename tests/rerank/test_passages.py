"""Long documents: every token is in a window, windows are scored alone, and short texts are left as they are."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sparring.rerank.errors import UsageError
from sparring.rerank.passages import MaxP, MeanP, Windowed
from sparring.rerank.registry import passages
from sparring.rerank.stats import Stats
from sparring.rerank.vocabulary import Candidates, Groups, Outcomes, Sink


class Words:
    """A tokenizer with one token per word."""

    def __call__(self, texts: list[str], **options: object) -> dict[str, list[list[tuple[int, int]]]]:
        spans = []
        for text in texts:
            at, found = 0, []
            for word in text.split():
                start = text.index(word, at)
                at = start + len(word)
                found.append((start, at))
            spans.append(found)
        return {"offset_mapping": spans}


class CountsGold:
    """Scores a text by how often it says gold."""

    width = 1
    fingerprint = "gold"
    remembers = False

    def __init__(self) -> None:
        self.seen: list[str] = []
        self.stats = Stats()
        self.description: dict[str, object] = {"counts": "gold"}

    def close(self) -> None:
        self.seen.clear()

    def __call__(
        self,
        topics: Sequence[Candidates],
        groups: Sequence[Groups],
        sink: Sink | None = None,
        known: Sequence[Outcomes] | None = None,
    ) -> list[Outcomes]:
        self.seen += [topic.texts[p] for topic, asked in zip(topics, groups, strict=True) for p in asked[:, 0]]
        return [
            np.array([[topic.texts[p].split().count("gold")] for p in asked[:, 0]], float).reshape(-1, 1)
            for topic, asked in zip(topics, groups, strict=True)
        ]


def ask(how: str, *texts: str) -> tuple[list[float], list[str]]:
    scorer = CountsGold()
    topic = Candidates("q", "q", tuple(map(str, range(len(texts)))), texts, np.zeros(len(texts)))
    groups = np.arange(len(texts), dtype=np.int32)[:, None]
    (said,) = Windowed(scorer, Words(), passages.parse(how))([topic], [groups])
    return said[:, 0].tolist(), scorer.seen


def test_reductions() -> None:
    long = "gold gold a b c gold"
    assert ask("maxp(tokens=2, stride=2)", long, "gold")[0] == [2.0, 1.0]
    assert ask("mean(tokens=2, stride=2)", long, "gold")[0] == [1.0, 1.0]
    assert ask("first(tokens=2)", long, "gold")[0] == [2.0, 1.0]


def test_a_short_text_is_scored_as_it_is() -> None:
    assert ask("maxp(tokens=3, stride=1)", "  two words ", "")[1] == ["  two words ", ""]


@given(st.integers(1, 60), st.integers(1, 20), st.data())
def test_every_token_is_in_a_window(length: int, tokens: int, data: st.DataObject) -> None:
    stride = data.draw(st.integers(1, tokens))
    for how in (MaxP(tokens, stride), MeanP(tokens, stride)):
        starts = list(how.starts(length))
        covered = {token for start in starts for token in range(start, min(start + tokens, length))}
        assert covered == set(range(length)) and len(set(starts)) == len(starts)
        assert all(start < length for start in starts)


@pytest.mark.parametrize("spec", ["maxp(tokens=0)", "maxp(tokens=4, stride=5)", "mean(stride=0)"])
def test_windows_that_skip_text_are_refused(spec: str) -> None:
    with pytest.raises(UsageError, match="text is skipped"):
        passages.parse(spec)
