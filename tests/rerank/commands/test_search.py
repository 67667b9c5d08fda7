"""`sparring index` and `sparring search`: runs, dry runs, and what they say is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest
from sparring.rerank.cli import main
from sparring.rerank.data.runs import read_run
from tiny_models import save_bi_encoder
from tiny_search import write_collection


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_bi_encoder(tmp_path_factory.mktemp("bi"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_collection(tmp_path_factory.mktemp("collection"), 60)


def test_index_then_search_writes_a_run(
    tmp_path: Path, folder: Path, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    index, first, second = tmp_path / "ix", tmp_path / "a.run", tmp_path / "b.run"
    dataset = ["--dataset", str(folder), "--device", "cpu"]
    assert main(["index", *dataset, "--model", str(model), "--output", str(index)]) == 0
    assert main(["search", *dataset, "--index", str(index), "--output", str(first), "--depth", "30"]) == 0
    assert main(["search", *dataset, "--model", str(model), "--output", str(second), "--depth", "30"]) == 0
    assert first.read_bytes() == second.read_bytes()
    run = read_run(first)
    assert run.topics() == [f"q{t}" for t in range(5)] and len(run["q0"][0]) == 30
    assert (tmp_path / "a.run.meta.yaml").is_file() and (tmp_path / "ix.meta.yaml").is_file()
    assert capsys.readouterr().out == ""
    assert main(["search", *dataset, "--index", str(index), "--output", str(first)]) == 2
    allowed = tmp_path / "allowed.txt"
    allowed.write_text("d3\n\nd5\n")
    flags = ["--index", str(index), "--output", str(tmp_path / "c.run"), "--allow-ids", str(allowed)]
    assert main(["search", *dataset, *flags]) == 0
    assert {docid for qid in run for docid in read_run(tmp_path / "c.run")[qid][0]} == {"d3", "d5"}


def test_a_dry_run_checks_and_writes_nothing(tmp_path: Path, folder: Path, model: Path) -> None:
    flags = ["--dataset", str(folder), "--model", str(model), "--device", "cpu", "--dry-run"]
    assert main(["index", *flags, "--output", str(tmp_path / "out" / "ix")]) == 0
    assert main(["search", *flags, "--output", str(tmp_path / "out" / "r.run")]) == 0
    assert list((tmp_path / "out").iterdir()) == []


def test_commands_say_what_is_wrong(
    tmp_path: Path, folder: Path, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = save_bi_encoder(tmp_path / "other", seed=1)
    index, run = str(tmp_path / "ix"), ["--output", str(tmp_path / "r.run"), "--device", "cpu"]
    data = ["--dataset", str(folder)]
    assert main(["index", *data, "--model", str(model), "--output", index, "--device", "cpu"]) == 0
    (tmp_path / "small.jsonl").write_text('{"id": "x", "text": "y"}\n')
    (tmp_path / "none.txt").write_text("\n")
    for flags, code, message in (
        ([*data], 2, "nothing to search with"),
        ([*data, "--index", index, "--depth", "0"], 2, "--depth must be at least 1"),
        ([*data, "--index", str(tmp_path / "absent")], 4, "is not an index"),
        (["--dataset", "absent", "--index", index], 4, "absent: no such folder"),
        ([*data, "--index", index, "--model", str(other)], 5, "queries would be encoded by"),
        ([*data, "--index", index, "--corpus", str(tmp_path / "small.jsonl")], 5, "with hash"),
        ([*data, "--index", index, "--allow-ids", str(tmp_path / "none.txt")], 5, "0 document ids"),
    ):
        assert main(["search", *run, *flags]) == code, message
        assert message in capsys.readouterr().err
    assert not (tmp_path / "r.run").exists()
