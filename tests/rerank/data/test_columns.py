"""Numeric columns of preference files: what is not a number in range is refused with file, line and column."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sparring.rerank.cli import main
from sparring.rerank.data.preferences import HEAVIEST, read_preferences
from sparring.rerank.data.runs import read_run
from sparring.rerank.errors import InputError
from sparring.rerank.registry import aggregators
from sparring.rerank.vocabulary import Preferences

BAD = [
    "-3",
    "",
    "nan",
    "NaN",
    "inf",
    "-inf",
    "1e300",
    "1e308",
    "1e400",
    "heavy",
    "1,5",
    "NULL",
    "true",
    "2026-01-01",
]


@pytest.mark.parametrize("weight", BAD)
@pytest.mark.parametrize("line", [2, 3, 4])
def test_weights_that_are_none_are_refused_with_their_line(tmp_path: Path, weight: str, line: int) -> None:
    rows = ["a,b,left,1", "b,c,left,2.5", "c,a,tie,1"]
    rows[line - 2] = rows[line - 2].rpartition(",")[0] + f',"{weight}"'
    path = tmp_path / "v.csv"
    path.write_text("\n".join(["left,right,winner,weight", *rows]) + "\n")
    shown = repr(weight) if weight else "''"
    with pytest.raises(InputError) as refused:
        read_preferences(path)
    assert str(refused.value) == f"{path}:{line}: weight {shown} is not a number from 0 to 1e+09"


@pytest.mark.parametrize("value", ["-0.1", "1.5", "", "nan", "inf", "likely", "1e308"])
def test_probabilities_that_are_none_are_refused_with_their_line(tmp_path: Path, value: str) -> None:
    path = tmp_path / "v.csv"
    path.write_text(f"qid,first,second,probability\n1,a,b,0.5\n1,b,c,{value}\n")
    with pytest.raises(InputError, match=r"v.csv:3: probability '.*' is not a number from 0 to 1: pass logits"):
        read_preferences(path)


def test_lines_are_counted_as_an_editor_counts_them(tmp_path: Path) -> None:
    path = tmp_path / "v.csv"
    path.write_text(
        '\ufeffleft,right,winner,weight\n\na,b,left,1\n"a\nb",c,left,1\n\nb,c,left,-1\n', encoding="utf-8"
    )
    with pytest.raises(InputError, match=r"v.csv:7: weight '-1'"):
        read_preferences(path)


@pytest.mark.parametrize("winner", ["", "c"])
def test_a_wrong_winner_is_named_with_its_line(tmp_path: Path, winner: str) -> None:
    path = tmp_path / "v.csv"
    path.write_text(f"left,right,winner\n\na,b,left\n\na,b,{winner}\n")
    with pytest.raises(InputError, match=f"v.csv:5: winner '{winner}'"):
        read_preferences(path)


@pytest.mark.parametrize(
    "values", [[1.0, None], [1.0, -2.0], [1.0, np.nan], [1.0, np.inf], ["1", "two"], [True, False]]
)
def test_parquet_files_are_held_to_the_same(tmp_path: Path, values: list[Any]) -> None:
    path = tmp_path / "v.parquet"
    columns = {"left": ["a", "b"], "right": ["b", "c"], "winner": ["left", "left"], "weight": values}
    pq.write_table(pa.table(columns), path)
    with pytest.raises(
        InputError, match=rf"v.parquet:row {1 if values[0] is True else 2}: weight .* is not a number"
    ):
        read_preferences(path)


def test_a_name_that_is_missing_from_a_parquet_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "v.parquet"
    pq.write_table(pa.table({"left": ["a", None], "right": ["b", "c"], "winner": ["left", "left"]}), path)
    with pytest.raises(InputError, match="v.parquet:row 2: left is empty"):
        read_preferences(path)


@pytest.mark.parametrize("spec", aggregators.names())
def test_weights_from_nothing_to_the_heaviest_are_ranked(tmp_path: Path, spec: str) -> None:
    path = tmp_path / "v.csv"
    path.write_text(f"left,right,winner,weight\na,b,left,{HEAVIEST:.0f}\nb,c,left,1\nc,a,left,0\nb,d,left,1e-9\n")
    said = read_preferences(path).preferences
    assert said.weight is not None and said.weight.tolist() == [1e9, 1, 0, 1e-9]
    assert np.isfinite(aggregators.parse(spec)(said)).all()


def test_no_topic_of_the_run_is_lost(tmp_path: Path) -> None:
    (tmp_path / "p.csv").write_text("qid,left,right,winner,weight\n2,d1,d2,right,50\n")
    rows = ["1 Q0 only 1 3.5 x", "2 Q0 d1 1 2 x", "2 Q0 d2 2 1 x", "3 Q0 e1 1 9 x", "3 Q0 e2 2 8 x"]
    (tmp_path / "first.run").write_text("\n".join(rows) + "\n")
    args = ["aggregate", "--preferences", str(tmp_path / "p.csv"), "--run", str(tmp_path / "first.run")]
    assert main([*args, "--output", str(tmp_path / "out.run")]) == 0
    found = read_run(tmp_path / "out.run")
    assert {qid: ids for qid, ids, _ in found.items()} == {"1": ("only",), "2": ("d2", "d1"), "3": ("e1", "e2")}


@pytest.mark.parametrize("spec", aggregators.names())
def test_infinite_scores_of_the_first_stage_count_for_their_order_only(spec: str) -> None:
    sides = np.array([0, 1, 2, 4], np.int32), np.array([1, 2, 3, 3], np.int32)

    def scores(prior: list[float]) -> np.ndarray:
        said = Preferences(
            np.array([5]), np.array([0, 4]), *sides, np.array([1.0, 0, 1, 1]), None, np.array(prior)
        )
        return aggregators.parse(spec)(said)

    found = scores([np.inf, 3.0, np.inf, -np.inf, 0.5])
    assert found.tolist() == scores([0.0, -2.0, 0.0, -4.0, -3.0]).tolist()
    assert np.isfinite(found).all()
