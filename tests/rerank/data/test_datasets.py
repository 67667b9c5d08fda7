"""Datasets: folders and names that open, and what does not exist is named."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from sparring.rerank.data.datasets import open_dataset
from sparring.rerank.data.documents import Documents
from sparring.rerank.errors import InputError, MissingResourceError, UsageError
from worlds import folder, jsonl

pytestmark = pytest.mark.usefixtures("cache")


def test_a_beir_folder(tmp_path: Path) -> None:
    data = folder(
        tmp_path,
        **{
            "corpus.jsonl": jsonl({"_id": "d1", "title": "T", "text": "x", "metadata": {}}),
            "queries.jsonl": jsonl({"_id": "q1", "text": "question"}),
            "qrels__test.tsv": "query-id\tcorpus-id\tscore\nq1\td1\t1\n",
        },
    )
    dataset = open_dataset(str(data))
    assert dataset.queries == {"q1": "question"} and dataset.documents.text("d1") == "T x"
    assert dataset.qrels_path == data / "qrels" / "test.tsv"
    assert dataset.files() == {"corpus": data / "corpus.jsonl", "queries": data / "queries.jsonl"}


def test_an_ms_marco_folder_and_parts_replaced(tmp_path: Path) -> None:
    data = folder(tmp_path, **{"collection.tsv": "7\tseven\n", "queries.tsv": "1\tone\n", "my.tsv": "2\ttwo\n"})
    assert open_dataset(str(data)).documents.text("7") == "seven"
    assert open_dataset(str(data), queries=data / "my.tsv").queries == {"2": "two"}
    assert open_dataset(None, queries=data / "my.tsv", corpus=data / "collection.tsv").queries == {"2": "two"}
    assert open_dataset(str(data)).qrels_path is None


def test_what_does_not_exist_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no dataset"):
        open_dataset(None)
    with pytest.raises(MissingResourceError, match="no such folder; a dataset is a folder, irds:<id> or pydocs"):
        open_dataset(str(tmp_path / "absent"))
    with pytest.raises(MissingResourceError, match=r"queries file .*a, corpus file .*b"):
        open_dataset(str(tmp_path), queries=tmp_path / "a", corpus=tmp_path / "b")
    with pytest.raises(
        MissingResourceError, match=r"unknown ir_datasets id 'vaswan' \(did you mean 'vaswani'\?\)"
    ):
        open_dataset("irds:vaswan")
    empty = open_dataset(str(tmp_path))
    with pytest.raises(MissingResourceError, match=r"has no corpus.jsonl, .* add --corpus FILE"):
        _ = empty.documents
    with pytest.raises(MissingResourceError, match=r"has no queries.tsv, .* add --queries FILE"):
        _ = empty.queries


def test_ir_datasets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import ir_datasets
    from ir_datasets.formats import TsvDocs, TsvQueries
    from ir_datasets.util import LocalDownload

    monkeypatch.setenv("IR_DATASETS_HOME", str(tmp_path / "irds"))
    (tmp_path / "docs.tsv").write_text("d1\tone\nd2\ttwo\nd3\tthree\n")
    (tmp_path / "queries.tsv").write_text("q1\tquestion\n")
    tiny = ir_datasets.Dataset(
        TsvDocs(LocalDownload(tmp_path / "docs.tsv"), namespace="tiny"),
        TsvQueries(LocalDownload(tmp_path / "queries.tsv")),
    )
    monkeypatch.setitem(ir_datasets.registry._registered, "tiny", tiny)
    dataset = open_dataset("irds:tiny")
    documents = dataset.documents
    assert isinstance(documents, Documents)
    assert list(documents) == ["d1", "d2", "d3"] and len(documents) == 3
    assert documents.get_many(["d3", "d1"]) == ["three", "one"] and documents.text("d2") == "two"
    assert "d1" in documents and "x" not in documents and documents.missing(["x", "d2"]) == {"x"}
    assert dataset.queries == {"q1": "question"} and len(dataset.collection_hash) == 64
    with pytest.raises(KeyError):
        documents.text("x")
    with pytest.raises(InputError, match="queries have no field 'title'; found: query_id, text"):
        _ = open_dataset("irds:tiny", query_field="title").queries


def test_ir_datasets_without_a_network(tmp_path: Path) -> None:
    code = (
        "import socket\n"
        "def refuse(*args, **options): raise OSError('offline')\n"
        "socket.socket.connect = socket.getaddrinfo = refuse\n"
        "from sparring.rerank.data.datasets import open_dataset\n"
        "from sparring.rerank.errors import MissingResourceError\n"
        "dataset = open_dataset('irds:vaswani')\n"
        "for part in ('queries', 'documents'):\n"
        "    try: getattr(dataset, part)\n"
        "    except MissingResourceError as error: print(error)\n"
    )
    home = {"IR_DATASETS_HOME": str(tmp_path / "irds"), "IR_DATASETS_DL_TRIES": "1"}
    done = subprocess.run([sys.executable, "-c", code], env=os.environ | home, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("irds:vaswani could not be read or downloaded (All download sources failed)") == 2


def test_the_real_collections_open(shared: Path) -> None:
    dataset = open_dataset(str(shared / "trec-dl-2019-pool"))
    assert len(dataset.documents) == 16_999 and len(dataset.queries) == 43
    assert dataset.queries["156493"] == "do goldfish grow"
    titled = open_dataset(str(shared / "scifact")).documents
    assert titled.text("4983").startswith("Microstructural development of human newborn cerebral white matter")
