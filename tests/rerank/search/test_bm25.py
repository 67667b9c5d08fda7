"""BM25 as a first stage: a second implementation, what may be found, and the command."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from bm25_oracle import Oracle
from hypothesis import given, settings
from hypothesis import strategies as st
from sparring.rerank.cli import main
from sparring.rerank.data.pydocs.collection import documents, topics
from sparring.rerank.data.runs import read_run
from sparring.rerank.search.bm25 import BM25, words

TEXTS = ["A red fox, a red dog", "the dog sleeps", "", "fox and dog and cat: fox!"]
letters = st.lists(st.sampled_from(["fox", "dog", "cat", "owl"]), max_size=6).map(" ".join)


@settings(deadline=None)
@given(st.lists(letters, min_size=1, max_size=8), letters)
def test_scores_are_those_of_the_second_implementation(texts: list[str], query: str) -> None:
    """Stemming leaves these words alone, so the oracle may split as it always did."""
    found = BM25.of(texts, k1=1.2, b=0.7).scores([query])
    np.testing.assert_allclose(found, Oracle.of(texts, k1=1.2, b=0.7).scores([query]), atol=1e-5)


@pytest.mark.slow
def test_a_real_collection_is_scored_alike() -> None:
    texts = [f"{item.title} {item.text}" for item in documents()][::7]
    queries = [text for _, _, text in topics()]
    mine, other = BM25.of(texts), Oracle.of(texts, split=words)
    np.testing.assert_allclose(mine.scores(queries), other.scores(queries), atol=1e-4)
    places, scores = mine.search(queries, 10)
    expected = other.search(queries, 10)
    np.testing.assert_allclose(scores, expected[1], atol=1e-4)
    assert (places == expected[0]).mean() > 0.99  # sums of float32 in another order may swap what is nearly tied


@settings(deadline=None)
@given(st.lists(letters, min_size=1, max_size=8), letters, st.integers(1, 9))
def test_search_is_the_sorted_scores(texts: list[str], query: str, depth: int) -> None:
    index = BM25.of(texts)
    places, scores = index.search([query], depth)
    every = index.scores([query])[0]
    best = np.lexsort((np.arange(len(texts)), -every))[:depth]
    assert places[0].tolist() == [place if every[place] > 0 else -1 for place in best.tolist()]
    assert (scores[0] == every[best]).all()


@pytest.mark.parametrize("texts", [[], [""], ["", "the of", "?!"], ["fox"], ["", "fox"]])
def test_small_and_empty_collections_and_queries(texts: list[str]) -> None:
    places, scores = BM25.of(texts).search(["", "the", "whale", "fox"], 3)
    assert places.shape == scores.shape == (4, min(3, len(texts)))
    assert (places[:3] == -1).all() and not scores[:3].any()
    assert [place for place in places[3].tolist() if place >= 0] == [
        i for i, text in enumerate(texts) if text == "fox"
    ]
    assert BM25.of(texts).scores([]).shape == (0, len(texts))


def test_words_and_allowed_documents() -> None:
    assert words("The FOX's tails are not naïve; GENERALIZATIONS") == ["fox", "s", "tail", "naïv", "gener"]
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
