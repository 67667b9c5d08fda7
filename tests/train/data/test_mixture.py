"""Training lists: drawn from candidates, mixed as a function of position, and bad ones named."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sparring.rerank.cli import main
from sparring.rerank.data.datasets import open_dataset
from sparring.rerank.errors import InputError, UsageError
from sparring.rerank.search.bm25 import BM25
from sparring.train import sources as registered
from sparring.train.data.mixture import Mixture, draw, sources
from tiny_training import write_collection


@pytest.fixture(scope="module")
def collection(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_collection(tmp_path_factory.mktemp("collection"))


@settings(deadline=None, max_examples=60)
@given(
    labels=st.lists(st.integers(0, 3), min_size=1, max_size=60),
    size=st.integers(2, 20),
    sampling=st.sampled_from(["balanced", "spread", "top", "random", "log_random"]),
    seed=st.integers(0, 99),
)
def test_draw_takes_different_candidates(labels: list[int], size: int, sampling: str, seed: int) -> None:
    values = np.array(labels, np.float32)
    chosen = draw(values, size, sampling, np.random.default_rng(seed))
    assert len(chosen) == min(size, len(labels)) == len(set(chosen.tolist()))
    if sampling == "top":
        assert sorted(values[chosen])[::-1] == sorted(labels, reverse=True)[: len(chosen)]


def test_balanced_takes_label_values_in_turn() -> None:
    labels = np.array([0] * 50 + [1] * 3 + [2] * 2 + [3], np.float32)
    chosen = draw(labels, 8, "balanced", np.random.default_rng(0))
    assert sorted(labels[chosen].tolist()) == [0, 0, 1, 1, 1, 2, 2, 3]


def _lists(folder: Path, rows: list[dict[str, object]]) -> Path:
    path = folder / "lists.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_every_source_gives_rows(collection: Path, tmp_path: Path) -> None:
    (tmp_path / "ids.tsv").write_text("q0\td0-3\td0-0\nq0\td0-2\td0-0\nq1\td1-3\td1-4\n")
    (tmp_path / "text.tsv").write_text("a query\tgood text\tbad text\n")
    lists = _lists(tmp_path, [{"qid": "q0", "docids": ["d0-0", "d0-1"], "scores": [0.5, 0.25]}])
    specs = {
        f"run(path='{collection}/first.run', dataset='{collection}', depth=5)": (8, 5),
        f"judged(dataset='{collection}')": (8, 10),
        f"judged(dataset='{collection}', run='{collection}/first.run', first=11, last=12, holdout=2)": (4, 12),
        f"lists(path='{lists}', dataset='{collection}')": (1, 2),
        f"triples(path='{tmp_path}/ids.tsv', dataset='{collection}')": (2, 3),
        f"triples(path='{tmp_path}/text.tsv')": (1, 2),
    }
    for spec, (topics, candidates) in specs.items():
        source = sources.parse(spec)
        assert str(sources.parse(str(source))) == str(source)
        rows = source.rows()
        assert (len(rows), len(rows[0].docids)) == (topics, candidates), spec
        assert all(len(row.texts(np.arange(len(row.docids)))) == len(row.labels) for row in rows)


@pytest.mark.slow
def test_embedded_collection_is_a_source() -> None:
    source = sources.parse("docstrings(negatives=8)")
    row = source.rows()[5]
    assert row.labels[0] == 1 and row.labels[1:].sum() == 0 and len(row.docids) == len(set(row.docids))


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_embedded_collection_is_distilled_through_its_index(tmp_path: Path) -> None:
    assert main(["index", "--dataset=pydocs", "--model=minilm", f"--output={tmp_path}/index"]) == 0
    rows = sources.parse(f"docstrings(index='{tmp_path}/index', negatives=8, limit=50)").rows()
    assert len(rows) == 50
    for row in rows:
        assert row.labels[0] == row.labels.max() and (row.labels <= 1.2).all() and 9 <= len(row.labels) <= 10
    both = sources.parse(f"docstrings(index='{tmp_path}/index', negatives=8, limit=50, words=0.02)").rows()
    documents = open_dataset("pydocs").documents
    ids = list(documents)
    scores = BM25.of(documents.get_many(ids)).scores([row.query for row in rows])
    for row, blended, values in zip(rows, both, scores, strict=True):
        assert blended.docids == row.docids and blended.labels[0] == blended.labels.max()
        expected = row.labels[1:] + 0.02 * values[[ids.index(name) for name in row.docids[1:]]]
        np.testing.assert_allclose(blended.labels[1:], expected, atol=2e-3)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"qid": "q0", "docids": ["d0-0"]}', "lists.jsonl:1: lacks scores"),
        (
            '{"qid": "q0", "docids": ["d0-0"], "scores": [1, 2]}',
            "lists.jsonl:1: 1 docids need as many finite scores, found 2",
        ),
        ('{"qid": "q0", "docids": ["d0-0"], "score": [1]}', "unknown column 'score' .did you mean 'scores'"),
        ('{"qid": "q9", "docids": ["d0-0"], "scores": [1]}', "lists.jsonl:1: no text of 'q9'"),
        ('{"qid": "q0", "docids": ["x", "y"], "scores": [1, 0]}', "2 documents are not in the collection: x, y"),
        ('{"qid": ', "lists.jsonl:1: not valid JSON"),
    ],
)
def test_bad_lists_are_named(collection: Path, tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "lists.jsonl").write_text(text + "\n")
    with pytest.raises(InputError, match=message):
        sources.parse(f"lists(path='{tmp_path}/lists.jsonl', dataset='{collection}')").rows()


def test_all_wrong_sources_are_said_at_once() -> None:
    with pytest.raises(UsageError, match="judgd.*; .*unknown option"):
        registered.parse(["judgd(dataset='x')", "run(pth='x')"])


def test_mixture_is_a_function_of_position(collection: Path) -> None:
    parts = [
        sources.parse(f"judged(dataset='{collection}', share=3)"),
        sources.parse(f"run(path='{collection}/first.run', dataset='{collection}', scale=2)"),
    ]
    once, again = Mixture(parts, 4, seed=1, total=400), Mixture(parts, 4, seed=1, total=400)
    backwards = {position: again[position] for position in (399, 7, 0)}
    for position, example in backwards.items():
        assert once[position].docids == example.docids
        assert once[position].texts == example.texts
    assert Mixture(parts, 4, seed=2, total=400)[7].docids != once[7].docids
    assert 240 < once.describe()[0]["lists"] < 360
    passes = Mixture(parts[:1], 4, seed=0, passes=2.0)
    assert sorted(passes[p].qid for p in range(8)) == sorted(passes[p].qid for p in range(8, 16))


def test_rows_of_one_label_are_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = [{"qid": q, "query": "x", "docids": ["a", "b"], "texts": ["t", "u"]} for q in "12"]
    path = _lists(tmp_path, [rows[0] | {"scores": [1, 1]}, rows[1] | {"scores": [1, 0]}])
    assert [len(r) for r in Mixture([sources.parse(f"lists(path='{path}')")], 2, 0).rows] == [1]
    path = _lists(tmp_path, [rows[0] | {"scores": [1, 1]}])
    with pytest.raises(InputError, match="nothing to learn from"):
        Mixture([sources.parse(f"lists(path='{path}')")], 2, 0)
