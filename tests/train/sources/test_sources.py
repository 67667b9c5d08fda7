"""Training data: every kind of source reads what it promises, by offset where it may be large, and names bad rows."""

from __future__ import annotations

import gzip
import itertools
import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sparring.rerank.data.preferences import write_preferences
from sparring.rerank.errors import InputError, MissingResourceError, UsageError
from sparring.rerank.vocabulary import Preferences
from sparring.train.data.mixture import Mixture, Row, Rows, sources
from sparring.train.losses import losses
from sparring.train.sources.lines import LineFile, Presence, together

TEXTS = {f"d{i}": f"text of {i}" for i in range(8)}


@pytest.fixture
def collection(tmp_path: Path) -> Path:
    """Eight documents, three queries, qrels of two, and a run."""
    folder = tmp_path / "collection"
    folder.mkdir()
    (folder / "corpus.jsonl").write_text(
        "".join(json.dumps({"id": d, "text": t}) + "\n" for d, t in TEXTS.items())
    )
    (folder / "queries.tsv").write_text("q1\tone\nq2\ttwo\nq3\tthree\n")
    (folder / "qrels.txt").write_text("q1 0 d0 3\nq1 0 d1 0\nq1 0 d7 0\nq2 0 d2 1\nq2 0 d3 0\n")
    run = "".join(f"{q} Q0 d{i} {i + 1} {9 - i} bm25\n" for q in ("q1", "q2", "q3") for i in range(6))
    (folder / "first.run").write_text(run)
    return folder


def read(spec: str) -> list[Row]:
    return list(sources.parse(spec).rows())


def labels(row: Row) -> dict[str, float]:
    return dict(zip(row.docids, row.labels.tolist(), strict=True))


def texts(row: Row) -> tuple[str, ...]:
    return row.texts(np.arange(len(row.docids)))


# --- reading by offset


@settings(deadline=None, max_examples=25)
@given(
    st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\n\r"), max_size=40), max_size=30),
    st.sampled_from(["\n", "\r\n"]),
    st.booleans(),
    st.booleans(),
    st.booleans(),
)
def test_lines_are_read_again_at_their_offsets(
    tmp_path_factory: pytest.TempPathFactory, lines: list[str], end: str, packed: bool, mark: bool, last: bool
) -> None:
    path = tmp_path_factory.mktemp("lines") / ("x.tsv.gz" if packed else "x.tsv")
    text = end.join(lines) + (end if last else "")
    if text.startswith("\ufeff"):
        return
    data = b"\xef\xbb\xbf" * mark + text.encode()
    path.write_bytes(gzip.compress(data) if packed else data)
    file = pickle.loads(pickle.dumps(LineFile(path)))
    found = list(file.scan())
    assert [text for _, _, text in found] == [line for line in lines if line and not line.isspace()]
    assert [file.read(offset) for _, offset, _ in reversed(found)] == [text for *_, text in reversed(found)]
    assert [lines[number - 1] for number, _, _ in found] == [text for *_, text in found]


def test_lines_longer_than_one_read(tmp_path: Path) -> None:
    path = tmp_path / "x.tsv"
    path.write_text(f"{'a' * 100_000}\n{'é' * 50_000}\n")
    file = LineFile(path)
    assert [file.read(offset) for _, offset, _ in file.scan()] == ["a" * 100_000, "é" * 50_000]


@settings(deadline=None, max_examples=25)
@given(st.lists(st.integers(0, 5), max_size=30))
def test_equal_keys_come_together(keys: list[int]) -> None:
    order, bounds = together(keys)
    groups = [order[a:b].tolist() for a, b in itertools.pairwise(bounds)]
    expected: dict[int, list[int]] = {}
    for place, key in enumerate(keys):
        expected.setdefault(key, []).append(place)
    assert groups == list(expected.values())


