"""`sparring benchmark sampling`: its steps are commands that exist, what is missing is named, pages are written."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pytest
from every_command import parsed
from places import ROOT
from sparring.eval.bench import sampling_study, shell
from sparring.eval.bench.rows import write_rows
from sparring.eval.bench.sampling_study import COLLECTIONS, PHOTOGRAPHS
from sparring.rerank import console
from sparring.rerank.cli import main

MODELS = ("pairwise-late", "pointwise-minilm", "set-encoder")


def test_a_step_is_printed_and_not_run_twice(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    shell.sparring("--version")
    assert "$ sparring --version" in capfd.readouterr().out
    there = tmp_path / "there.run"
    there.touch()
    shell.sparring("no-such-command", output=there)
    assert "$" not in capfd.readouterr().out
    with pytest.raises(subprocess.CalledProcessError):
        shell.sparring("no-such-command", output=tmp_path / "absent.run")


def write_bench(path: Path) -> None:
    """The rows of a bench of two topics, one schedule and one budget."""
    settings = [("first stage", "", ""), ("all", "log_odds", ""), ("bayes", "log_odds", "2%")]
    columns = {
        "qid": np.array(["1", "2"] * 3, dtype=object),
        **{
            name: np.repeat(np.array([setting[i] for setting in settings], dtype=object), 2)
            for i, name in enumerate(("schedule", "aggregator", "budget"))
        },
        "seed": np.zeros(6, np.int64),
        "nDCG@10": np.array([0.2, 0.3, 0.5, 0.6, 0.5, 0.6]),
        **{name: np.zeros(6) for name in ("tau", "overlap", "share", "tokens", "seconds")},
        **{name: np.array([0, 0, 9, 9, 3, 3]) for name in ("comparisons", "rounds")},
    }
    details = {"measures": ["nDCG@10"], "margin": 0.01, "reference": "qrels", "topics": 2, "candidates": 4}
    more = {"seeds": [0], "simulation": False, "diagnostics": {"cyclic_rate": 0.0}}
    write_rows(path, columns, details | more)


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Records steps in place of running them, after reading them as the command line does."""
    made: list[list[str]] = []

    def record(*words: object, output: Path) -> None:
        typed = [str(word) for word in (*words, "--output", output)]
        parsed(typed)
        made.append(typed)
        if typed[0] == "bench":
            write_bench(output)
        if typed[0] == "report":
            folder = output.with_name(f"{output.stem}_files")
            folder.mkdir(exist_ok=True)
            (folder / "budgets.svg").touch()
        if typed[0] == "evaluate":
            output.write_text("| run | nDCG@10 |\n")

    monkeypatch.setattr(sampling_study, "sparring", record)
    return made


@pytest.fixture
def flags(tmp_path: Path) -> list[str]:
    """Flags of the command, with collections and all models in place."""
    data = tmp_path / "data"
    for folder in {collection.folder for collection in COLLECTIONS.values()}:
        (data / folder).mkdir(parents=True)
    (data / PHOTOGRAPHS).parent.mkdir(parents=True)
    (data / PHOTOGRAPHS).touch()
    for name in MODELS:
        (tmp_path / "models" / name).mkdir(parents=True)
    places = {name: tmp_path / name for name in ("data", "models", "work", "output")}
    places["grids"] = ROOT / "configs" / "bench"
    return [word for name, path in places.items() for word in (f"--{name}", str(path))]


def sampling(*words: str) -> int:
    return main(["benchmark", "sampling", *words])


def test_every_step_is_a_command_and_every_study_has_a_page(
    recorded: list[list[str]], flags: list[str], tmp_path: Path
) -> None:
    more = ["--pictures", "dl19-50.pairwise-late", "--jobs", "2", "--device", "cpu", "--quiet"]
    assert sampling(*flags, *more) == 0
    count = {name: sum(words[0] == name for words in recorded) for name in {words[0] for words in recorded}}
    assert count["compare"] == 2 * len(COLLECTIONS) + 2 and count["bench"] == 3 * len(COLLECTIONS) + 3
    assert count["simulate"] == 2 and count["rerank"] == len(COLLECTIONS) + 2 and count["evaluate"] == 1
    assert all("--quiet" in words for words in recorded)
    assert all(("--device" in words) == (words[0] in ("compare", "rerank")) for words in recorded)
    others = {"photographs.md", "simulation.md", "joint-rank.md", "dl19-50.pairwise-late.budgets.svg"}
    assert {path.name for path in (tmp_path / "output").iterdir()} == others | {f"{n}.md" for n in COLLECTIONS}
    page = (tmp_path / "output" / "dl19-50.md").read_text()
    assert "| pairwise-late after pointwise-minilm | bayes | log_odds | **0.550** | 0.550 |" in page
    assert "| run | nDCG@10 |" in (tmp_path / "output" / "joint-rank.md").read_text()


def test_absent_models_are_named_and_left_out(
    recorded: list[list[str]],
    flags: list[str],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in MODELS:
        (tmp_path / "models" / name).rmdir()
    monkeypatch.setattr(console, "configure", lambda **_: None)
    monkeypatch.setattr(console.log, "propagate", True)
    assert sampling("dl19-50", "joint-rank", *flags, "--pictures", "no-such-bench") == 0
    assert [words[0] for words in recorded] == ["rerank", "compare", "bench", "report"]
    assert recorded[1][recorded[1].index("--model") + 1] == "minilm"
    assert "pairwise-late is absent" in caplog.text and "no picture of that bench" in caplog.text
    assert [path.name for path in (tmp_path / "output").iterdir()] == ["dl19-50.md"]


def test_repetitions_begin_at_the_seed(recorded: list[list[str]], flags: list[str]) -> None:
    assert sampling("vaswani-50", *flags, "--seed", "7") == 0
    bench = next(words for words in recorded if words[0] == "bench")
    start = bench.index("--seeds") + 1
    assert bench[start : start + 4] == ["7", "8", "9", "--preferences"]


def test_absent_data_is_named(flags: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "data" / "vaswani").rmdir()
    (tmp_path / "data" / PHOTOGRAPHS).unlink()
    assert sampling("vaswani-50", "photographs", "dl19-50", *flags) == 4
    said = capsys.readouterr().err
    assert "vaswani" in said and "photo200.csv.gz" in said and "trec-dl" not in said and "--data" in said
    assert sampling("dl19-50", "--data", str(tmp_path / "none"), "--output", str(tmp_path / "o")) == 4
    assert "name it by --data" in capsys.readouterr().err
    assert sampling("dl19-50", *flags[:-1], str(tmp_path)) == 4
    assert "sampling.yaml" in capsys.readouterr().err


def test_a_step_that_fails_gives_its_exit_code(
    flags: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    codes = iter((4, -9))

    def fail(*_: object, **__: object) -> None:
        raise subprocess.CalledProcessError(next(codes), "sparring")

    monkeypatch.setattr(sampling_study, "sparring", fail)
    assert sampling("photographs", *flags) == 4
    assert sampling("photographs", *flags) == 6
    assert "a step of the study failed" in capsys.readouterr().err and not (tmp_path / "output").exists()
