"""``make bench-sampling``: the bar of the field, the steps, and that every step is a command that exists."""

from __future__ import annotations

import dataclasses
import importlib
import json
import subprocess
from pathlib import Path

import numpy as np
import pytest
from places import ROOT
from sparring.eval.bench import sampling_study as bench_sampling
from sparring.eval.bench import shell as steps
from sparring.eval.bench.sampling_study import COLLECTIONS, Options, gather, main
from sparring.eval.bench.summary import COST, Line
from sparring.eval.bench.target import bar_table
from sparring.eval.measures.significance import tost
from sparring.rerank import console
from sparring.rerank.cli import COMMANDS
from sparring.rerank.commands.config import parse


def line(
    schedule: str,
    values: np.ndarray,
    budget: str = "",
    share: float = 0.0,
    aggregator: str = "log_odds",
    full: np.ndarray | None = None,
    rounds: int = 4,
) -> Line:
    shown = None if full is None else tost(values, full, 0.01)
    cost = dict.fromkeys(COST, 0.0) | {"share": share, "comparisons": 2450 * share}
    return Line(
        schedule,
        aggregator,
        budget,
        len(values),
        float(values.mean()),
        0.0,
        1.0,
        values,
        values[None],
        cost,
        rounds,
        difference=float("nan") if full is None else float((values - full).mean()),
        equivalence=float("nan") if shown is None else shown.p,
        low=float("nan") if shown is None else shown.low,
        high=float("nan") if shown is None else shown.high,
    )


def field(near: float, lead: float, rounds: int = 4, first: float = 0.1) -> list[Line]:
    """A bench of 40 topics whose `bayes` misses all pairs by ``near`` and leads by ``lead`` and ``first``."""
    rng = np.random.default_rng(0)
    full = rng.uniform(0.4, 0.9, 40)
    jitter = rng.normal(0, 0.005, 40)
    bayes = full + near + jitter - jitter.mean()
    return [
        line("first stage", bayes - first, aggregator=""),
        line("all", full),
        line("bayes", bayes - 0.05, "2%", 0.02, full=full, rounds=rounds),
        line("bayes", bayes, "6%", 0.06, full=full, rounds=rounds),
        line("bayes", full, "10%", 0.1, full=full, rounds=9),
        line("bayes", bayes - 0.3, "6%", 0.06, "greedy", full=full),
        line("window(skip=7)", bayes - lead, "6%", 0.06, "greedy", full=full),
        line("window(skip=7)", bayes - 2 * lead, "2%", 0.02, "greedy", full=full),
        line("window", bayes + 0.1, "6%", 0.06, "greedy", full=full),
    ]


def verdicts(lines: list[Line]) -> list[str]:
    table = bar_table(lines, 0.01)
    assert table is not None and {row[0] for row in table.rows} == {"bayes + log_odds"}
    return [row[-1] for row in table.rows]


def test_the_bar_is_judged_up_to_six_percent_with_the_first_aggregator() -> None:
    assert verdicts(field(near=-0.001, lead=0.03)) == ["yes", "yes", "yes", "yes"]
    assert verdicts(field(near=-0.05, lead=0.01, rounds=5, first=0.02)) == ["no", "no", "no", "no"]
    assert verdicts(field(near=0.07, lead=0.03))[0] == "better"
    table = bar_table(field(near=-0.001, lead=0.03), 0.01)
    assert table is not None
    assert table.rows[0][1:4] == ["6%", "equal to all pairs (TOST 0.01)", "-0.0010"]
    assert table.rows[1][2:4] == [">= 0.02 above window(skip=7) + greedy", "+0.0300"]
    assert table.rows[3][1] == "2%"  # the budget at which it comes nearest to the first stage
    table = bar_table(field(near=0.049, lead=0.03), 0.01)  # -.001 at 2 % already: the lead is that of this budget
    assert table is not None and [row[1] for row in table.rows] == ["2%"] * 4
    assert [row[3] for row in table.rows[:2]] == ["-0.0010", "+0.0100"]


def test_a_budget_that_is_not_spent_is_a_budget_all_the_same() -> None:
    lines = field(near=-0.001, lead=0.03)
    early = dataclasses.replace(lines[4], cost=lines[4].cost | {"share": 0.04, "comparisons": 98.0})
    table = bar_table([*lines[:4], early, *lines[5:]], 0.01)
    assert table is not None and table.rows[0][1] == "6%"