def test_absent_documents_are_named_with_the_first_line(collection: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from sparring.rerank.data.datasets import open_dataset

    presence = Presence("x.tsv", open_dataset(str(collection)).documents)
    presence.add(1, ["d0", "d1"])
    presence.check()
    presence.add(2, ["d0", "b"])
    presence.add(3, ["a", "b"])
    with pytest.raises(InputError, match=r"x\.tsv:2: 2 documents are not in the collection: a, b"):
        presence.check()
    monkeypatch.setattr("sparring.train.sources.lines.TOGETHER", 2)
    with pytest.raises(InputError, match=r"x\.tsv:7: 1 documents"):
        Presence("x.tsv", presence.documents).add(7, ["d0", "c"])


def test_large_sources_keep_no_texts(tmp_path: Path) -> None:
    path = tmp_path / "triples.tsv"
    path.write_text("".join(f"query {i % 50}\tgood {i}\tbad {i}\n" for i in range(200)))
    rows = sources.parse(f"triples(path='{path}')").rows()
    assert isinstance(rows, Rows) and len(rows) == 50 and rows.candidates == 400
    assert rows[49].query == "query 49" and len(rows[49].docids) == 8
    pairs = sources.parse(f"triples(path='{path}', group=False)").rows()
    assert len(pairs) == 200 and labels(pairs[199]) == {"good 199": 1, "bad 199": 0}
    once, again = (Mixture([sources.parse(f"triples(path='{path}')")], 4, seed=3) for _ in range(2))
    assert [once[p].texts for p in range(len(once))] == [again[p].texts for p in reversed(range(len(once)))][::-1]


# --- triples and docpairs


def test_a_document_is_a_positive_once_it_is_one(tmp_path: Path) -> None:
    path = tmp_path / "t.tsv"
    path.write_text("q\tb\ta\nq\ta\tc\nq\td\td\n")
    assert labels(read(f"triples(path='{path}')")[0]) == {"b": 1, "a": 1, "c": 0}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("q1\td1", r"t\.tsv:2: expected query, positive and negative between tabs, found 2 fields"),
        ("q9\td1\td2", r"t\.tsv:2: query 'q9' is not in"),
        ("q1\td1\tx", r"t\.tsv:2: 1 documents are not in the collection: x"),
    ],
)
def test_the_first_bad_triple_is_named(collection: Path, tmp_path: Path, line: str, message: str) -> None:
    (tmp_path / "t.tsv").write_text(f"q1\td0\td1\n{line}\n")
    with pytest.raises(InputError, match=message):
        read(f"triples(path='{tmp_path}/t.tsv', dataset='{collection}')")


