"""Pair models from the command line: `rerank`, `compare`, and what cannot score one by one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from sparring.rerank.data.runs import read_run
from tiny_commands import rerank, write_collection
from tiny_pairs import save_duo, save_late_pair


@pytest.fixture(scope="module")
def collection(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_collection(tmp_path_factory.mktemp("collection"))


@pytest.mark.parametrize("save", [save_duo, save_late_pair], ids=["duo", "late_pair"])
@pytest.mark.parametrize("order", ["random", "both"])
def test_rerank_with_a_pair_model_from_the_command_line(
    collection: Path,
    tmp_path: Path,
    order: str,
    save: Any,
) -> None:
    model = save(tmp_path / "pairs", "electra", 3)
    flags = ("--schedule", "random(rate=0.2)", "--aggregator", "bradley_terry", "--order", order)
    for output in (tmp_path / "a.run", tmp_path / "b.run"):
        assert rerank(collection, model, output, *flags, "--tag", "duo") == 0
    assert (tmp_path / "a.run").read_bytes() == (tmp_path / "b.run").read_bytes()
    before, after = read_run(collection / "first.run"), read_run(tmp_path / "a.run")
    assert all(sorted(before[q][0]) == sorted(after[q][0]) for q in before.topics())
    assert any(list(before[q][0]) != list(after[q][0]) for q in before.topics())
    method = yaml.safe_load((tmp_path / "a.run.meta.yaml").read_text())["method"]
    per_topic = round(0.2 * 12 * 11)
    assert method["comparisons"] == 4 * per_topic if order == "random" else method["comparisons"] > 4 * per_topic


def test_compare_writes_what_a_pair_model_said(collection: Path, tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    model = save_duo(tmp_path / "duo", "bert", 3)
    output = tmp_path / "p.parquet"
    assert rerank(collection, model, output, "--schedule", "all", "--depth", "5", command="compare") == 0
    table = pq.read_table(output).to_pylist()
    assert len(table) == 4 * 20 and len({(r["qid"], r["first"], r["second"]) for r in table}) == 80
    assert all(0 < r["probability"] < 1 for r in table)


def test_a_pair_model_cannot_score_one_by_one(
    collection: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    model = save_duo(tmp_path / "duo", "bert", 3)
    assert rerank(collection, model, tmp_path / "o.run", "--schedule", "pointwise") == 2
    assert "the model compares pairs: choose a schedule of pairs" in capsys.readouterr().err
