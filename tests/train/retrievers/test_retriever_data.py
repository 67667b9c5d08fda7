"""What a retriever's batches hold: a function of position, the best first, known candidates no negatives."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from sparring.train.data.mixture import Example, Mixture, sources
from sparring.train.retrievers.data import ColumnCollator, EncodedCollator, as_dataset


def test_data_are_a_function_of_position(collection: Path) -> None:
    def mixture() -> Mixture:
        return Mixture([sources.parse(f"judged(dataset='{collection}')")], 4, seed=3, total=30)

    dataset, again = as_dataset(mixture()), mixture()
    for position in (29, 0, 11):
        assert dataset[position]["example"].docids == again[position].docids
    assert [row.qid for row in dataset[[5, 6]]["example"]] == [again[5].qid, again[6].qid]


class Columns:
    """Stands for the library's collator: hands the rows through."""

    valid_label_columns = ("label",)

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        return {name: [row[name] for row in rows] for name in rows[0]}


def example(query: str, texts: str, labels: list[float]) -> dict[str, Example]:
    return {"example": Example(query, query, tuple(texts), tuple(texts), np.array(labels, np.float32))}


def test_columns_have_the_best_first_and_are_equally_wide() -> None:
    rows = [example("x", "abc", [0, 2, 1]), example("y", "de", [1, 0]), example("z", "fg", [1, 1])]
    labelled = ColumnCollator(Columns(), 4, True)(rows)
    assert [labelled[f"document_{i}"] for i in range(1, 5)] == [list("bdf"), list("ceg"), list("aeg"), list("ceg")]
    assert labelled["label"][0] == [2, 1, 0, 1]
    bare = ColumnCollator(Columns(), 3, False)(rows)
    assert [bare[f"document_{i}"] for i in range(1, 4)] == [list("bdf"), list("cef"), list("aef")]
    assert "label" not in bare


def test_known_candidates_are_no_negatives_of_another_list() -> None:
    rows = [example("x", "abc", [2, 1, 0]), example("y", "ad", [1, 0]), example("x", "ef", [1, 0])]
    batch = EncodedCollator(Columns())(rows)
    others = batch["document_others"]
    assert batch["document"] == list("abcadef") and batch["document_mask"].sum() == 7
    assert others[0].tolist() == [
        [False] * 3,
        [False, True, False],
        [False] * 3,
    ]  # a is known, the third asks the same
    assert others[1].tolist() == [[False, True, True], [False] * 3, [True, True, False]]