@pytest.fixture
def irds(collection: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """The collection as a dataset of ir_datasets, with qrels and docpairs."""
    import ir_datasets
    from ir_datasets.formats import TrecQrels, TsvDocPairs, TsvDocs, TsvQueries
    from ir_datasets.util import LocalDownload

    monkeypatch.setenv("IR_DATASETS_HOME", str(tmp_path / "irds"))
    (collection / "docs.tsv").write_text("".join(f"{docid}\t{text}\n" for docid, text in TEXTS.items()))
    (collection / "pairs.tsv").write_text("q1\td0\td1\nq2\td2\td3\nq1\td0\td4\n")
    parts = [
        TsvDocs(LocalDownload(collection / "docs.tsv"), namespace="tiny"),
        TsvQueries(LocalDownload(collection / "queries.tsv")),
        TrecQrels(LocalDownload(collection / "qrels.txt"), {}),
        TsvDocPairs(LocalDownload(collection / "pairs.tsv")),
    ]
    name = f"tiny-{tmp_path.name}"
    monkeypatch.setitem(ir_datasets.registry._registered, name, ir_datasets.Dataset(*parts))
    monkeypatch.setitem(ir_datasets.registry._registered, "bare", ir_datasets.Dataset(*parts[:2]))
    return name


def test_ir_datasets_has_qrels_and_docpairs(irds: str, collection: Path) -> None:
    first, second = read(f"docpairs(dataset='irds:{irds}')")
    assert labels(first) == {"d0": 1, "d1": 0, "d4": 0} and first.query == "one"
    assert texts(second) == ("text of 2", "text of 3")
    assert [labels(row) for row in read(f"judged(dataset='irds:{irds}')")] == [
        {"d0": 3, "d1": 0, "d7": 0},
        {"d2": 1, "d3": 0},
    ]
    with pytest.raises(MissingResourceError, match="irds:bare has no docpairs: name a subset"):
        read("docpairs(dataset='irds:bare')")
    with pytest.raises(MissingResourceError, match="irds:bare has no qrels"):
        read("judged(dataset='irds:bare')")


# --- runs


def test_negatives_by_rank_window_and_grade(collection: Path) -> None:
    window = f"run='{collection}/first.run', first=2, last=4"
    row, _ = read(f"judged(dataset='{collection}', {window}, unjudged=-1)")
    assert labels(row) == {"d0": 3, "d1": 0, "d7": 0, "d2": -1, "d3": -1}
    row, _ = read(f"judged(dataset='{collection}', {window}, negative=0)")
    assert labels(row) == {"d0": 3, "d1": 0, "d2": 0, "d3": 0}
    with pytest.raises(UsageError, match="negative=... is about the window of a run"):
        sources.parse(f"judged(dataset='{collection}', negative=0)")


def test_ranks_are_labels(collection: Path, tmp_path: Path) -> None:
    (tmp_path / "ranked.tsv").write_text("q1\td4\t1\nq1\td0\t2\nq1\td3\t3\nq2\td5\t1\nq2\td1\t2\n")
    first, second = read(f"ranked(path='{tmp_path}/ranked.tsv', dataset='{collection}')")
    assert labels(first) == {"d4": 2, "d0": 1, "d3": 0} and labels(second) == {"d5": 1, "d1": 0}
    (first,) = read(
        f"ranked(path='{collection}/first.run', dataset='{collection}', depth=2, labels=reciprocal, holdout=2)"
    )
    assert first.qid == "q2" and labels(first) == {"d0": 1, "d1": 0.5}
    (tmp_path / "ranked.tsv").write_text("q1\td4\t1\nq1\tx\t2\n")
    with pytest.raises(InputError, match="1 documents are not in the collection: x"):
        read(f"ranked(path='{tmp_path}/ranked.tsv', dataset='{collection}')")


# --- preferences


@pytest.fixture
def stored(tmp_path: Path) -> Path:
    """d0 beats d1 beats d2, asked in both orders once; d3 was a candidate that nobody asked about."""
    said = Preferences(
        sizes=np.array([4]),
        offsets=np.array([0, 4]),
        first=np.array([0, 1, 1, 0], np.int32),
        second=np.array([1, 0, 2, 2], np.int32),
        probability=np.array([0.8, 0.25, 0.9, 1.0]),
    )
    path = tmp_path / "preferences.parquet"
    write_preferences(path, [("q1", ("d0", "d1", "d2", "d3"), said)], {})
    return path


def test_pairs_keep_their_probability(collection: Path, stored: Path) -> None:
    import torch

    rows = read(f"preferences(path='{stored}', dataset='{collection}')")
    assert [row.docids for row in rows] == [("d0", "d1"), ("d1", "d0"), ("d1", "d2"), ("d0", "d2")]
    assert texts(rows[1]) == ("text of 1", "text of 0") and rows[0].query == "one"
    given = torch.tensor(np.array([row.labels for row in rows]))
    np.testing.assert_allclose(torch.sigmoid(given[:, 0] - given[:, 1]), [0.8, 0.25, 0.9, 1.0], atol=2e-6)
    loss = losses.parse("pair_kl")
    assert float(loss(given, given, torch.ones(4, 2, dtype=torch.bool))) == pytest.approx(0, abs=1e-6)


def test_preferences_become_lists(collection: Path, stored: Path) -> None:
    for more in ("", f", run='{collection}/first.run', depth=4"):
        (row,) = read(f"preferences(path='{stored}', dataset='{collection}', aggregator=bradley_terry{more})")
        assert row.docids == ("d0", "d1", "d2")
        assert row.labels[0] > row.labels[1] > row.labels[2]
    with pytest.raises(UsageError, match="did you mean 'bradley_terry'"):
        read(f"preferences(path='{stored}', dataset='{collection}', aggregator=bradley_tery)")


# --- Hugging Face datasets


def table(path: Path, records: list[dict[str, Any]]) -> Path:
    if path.suffix == ".parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        pq.write_table(pa.Table.from_pylist(records), path)
    else:
        path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


@pytest.mark.parametrize("ending", ["parquet", "jsonl"])
def test_hugging_face_layouts(tmp_path: Path, ending: str) -> None:
    path = table(
        tmp_path / f"tuples.{ending}",
        [{"query": q, "positive": "p", "negative_1": "a", "negative_2": "b", "extra": 1} for q in ("x", "y")],
    )
    rows = read(f"huggingface(path='{path}')")
    assert [row.query for row in rows] == ["x", "y"]
    assert texts(rows[0]) == ("p", "a", "b") and rows[0].labels.tolist() == [1, 0, 0]
    pairs = [("x", "a", 2), ("y", "b", 1), ("x", "c", 0.5), ("y", "d", 1)]
    path = table(
        tmp_path / f"pairs.{ending}", [dict(zip(("q", "passage", "score"), p, strict=True)) for p in pairs]
    )
    (row,) = read(f"huggingface(path='{path}', query=q, document=passage, label=score)")
    assert row.query == "x" and texts(row) == ("a", "c") and row.labels.tolist() == [2, 0.5]
    path = table(
        tmp_path / f"lists.{ending}",
        [{"query": "x", "document": ["a", "b"], "label": [0.0, 1.0]}, {"query": "y", "document": [], "label": []}],
    )
    (row,) = read(f"huggingface(path='{path}')")
    assert texts(row) == ("a", "b") and row.labels.tolist() == [0, 1]


def test_hugging_face_folders(tmp_path: Path) -> None:
    import datasets

    record = {"query": ["x"], "positive": ["p"], "negative": ["n"]}
    datasets.Dataset.from_dict(record).save_to_disk(str(tmp_path / "one"))
    datasets.DatasetDict({"train": datasets.Dataset.from_dict(record)}).save_to_disk(str(tmp_path / "parts"))
    (tmp_path / "files").mkdir()
    table(tmp_path / "files" / "a.jsonl", [{k: v[0] for k, v in record.items()}])
    for name in ("one", "parts", "files"):
        (row,) = read(f"huggingface(path='{tmp_path / name}')")
        assert texts(row) == ("p", "n")
    with pytest.raises(MissingResourceError, match="has no split 'dev'; it has train"):
        read(f"huggingface(path='{tmp_path}/parts', split=dev)")
    with pytest.raises(MissingResourceError, match="absent: cannot be read as a dataset"):
        read(f"huggingface(path='{tmp_path}/absent')")


@pytest.mark.parametrize(
    ("records", "message"),
    [
        ([{"text": "a"}], r"expected columns query, positive, negative .* found text"),
        (
            [{"query": "x", "positive": "p", "negative": "n"}, {"query": "x", "positive": None, "negative": "n"}],
            r":2: positive must be a text, found None",
        ),
        (
            [{"query": "x", "document": "a", "label": 1}, {"query": "x", "document": "b", "label": None}],
            r":2: label must be a finite number, found None",
        ),
        (
            [{"query": "x", "document": ["a", "b"], "label": [1]}],
            r":1: document and label must be lists of the same",
        ),
    ],
)
def test_the_first_bad_row_of_a_dataset_is_named(tmp_path: Path, records: list[Any], message: str) -> None:
    path = table(tmp_path / "bad.jsonl", records)
    with pytest.raises(InputError, match=message):
        read(f"huggingface(path='{path}')")


def test_a_broken_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_text('{"query": \n')
    with pytest.raises(InputError, match="cannot be read as a dataset"):
        read(f"huggingface(path='{tmp_path}/x.jsonl')")
    (tmp_path / "x.txt").write_text("")
    with pytest.raises(InputError, match="expected a name that ends in"):
        read(f"huggingface(path='{tmp_path}/x.txt')")


def test_specs_round_trip() -> None:
    for spec in (
        "huggingface(path='x', label=score)",
        "preferences(path='p', dataset='d', aggregator='bradley_terry(prior=2.0)')",
        "judged(dataset='d', run='r', negative=0)",
        "docpairs(dataset='irds:x', group=False)",
    ):
        assert str(sources.parse(str(sources.parse(spec)))) == str(sources.parse(spec))
