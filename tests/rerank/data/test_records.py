"""Topics: every layout users have, and bad lines named."""

from __future__ import annotations

from pathlib import Path

import pytest
from sparring.rerank.data.records import read_queries
from sparring.rerank.errors import InputError
from worlds import jsonl


def test_queries_of_every_layout(tmp_path: Path) -> None:
    for name, content in (
        ("q.tsv", "1\tone\n2\ttwo\n"),
        ("h.tsv", "qid\tquery\n1\tone\n2\ttwo\n"),
        ("q.jsonl", jsonl({"_id": "1", "text": "one"}, {"_id": "2", "text": "two", "metadata": {}})),
        ("a.txt", "1\tone\r\n\r\n2\ttwo"),
    ):
        (tmp_path / name).write_bytes(content.encode())
        assert list(read_queries(tmp_path / name).items()) == [("1", "one"), ("2", "two")], name


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "q.tsv: 0 topics read"),
        ("qid\tquery\n", "q.tsv: 0 topics read"),
        ("1\tone\n1\tuno\n", "q.tsv:2: query '1' occurs twice"),
        ("1\tone\n2\n", r"q.tsv:2: expected 2 fields \(id TAB text\), found 1"),
    ],
)
def test_bad_queries_are_named_by_line(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "q.tsv").write_text(content)
    with pytest.raises(InputError, match=message):
        read_queries(tmp_path / "q.tsv")


def test_the_query_field_can_be_chosen(tmp_path: Path) -> None:
    (tmp_path / "q.jsonl").write_text(jsonl({"id": "1", "title": "short", "description": "long"}))
    assert read_queries(tmp_path / "q.jsonl", field="description") == {"1": "long"}
    with pytest.raises(
        InputError, match="q.jsonl:1: no query text: expected narrative; keys found: 'id', 'title'"
    ):
        read_queries(tmp_path / "q.jsonl", field="narrative")