def test_without_a_first_stage_there_is_no_bar() -> None:
    assert bar_table(field(0.0, 0.0)[1:], 0.01) is None
    assert bar_table([item for item in field(0.0, 0.0) if item.schedule != "bayes"], 0.01) is None


def test_a_step_is_printed_and_not_run_twice(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    steps.sparring("--version")
    assert "$ sparring --version" in capfd.readouterr().out
    there = tmp_path / "there.run"
    there.touch()
    steps.sparring("no-such-command", output=there)
    assert "$" not in capfd.readouterr().out
    with pytest.raises(subprocess.CalledProcessError):
        steps.sparring("no-such-command", output=tmp_path / "absent.run")


def test_bars_are_gathered(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, met in (("b", "no"), ("a", "yes")):
        table = bar_table(field(near=-0.001 if met == "yes" else -0.1, lead=0.03), 0.01)
        assert table is not None
        (tmp_path / f"{name}.bar.tsv").write_text(table.tsv())
    rows = gather(tmp_path).rows
    assert [row[0] for row in rows] == ["a"] * 4 + ["b"] * 4 and [row[-1] for row in rows[:1]] == ["yes"]
    assert (tmp_path / "bars.md").read_text().count("\n") == 2 + 8
    assert "window(skip=7) + greedy" in capsys.readouterr().out


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Records steps in place of running them, after reading them as the command line does."""
    made: list[list[str]] = []

    def record(*words: object, output: Path | None = None) -> None:
        name, *flags = (str(word) for word in (*words, *(("--output", output) if output else ())))
        options = parse(importlib.import_module(COMMANDS[name][0]).Options, name, flags)
        made.append([name, *flags])
        if name == "bench":
            meta = options.output.with_name(f"{options.output.name}.meta.yaml")
            meta.write_text("data: {inputs: {}}\nmethod: {command: sparring bench}\n")
        if name == "report":
            folder = options.output.with_name(f"{options.output.stem}_files")
            folder.mkdir(exist_ok=True)
            for picture in bench_sampling.PICTURES:
                (folder / f"{picture}.svg").touch()
        if name == "evaluate":
            options.output.touch()

    monkeypatch.setattr(bench_sampling, "sparring", record)
    monkeypatch.chdir(ROOT)
    return made


def test_every_step_is_a_command_and_all_collections_are_there(recorded: list[list[str]], tmp_path: Path) -> None:
    models = tmp_path / "models"
    for name in ("pairwise-late", "pointwise-minilm", "set-encoder"):
        (models / name).mkdir(parents=True)
    results = tmp_path / "results"
    options = Options(data=tmp_path, models=models, work=tmp_path / "work", results=results, jobs=2)
    assert main(options) == 0
    count = {name: sum(words[0] == name for words in recorded) for name in COMMANDS}
    assert count["compare"] == 2 * len(COLLECTIONS) + 2 and count["bench"] == 3 * len(COLLECTIONS) + 3
    assert count["simulate"] == 2 and count["rerank"] == len(COLLECTIONS) + 2 and count["evaluate"] == 2
    made = json.loads((results / "dl19-50.pairwise-late.json").read_text())
    assert made == {"inputs": {}, "command": "sparring bench"}
    assert (results / "dl19-100.pairwise-late.budgets.svg").is_file()


def test_absent_models_are_named_and_left_out(
    recorded: list[list[str]],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(console.log, "propagate", True)
    options = Options(
        studies=("dl19-50", "joint-rank"),
        data=tmp_path,
        models=tmp_path / "none",
        work=tmp_path / "work",
        results=tmp_path / "results",
    )
    assert main(options) == 0
    assert [words[0] for words in recorded] == ["rerank", "compare", "bench", "report"]
    assert recorded[1][recorded[1].index("--model") + 1] == "minilm"
    assert "pairwise-late is absent" in caplog.text


def test_absent_data_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = Options(data=tmp_path / "none", work=tmp_path / "work", results=tmp_path / "results")
    assert main(options) == 4
    assert "--data" in capsys.readouterr().err
