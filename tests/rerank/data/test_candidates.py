"""Candidates of a run: cut to depth, with their texts, and what is missing counted."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from sparring.rerank.data.candidates import candidates
from sparring.rerank.data.datasets import Dataset, open_dataset
from sparring.rerank.data.runs import Run
from sparring.rerank.errors import InputError, UsageError
from worlds import folder, jsonl

pytestmark = pytest.mark.usefixtures("cache")


def dataset_of(tmp_path: Path, docs: int = 300, topics: int = 3) -> Dataset:
    data = folder(
        tmp_path,
        **{
            "corpus.jsonl": jsonl(*({"id": f"d{i}", "text": f"text {i}"} for i in range(docs))),
            "queries.tsv": "".join(f"q{t}\tquery {t}\n" for t in range(topics)),
        },
    )
    return open_dataset(str(data))


def run_of(topics: dict[str, list[str]]) -> Run:
    return Run.from_topics({q: (ids, np.arange(len(ids), 0, -1.0)) for q, ids in topics.items()})


def test_candidates_are_cut_to_depth_in_input_order(tmp_path: Path) -> None:
    found = candidates(run_of({"q1": ["d3", "d1", "d2"], "q0": ["d9"]}), dataset_of(tmp_path), depth=2)
    first, second = found
    assert (first.qid, first.query, first.docids) == ("q1", "query 1", ("d3", "d1"))
    assert list(first.texts) == ["text 3", "text 1"] and first.scores.tolist() == [3.0, 2.0]
    assert second.docids == ("d9",) and len(found) == 2 and found.pairs == 3 and not found.missing


def test_topics_that_are_not_in_the_dataset(tmp_path: Path) -> None:
    run = run_of({f"x{i}": ["d1"] for i in range(7)} | {"q0": ["d1"]})
    dataset = dataset_of(tmp_path)
    with pytest.raises(
        InputError, match=r"7 of 8 topics .*: x0, x1, x2, x3, x4 and 2 more; .*--allow-missing-queries"
    ):
        candidates(run, dataset)
    found = candidates(run, dataset, allow_missing_queries=True)
    assert [c.qid for c in found] == ["q0"] and len(found.skipped) == 7
    with pytest.raises(InputError, match="1 of 1 topics"):
        candidates(run_of({"x": ["d1"]}), dataset, allow_missing_queries=True)


def test_few_missing_documents_are_listed_and_left_to_the_tail(tmp_path: Path) -> None:
    ids = [f"d{i}" for i in range(200)]
    dataset = dataset_of(tmp_path)
    found = candidates(run_of({"q0": [*ids[:5], "gone", *ids[5:]], "q1": ids}), dataset, depth=300)
    assert found.missing == {"q0": ("gone",)} and found.pairs == 400
    assert next(iter(found)).docids == tuple(ids)
    assert next(iter(found)).scores[4:6].tolist() == [197.0, 195.0]
    path = found.write_missing(tmp_path / "out.run")
    assert path == tmp_path / "out.run.missing_docs.tsv" and path.read_text() == "qid\tdocid\nq0\tgone\n"
    assert candidates(run_of({"q0": ids}), dataset).write_missing(tmp_path / "o") is None


def test_many_missing_documents_stop(tmp_path: Path) -> None:
    run = run_of({"q0": ["gone1", "d1", "gone2"], "nobody": ["d1"]})
    dataset = dataset_of(tmp_path)
    with pytest.raises(InputError) as error:
        candidates(run, dataset)
    assert "1 of 2 topics of the run" in str(error.value)  # everything that is wrong at once
    assert "2 of 3 candidates (66.7%) are not in the collection" in str(error.value)
    assert "gone1, gone2; check --dataset, or raise --missing-limit (now 0.01)" in str(error.value)
    found = candidates(run, dataset, missing_limit=1, allow_missing_queries=True)
    assert [c.docids for c in found] == [("d1",)]


def test_a_topic_without_candidates_is_left_out(tmp_path: Path) -> None:
    run = run_of({"q0": ["gone"], "q1": ["d1"]})
    found = candidates(run, dataset_of(tmp_path), missing_limit=1)
    assert [c.qid for c in found] == ["q1"] and found.empty == ("q0",)
    with pytest.raises(UsageError, match="--depth"):
        candidates(run, dataset_of(tmp_path), depth=0)
