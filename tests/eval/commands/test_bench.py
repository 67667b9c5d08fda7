"""`sparring bench`: from files to tables, the same whatever the processes, interruptions and order."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from sparring.eval.bench.play_setting import Budget, Setting, play
from sparring.eval.bench.rows import Parts, play_all, read_rows, write_rows
from sparring.eval.bench.stored_pairs import open_arena
from sparring.eval.bench.summary import summarise
from sparring.eval.commands import bench
from sparring.eval.measures.batched import Judged, RankValue
from sparring.eval.measures.evaluation import score_runs
from sparring.eval.measures.qrels import read_qrels
from sparring.rerank.cli import main
from sparring.rerank.data.runs import read_run


def flags(ground: Path, output: Path, *more: str) -> list[str]:
    named = {"preferences": "prefs.parquet", "run": "first.run", "qrels": "qrels.txt"}
    files = [part for flag, name in named.items() for part in (f"--{flag}", str(ground / name))]
    small = ["--schedules", "bayes", "random", "--aggregators", "bradley_terry", "additive", "default"]
    return [
        "bench",
        *files,
        "--output",
        str(output),
        *small,
        "--budgets",
        "6%",
        "50%",
        "--seeds",
        "0",
        "1",
        *more,
    ]


def test_from_files_to_tables(ground: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "b.parquet"
    assert main(flags(ground, output, "--jobs", "1", "--rows-tsv", "--pair-tokens", "100")) == 0
    text = capsys.readouterr()
    assert "SIMULATED" in text.err and "equivalent (TOST 0.01)" in text.out
    assert "min-transitivity" in text.err
    columns, details = read_rows(output)
    assert details["simulation"] and details["command"].startswith("sparring ")
    named = set(zip(columns["schedule"], columns["aggregator"], columns["budget"], strict=True))
    assert {
        ("first stage", "", ""),
        ("oracle", "", ""),
        ("random order", "", ""),
        ("all", "bradley_terry", ""),
    } <= named
    assert ("all", "bradley_terry(mean=0.0)", "") in named and ("bayes", "default", "50%") in named
    assert len(columns["qid"]) == 6 * (4 + 4 + 2 * 3 * 2 * 2)
    full = columns["schedule"] == "all"
    assert (columns["tau"][full] == 1).all() and (columns["share"][full] == 1).all()
    assert (columns["tokens"] == 100 * columns["comparisons"]).all()
    sampled = columns["budget"] == "6%"
    assert columns["comparisons"][sampled].max() <= round(0.06 * 12 * 11)
    oracle = columns["nDCG@10"][columns["schedule"] == "oracle"]
    assert (columns["nDCG@10"].reshape(-1, 6) <= oracle + 1e-12).all()
    wanted = ("summary.md", "summary.tsv", "summary.tex", "full.md", "needed.tsv", "published.md", "tsv")
    for name in wanted:
        assert (tmp_path / f"b.{name}").stat().st_size > 0
    assert (tmp_path / "b.parquet.meta.yaml").is_file() and not list(tmp_path.glob(".b*"))
    rows = (tmp_path / "b.tsv").read_text().splitlines()
    assert len(rows) == 1 + len(columns["qid"]) and rows[0].startswith('"qid"\t"schedule"')


def test_all_pairs_equal_the_aggregate_command(ground: Path, tmp_path: Path) -> None:
    assert main(flags(ground, tmp_path / "b.parquet", "--jobs", "1", "--quiet")) == 0
    lines = summarise(read_rows(tmp_path / "b.parquet")[0], "nDCG@10")
    files = ["--preferences", str(ground / "prefs.parquet"), "--run", str(ground / "first.run")]
    for name, spec in (("bradley_terry", "bradley_terry"), ("default", "log_odds")):  # of pairs without an order
        run = tmp_path / f"{name}.run"
        assert main(["aggregate", *files, "--aggregator", spec, "--output", str(run), "--quiet"]) == 0
        value = score_runs(read_qrels(ground / "qrels.txt"), [read_run(run)], "nDCG@10")
        line = next(line for line in lines if line.name == f"all + {name}")
        assert line.mean == pytest.approx(value[0], abs=1e-9)


def test_processes_and_interruptions_change_nothing(ground: Path, tmp_path: Path) -> None:
    one, two = tmp_path / "one.parquet", tmp_path / "two.parquet"
    assert main(flags(ground, one, "--jobs", "1", "--quiet")) == 0
    options = bench.Options(
        preferences=ground / "prefs.parquet",
        run=ground / "first.run",
        qrels=ground / "qrels.txt",
        output=two,
        schedules=("bayes", "random"),
        aggregators=("bradley_terry", "additive", "default"),
        budgets=("6%", "50%"),
        seeds=(0, 1),
    )
    arena = open_arena(options.preferences, read_run(options.run), read_qrels(options.qrels))
    job = bench.prepare(arena, ("bradley_terry", "additive", "default"), (RankValue.parse("nDCG@10"),), options)
    plan = bench.plan(options)
    parts = Parts.beside(two, bench._fingerprint(options, job.aggregators))
    play_all(plan[:3], job, parts, 1)  # then the machine goes down
    for path in parts.folder.iterdir():
        played, details = read_rows(path)
        write_rows(path, played | {"seconds": np.full_like(played["seconds"], 1e6)}, details)
    assert len(list(parts.folder.iterdir())) == 3
    assert main(flags(ground, two, "--jobs", "2", "--quiet")) == 0
    left, right = read_rows(one)[0], read_rows(two)[0]
    for name in left:
        if name != "seconds":
            np.testing.assert_array_equal(left[name], right[name], err_msg=name)
    again = right["seconds"] < 1e6  # what was finished before was not played again
    assert again.any() and not again.all()


def test_the_order_of_topics_changes_nothing(ground: Path) -> None:
    arena = open_arena(ground / "prefs.parquet", read_run(ground / "first.run"), read_qrels(ground / "qrels.txt"))
    options = bench.Options(preferences=Path("p"), output=Path("o.parquet"))
    job = bench.prepare(arena, ("bradley_terry",), (RankValue.parse("nDCG@10"),), options)
    assert arena.judged is not None
    turned = dataclasses.replace(
        arena, topics=arena.topics[::-1], judged=Judged(arena.judged.grades[::-1], arena.judged.ideal[::-1])
    )
    other = bench.prepare(turned, ("bradley_terry",), (RankValue.parse("nDCG@10"),), options)
    setting = Setting("random", Budget("20%"), 4)
    one, two = play(setting, job), play(setting, other)
    for name in one:
        if name != "seconds":
            np.testing.assert_array_equal(one[name], two[name][::-1], err_msg=name)


def test_the_all_pairs_ranking_as_reference(ground: Path, tmp_path: Path) -> None:
    output = tmp_path / "b.parquet"
    few = ["--schedules", "random", "--aggregators", "bradley_terry(mean=0)", "--budgets", "20%", "--jobs", "1"]
    files = ["--preferences", str(ground / "prefs.parquet"), "--output", str(output), "--reference", "all-pairs"]
    assert main(["bench", *files, *few, "--quiet"]) == 0
    columns, _ = read_rows(output)
    full = (columns["schedule"] == "all") & (columns["aggregator"] == "bradley_terry(mean=0.0)")
    assert (columns["nDCG@10"][full] == 1).all() and (columns["overlap"][full] == 1).all()
    assert "first stage" not in columns["schedule"]
    assert 0 < columns["nDCG@10"][columns["schedule"] == "random"].mean() < 1


def test_everything_wrong_is_said_at_once(
    ground: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = ["--schedules", "bayse", "pointwise", "--aggregators", "gredy", "--budgets", "0%"]
    files = ["--preferences", str(ground / "prefs.parquet"), "--qrels", str(ground / "qrels.txt")]
    assert main(["bench", *files, "--output", str(tmp_path / "b.parquet"), *bad]) == 2
    said = capsys.readouterr().err
    assert all(part in said for part in ("'bayes'?", "pointwise", "'greedy'?", "0%"))
    assert main(["bench", "--preferences", "p", "--output", str(tmp_path / "b.parquet")]) == 2
    assert "--reference all-pairs" in capsys.readouterr().err
