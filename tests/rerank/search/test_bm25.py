"""BM25 as a first stage: the formula by hand, what may be found, and the command."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sparring.rerank.cli import main
from sparring.rerank.data.runs import read_run
from sparring.rerank.search.bm25 import BM25, words

TEXTS = ["A red fox, a red dog", "the dog sleeps", "", "fox and dog and cat: fox!"]
letters = st.lists(st.sampled_from(["fox", "dog", "cat", "owl"]), max_size=6).map(" ".join)


def by_hand(texts: list[str], query: str, k1: float = 0.9, b: float = 0.4) -> list[float]:
    documents = [Counter(words(text)) for text in texts]
    mean = sum(map(Counter.total, documents)) / len(documents)
    scores = []
    for document in documents:
        total = 0.0
        for word in words(query):
            df = sum(word in other for other in documents)
            idf = math.log(1 + (len(documents) - df + 0.5) / (df + 0.5))
            tf = document[word]
            total += idf * tf / (tf + k1 * (1 - b + b * document.total() / (mean or 1))) if tf else 0.0
        scores.append(total)
    return scores


@settings(deadline=None)
@given(st.lists(letters, min_size=1, max_size=8), letters)
def test_scores_are_the_formula(texts: list[str], query: str) -> None:
    assert BM25.of(texts).scores([query])[0] == pytest.approx(by_hand(texts, query), abs=1e-5)


@settings(deadline=None)
@given(st.lists(letters, min_size=1, max_size=8), letters, st.integers(1, 9))
def test_search_is_the_sorted_scores(texts: list[str], query: str, depth: int) -> None:
    index = BM25.of(texts)
    places, scores = index.search([query], depth)
    every = index.scores([query])[0]
    best = np.lexsort((np.arange(len(texts)), -every))[:depth]
    assert places[0].tolist() == [place if every[place] > 0 else -1 for place in best.tolist()]
    assert (scores[0] == every[best]).all()


def test_words_and_allowed_documents() -> None:
    assert words("The FOX's tail is naïve") == ["fox", "s", "tail", "naïve"]
    places, _ = BM25.of(TEXTS).search(["red fox"], 4, allowed=np.array([1, 3]))
    assert places.tolist() == [[3, -1, -1, -1]]


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    corpus = "".join(f'{{"id": "d{number}", "text": "{text}"}}\n' for number, text in enumerate(TEXTS))
    (tmp_path / "corpus.jsonl").write_text(corpus)
    (tmp_path / "queries.tsv").write_text("1\tfox\n2\tsleeps dog\n3\twhale\n")
    flags = ["search", "--dataset", str(tmp_path), "--model", "bm25", "--output", str(tmp_path / "a.run")]
    assert main([*flags, "--depth", "3"]) == 0
    run = read_run(tmp_path / "a.run")
    assert run["1"][0] == ("d3", "d0") and run["2"][0][0] == "d1" and "3" not in run
    assert (tmp_path / "a.run.meta.yaml").is_file()
    assert main([*flags, "--overwrite", "--index", str(tmp_path)]) == 2
    assert "leave --index and --adaptive out" in capsys.readouterr().err
