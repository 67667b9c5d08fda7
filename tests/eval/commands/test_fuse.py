"""Fusing runs: weights, ranks and tuning do what their names say, and wrong combinations are refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from sparring.rerank.cli import main
from sparring.rerank.data.runs import read_run


@pytest.fixture
def runs(tmp_path: Path) -> tuple[str, str]:
    (tmp_path / "a.run").write_text("1 Q0 x 1 3 a\n1 Q0 y 2 2 a\n1 Q0 z 3 1 a\n2 Q0 x 1 1 a\n")
    (tmp_path / "b.run").write_text("1 Q0 z 1 9 b\n1 Q0 y 2 8 b\n1 Q0 w 3 1 b\n")
    return str(tmp_path / "a.run"), str(tmp_path / "b.run")


def fused(tmp_path: Path, runs: tuple[str, str], *flags: str) -> dict[str, tuple[str, ...]]:
    output = tmp_path / "f.run"
    assert main(["fuse", *runs, "--output", str(output), *flags]) == 0
    run = read_run(output)
    assert Path(f"{output}.meta.yaml").is_file()
    return {qid: run[qid][0] for qid in run.topics()}


def test_interpolation_weighs_scaled_scores(tmp_path: Path, runs: tuple[str, str]) -> None:
    # scaled: a = x 1, y .5, z 0; b = z 1, y .875, w 0
    assert fused(tmp_path, runs, "--weights", "0.5", "0.5") == {"1": ("y", "x", "z", "w"), "2": ("x",)}


def test_a_weight_of_zero_leaves_the_other_run(tmp_path: Path, runs: tuple[str, str]) -> None:
    assert fused(tmp_path, runs, "--weights", "0", "1")["1"][:2] == ("z", "y")


@pytest.mark.parametrize("method,best", [("rrf", "z"), ("borda", "y")])
def test_ranks(tmp_path: Path, runs: tuple[str, str], method: str, best: str) -> None:
    assert fused(tmp_path, runs, "--method", method)["1"][0] == best


def test_tuning_finds_the_weight(
    tmp_path: Path, runs: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "qrels.txt").write_text("1 0 z 1\n1 0 x 0\n")
    assert fused(tmp_path, runs, "--tune", str(tmp_path / "qrels.txt"))["1"][0] == "z"
    assert "tuning topics" in capsys.readouterr().err


@pytest.mark.parametrize(
    "flags,message",
    [(["--weights", "1"], "2 runs but 1 --weights"), (["--tune", "q.txt", "--method", "rrf"], "--tune chooses")],
)
def test_wrong_combinations(
    tmp_path: Path, runs: tuple[str, str], flags: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["fuse", *runs, "--output", str(tmp_path / "f.run"), *flags]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "f.run").exists()
    assert main(["fuse", runs[0], "--output", str(tmp_path / "f.run")]) == 2


def test_sums_take_scores_as_they_are(tmp_path: Path, runs: tuple[str, str]) -> None:
    # above the lowest: a = x 2, y 1, z 0, w 0; b = z 8, y 7, w 0, x 0
    assert fused(tmp_path, runs, "--method", "sum", "--weights", "1", "0.1")["1"] == ("x", "y", "z", "w")


@pytest.mark.parametrize("weight", ["nan", "inf", "-inf", "1e308", "1e10"])
@pytest.mark.parametrize("method", ["interpolate", "sum", "rrf", "borda"])
def test_weights_that_are_no_ordinary_numbers_are_refused(
    tmp_path: Path, runs: tuple[str, str], weight: str, method: str, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--method", method, "--weights", "1", weight]
    assert main(["fuse", *runs, "--output", str(tmp_path / "f.run"), *flags]) == 2
    assert f"--weights {float(weight)}: a weight is a number between" in capsys.readouterr().err
    assert not (tmp_path / "f.run").exists()


@pytest.mark.parametrize("lowest", ["1", "-1e308", "-1.7e308"])
@pytest.mark.parametrize("method", ["interpolate", "sum"])
def test_huge_scores_keep_their_places(tmp_path: Path, method: str, lowest: str) -> None:
    (tmp_path / "a.run").write_text(f"1 Q0 x 1 1.7e308 a\n1 Q0 y 2 1e308 a\n1 Q0 z 3 {lowest} a\n")
    (tmp_path / "b.run").write_text("1 Q0 x 1 3 b\n1 Q0 y 2 2 b\n1 Q0 z 3 1 b\n")
    found = fused(tmp_path, (str(tmp_path / "a.run"), str(tmp_path / "b.run")), "--method", method)
    assert found["1"] == ("x", "y", "z")


def test_one_huge_score_is_first_and_the_rest_follow_the_other_run(tmp_path: Path) -> None:
    (tmp_path / "a.run").write_text("1 Q0 x 1 3 a\n1 Q0 y 2 2 a\n1 Q0 z 3 1 a\n")
    (tmp_path / "b.run").write_text("1 Q0 z 1 1e308 b\n1 Q0 y 2 8 b\n1 Q0 x 3 1 b\n")
    pair = str(tmp_path / "a.run"), str(tmp_path / "b.run")
    assert fused(tmp_path, pair, "--method", "sum", "--weights", "1", "1e9")["1"][0] == "z"
    (tmp_path / "f.run").unlink(), (tmp_path / "f.run.meta.yaml").unlink()
    assert fused(tmp_path, pair, "--weights", "0.4", "0.6")["1"] == ("z", "x", "y")


def test_infinite_scores_are_interpolated_by_their_order(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.run").write_text("1 Q0 x 1 inf a\n1 Q0 y 2 2 a\n1 Q0 z 3 -inf a\n")
    (tmp_path / "b.run").write_text("1 Q0 z 1 9 b\n1 Q0 y 2 8 b\n1 Q0 x 3 7 b\n")
    pair = str(tmp_path / "a.run"), str(tmp_path / "b.run")
    assert fused(tmp_path, pair, "--weights", "0.6", "0.4")["1"] == ("x", "y", "z")
    assert main(["fuse", *pair, "--output", str(tmp_path / "s.run"), "--method", "sum"]) == 5
    assert "infinite scores cannot be summed" in capsys.readouterr().err
