"""Training data without a row: said with the file, whatever reads it."""

from __future__ import annotations

from pathlib import Path

import pytest
from sparring.rerank.errors import InputError
from sparring.train.data.mixture import Mixture, sources


@pytest.mark.parametrize("content", ["", "\n\n", "  \n"], ids=["empty", "lines", "blank"])
@pytest.mark.parametrize(
    ("source", "name"),
    [("lists", "a.jsonl"), ("huggingface", "a.jsonl"), ("huggingface", "a.csv"), ("triples", "a.tsv")],
)
def test_no_row_is_said(source: str, name: str, content: str, tmp_path: Path) -> None:
    pytest.importorskip("datasets")
    path = tmp_path / name
    path.write_text(content)
    with pytest.raises(InputError, match=f"0 rows read from {path}"):
        Mixture([sources.parse(f"{source}(path='{path}')")], 4, 0)
