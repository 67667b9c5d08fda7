"""What is read from a language model's ranking: the longest run of separated numbers, and nothing from prose."""

from __future__ import annotations

import pytest
from sparring.rerank.models.chat.list_prompts import read


def order(answer: str, n: int = 3) -> list[int] | None:
    reading = read("permutation", answer, n)
    return None if reading is None else [int(i) + 1 for i in (-reading.scores).argsort(kind="stable")]


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("Passage [3] only mentions it in passing.\n\n[2] > [1] > [3]", [2, 1, 3]),
        ("Here is the ranking of the 3 passages: 2 > 1 > 3", [2, 1, 3]),
        ("1. [3]\n2. [1]\n3. [2]", [3, 1, 2]),
        ("1. [3] answers it in full\n2. [1] is about 2 rivers\n3. [2] is not", [3, 1, 2]),
        ("1) Passage 3\n2) Passage 1\n3) Passage 2", [3, 1, 2]),
        ("First I thought [1] > [2] > [3], but no: [3] > [2] > [1]", [3, 2, 1]),
        ("[2] > [1]\n\nof which 2, the best, is from 1998", [2, 1, 3]),
        ("**[3]** > **[2]** > **[1]**", [3, 2, 1]),
        ("[3] ≻ [1] ≻ [2]", [3, 1, 2]),
        ("[3]>[1]>[2]", [3, 1, 2]),
        ("[3] [1] [2]", [3, 1, 2]),
        ("2, 3, 1", [2, 3, 1]),
        ("3\n1\n2", [3, 1, 2]),
        ("Ranking: passage 2 > passage 3 > passage 1", [2, 3, 1]),
        ("[3]", [3, 1, 2]),
        ("I cannot rank these.", None),
        ("I cannot rank these 3 passages.", None),
        ("Passage [3] only mentions it in passing.", None),
        ("None of [1] and [2] answers the query.", None),
        ("", None),
    ],
)
def test_the_ranking_is_the_longest_run(answer: str, expected: list[int] | None) -> None:
    assert order(answer) == expected


def test_a_very_long_answer_is_read() -> None:
    assert order("[1] > " * 20_000 + "[2]") == [1, 2, 3]
