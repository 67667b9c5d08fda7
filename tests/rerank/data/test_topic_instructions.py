"""What topics say to judge by, from JSONL and from TSV with a header."""

from __future__ import annotations

from pathlib import Path

import pytest
from sparring.rerank.data.datasets import open_dataset
from sparring.rerank.errors import InputError


@pytest.mark.parametrize(
    ("name", "content"),
    [
        (
            "queries.jsonl",
            '{"id": "1", "text": "a", "instruction": " find b "}\n{"id": "2", "text": "c", "instruction": null}\n',
        ),
        ("queries.tsv", "id\ttext\tinstruction\n1\ta\tfind b\n2\tc\t\n"),
    ],
)
def test_instructions_are_read_with_the_topics(tmp_path: Path, name: str, content: str) -> None:
    (tmp_path / name).write_text(content)
    dataset = open_dataset(None, tmp_path / name)
    assert dataset.queries == {"1": "a", "2": "c"} and dataset.instructions == {"1": "find b"}
    chosen = open_dataset(None, tmp_path / name, query_field="instruction")
    assert chosen.queries["1"].strip() == "find b" and chosen.instructions == {}


def test_one_topic_has_one_instruction(tmp_path: Path) -> None:
    path = tmp_path / "queries.jsonl"
    rows = ['{"id": "1", "text": "a"}', '{"id": "1", "text": "a", "instruction": "b"}']
    path.write_text("\n".join(rows))
    assert open_dataset(None, path).instructions == {"1": "b"}
    path.write_text("\n".join([*rows, '{"id": "1", "text": "a", "instruction": "c"}']))
    with pytest.raises(InputError, match=r":3: query '1' occurs twice, with different instructions"):
        _ = open_dataset(None, path).instructions
