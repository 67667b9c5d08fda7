"""Preferences: ragged arrays that join and split without loss, and files that say what is wrong with them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sparring.rerank.data.preferences import read_preferences, write_preferences
from sparring.rerank.data.runs import Run
from sparring.rerank.errors import InputError, MissingResourceError
from sparring.rerank.vocabulary import Preferences


def some(n: int, edges: int, seed: int = 0, **extra: bool) -> Preferences:
    rng = np.random.default_rng(seed)
    first = rng.integers(0, n, edges).astype(np.int32) if edges else np.empty(0, np.int32)
    second = ((first + rng.integers(1, n, edges)) % n).astype(np.int32) if edges else np.empty(0, np.int32)
    return Preferences(
        sizes=np.array([n]),
        offsets=np.array([0, edges]),
        first=first,
        second=second,
        probability=rng.random(edges).astype(np.float32).astype(np.float64),
        prior=-np.arange(n, dtype=np.float64),
        weight=rng.random(edges) if extra.get("weight") else None,
    )


def same(a: Preferences, b: Preferences) -> bool:
    return all(
        (x is None and y is None) or np.array_equal(x, y)
        for x, y in ((getattr(a, name), getattr(b, name)) for name in Preferences.__slots__)
    )


@given(st.lists(st.tuples(st.integers(2, 9), st.integers(0, 30)), min_size=1, max_size=5), st.booleans())
def test_join_and_topic_are_inverse(shapes: list[tuple[int, int]], weight: bool) -> None:
    parts = [some(n, edges, seed, weight=weight) for seed, (n, edges) in enumerate(shapes)]
    joined = Preferences.join(parts)
    assert all(same(joined.topic(index), part) for index, part in enumerate(parts))


def test_dense_counts_both_sides_of_every_comparison() -> None:
    said = Preferences(
        sizes=np.array([2, 3]),
        offsets=np.array([0, 2, 3]),
        first=np.array([0, 1, 2], np.int32),
        second=np.array([1, 0, 0], np.int32),
        probability=np.array([0.75, 0.5, 1.0]),
    )
    wins, games, mask = said.dense()
    assert wins[0].tolist() == [[0, 1.25, 0], [0.75, 0, 0], [0, 0, 0]]
    assert games[1].tolist() == [[0, 0, 1], [0, 0, 0], [1, 0, 0]]
    assert mask.tolist() == [[True, True, False], [True, True, True]]
    assert said.ragged(np.arange(6.0).reshape(2, 3)).tolist() == [0, 1, 3, 4, 5]


@pytest.mark.parametrize(
    "change,message",
    [
        ({"probability": np.array([1.5])}, "sigmoid"),
        ({"second": np.array([2], np.int32)}, "outside its topic"),
        ({"second": np.array([0], np.int32)}, "with itself"),
        ({"offsets": np.array([0, 2])}, "offsets"),
        ({"prior": np.zeros(3)}, "prior"),
        ({"weight": np.zeros(3)}, "weight"),
    ],
)
def test_impossible_preferences_are_refused(change: dict[str, np.ndarray], message: str) -> None:
    given_arrays = {
        "sizes": np.array([2]),
        "offsets": np.array([0, 1]),
        "first": np.array([0], np.int32),
        "second": np.array([1], np.int32),
        "probability": np.array([0.5]),
    }
    with pytest.raises(ValueError, match=message):
        Preferences(**{**given_arrays, **change})


def test_a_file_gives_back_what_was_written(tmp_path: Path) -> None:
    names = tuple(f"d{i}" for i in range(6))
    run = Run.from_topics([("q1", names, np.arange(6, 0.0, -1)), ("q2", names, np.arange(6, 0.0, -1))])
    parts = [some(6, 20, 1), some(6, 7, 2)]
    path = tmp_path / "p.parquet"
    count = write_preferences(
        path,
        [(q, names, said) for q, said in zip(("q1", "q2"), parts, strict=True)],
        {"model": "m", "order": "both"},
    )
    stored = read_preferences(path, run)
    assert count == 27 and stored.details["model"] == "m" and stored.qids == ("q1", "q2")
    for index, part in enumerate(parts):
        back = stored.preferences.topic(index)
        assert np.array_equal(back.first, part.first) and np.array_equal(back.second, part.second)
        assert np.array_equal(back.probability, part.probability)
        assert back.prior is not None and back.prior.tolist() == [6, 5, 4, 3, 2, 1]


def test_arena_votes_from_anywhere(tmp_path: Path) -> None:
    path = tmp_path / "votes.csv"
    path.write_text(
        "left,right,winner,weight,worker\nGPT 4,NA,left,2,w1\nNA,007,tie,1,w2\n007,GPT 4,GPT 4,1,w1\nNA,NA,left,1,w1\n"
    )
    stored = read_preferences(path)
    assert stored.docids == (("007", "GPT 4", "NA"),)
    said = stored.preferences
    assert said.probability.tolist() == [1.0, 0.5, 0.0]
    assert said.weight is not None and said.weight.tolist() == [2, 1, 1]
    assert said.source is not None and said.source.tolist() == [0, 1, 0]


@pytest.mark.parametrize(
    "text,message",
    [
        ("left,right,winner\na,b,c\n", "v.csv:2: winner 'c'"),
        ("a,b\n1,2\n", "expected columns"),
        ("left,right,winner\na,a,left\n", "0 comparisons"),
        ("left,right,winner\na,b,left\na\n", "cannot be read"),
    ],
)
def test_wrong_files_say_what_is_wrong(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "v.csv"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        read_preferences(path)


def test_documents_must_come_from_the_run(tmp_path: Path) -> None:
    path = tmp_path / "v.csv"
    path.write_text("qid,left,right,winner\n1,a,b,left\n")
    run = Run.from_topics([("1", ("a", "c"), np.array([2.0, 1.0]))])
    with pytest.raises(InputError, match="compares 'b', which is not in the run"):
        read_preferences(path, run)
    with pytest.raises(InputError, match="1 topics are not in the run: 1"):
        read_preferences(path, Run.from_topics([("2", ("a", "b"), np.array([2.0, 1.0]))]))
    with pytest.raises(MissingResourceError):
        read_preferences(tmp_path / "absent.csv")
