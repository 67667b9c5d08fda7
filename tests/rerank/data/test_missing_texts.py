"""Lines of JSONL files: what is no text counts as missing."""

from __future__ import annotations

from pathlib import Path

import pytest
from sparring.rerank.data.datasets import open_dataset
from sparring.rerank.data.records import clean, read_queries


@pytest.mark.parametrize("value", ["NaN", "null", '""', '"  "'])
def test_a_text_that_is_none_is_missing_and_counted(
    tmp_path: Path, value: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    rows = [
        '{"id": "a", "text": "one"}',
        f'{{"id": "b", "text": {value}}}',
        f'{{"id": "c", "text": {value}, "title": "t"}}',
    ]
    (tmp_path / "corpus.jsonl").write_text("\n".join(rows) + "\n")
    documents = open_dataset(None, corpus=tmp_path / "corpus.jsonl").documents
    assert [text.strip() for text in documents.get_many(["a", "b", "c"])] == ["one", "", "t"]
    assert "1 documents have no text: scored as empty" in caplog.text


def test_a_title_that_is_none_adds_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "corpus.jsonl").write_text('{"id": "a", "title": NaN, "text": "one"}\n')
    assert open_dataset(None, corpus=tmp_path / "corpus.jsonl").documents.text("a") == "one"


def test_queries_without_a_text_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "queries.jsonl").write_text('{"id": "1", "text": "a"}\n{"id": "2", "text": NaN}\n')
    assert read_queries(tmp_path / "queries.jsonl") == {"1": "a", "2": ""}
    assert "1 queries have no text: 2" in caplog.text


@pytest.mark.parametrize(
    "value,text", [(None, ""), (float("nan"), ""), (7, "7"), ("NaN", "NaN"), ("a\ud800b", "a\ufffdb")]
)
def test_values_become_texts(value: object, text: str) -> None:
    assert clean(value) == text
