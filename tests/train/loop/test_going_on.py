"""A training in parts is the training in one: totals, losses, patience, and who may write into its folder."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import yaml
from sparring.rerank.cli import main
from sparring.rerank.data.locks import hold
from tiny_models import save_bi_encoder, save_classifier
from tiny_training import arguments, log_of, write_collection


@pytest.fixture(scope="module")
def collection(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_collection(tmp_path_factory.mktemp("collection"))


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_classifier(tmp_path_factory.mktemp("start"), "bert")


def killed(output: Path, step: int) -> None:
    """Makes a finished training one that was killed after the checkpoint of a step."""
    for folder in (output / "checkpoints").glob("checkpoint-*"):
        if int(folder.name.rpartition("-")[2]) > step:
            shutil.rmtree(folder)
    (output / "README.md").unlink()


@pytest.mark.parametrize("kind", ["pointwise", "bi-encoder"])
def test_a_resumed_log_has_totals_and_the_true_loss(
    kind: str, collection: Path, start: Path, tmp_path: Path
) -> None:
    """Rows every four steps, checkpoints every three: the row after the resume covers steps from before it too."""
    if kind == "bi-encoder":
        start = save_bi_encoder(tmp_path / "encoder")
    output = tmp_path / "m"
    flags = [f"--family={kind}", "--max-steps=8", "--save-steps=3", "--logging-steps=4", "--eval-steps=4"]
    command = arguments(collection, start, output, *flags, "--learning-rate=1e-3")
    assert main(command) == 0
    whole = log_of(output)
    killed(output, 6)
    assert main(command) == 0  # without --resume: the same command goes on
    resumed = log_of(output)
    for name in ("step", "pairs", "value"):
        assert [row[name] for row in resumed] == [row[name] for row in whole]
    for name in ("loss", "constant_loss"):
        old, new = ([float(row[name] or 0) for row in rows] for rows in (whole, resumed))
        assert new == pytest.approx(old, abs=1e-6)
    assert [float(row["seconds"]) for row in resumed] == sorted(float(row["seconds"]) for row in resumed)
    card = (output / "README.md").read_text()
    assert f"on {int(whole[-1]['pairs']):,} pairs of a query and a passage" in card
    config = yaml.safe_load((output / "config.yaml").read_text())
    assert "resume" not in config and config["max_grad_norm"] == 1.0


def test_patience_goes_on_counting(collection: Path, start: Path, tmp_path: Path) -> None:
    output = tmp_path / "m"
    flags = ["--learning-rate=1e-12", "--head-learning-rate=1e-12", "--max-steps=9", "--eval-steps=1"]
    command = arguments(collection, start, output, *flags, "--early-stopping-patience=3", "--save-steps=2")
    assert main(command) == 0
    assert max(int(row["step"]) for row in log_of(output)) == 3
    killed(output, 2)
    assert main(command) == 0
    assert max(int(row["step"]) for row in log_of(output)) == 3


def test_two_trainings_in_one_folder_are_refused(
    collection: Path, start: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "m"
    with hold(output):
        for more in ([], ["--resume"], ["--overwrite"]):
            assert main(arguments(collection, start, output, *more)) == 6
            assert f"{output} is in use by process " in capsys.readouterr().err
    assert not output.exists()


def test_a_finished_training_is_not_trained_again(
    collection: Path, start: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "m"
    short = ["--max-steps=1", "--eval-steps=1", "--save-steps=1"]
    assert main(arguments(collection, start, output, *short)) == 0
    assert not (output / "checkpoints" / "best").exists() and (output / "best.json").is_file()
    assert not (tmp_path / "m.lock").exists()
    assert main(arguments(collection, start, output, *short)) == 2
    killed(output, 1)
    assert main(arguments(collection, start, output, *short, "--seed=4")) == 2  # killed, but another training
    assert "add --resume to go on" in capsys.readouterr().err


def test_overwrite_deletes_trainings_only_and_after_every_check(
    collection: Path, start: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    foreign = tmp_path / "photos"
    foreign.mkdir()
    (foreign / "a.jpg").write_text("x")
    assert main(arguments(collection, start, foreign, "--overwrite")) == 2
    assert "holds no training" in capsys.readouterr().err and (foreign / "a.jpg").is_file()
    old = tmp_path / "old"
    old.mkdir()
    (old / "config.yaml").write_text("# sparring train --config THIS_FILE\nkind: pointwise\n")
    assert main(arguments(collection, tmp_path / "typo", old, "--overwrite")) == 4
    assert main(arguments(collection, start, old, "--overwrite", "--max-length=9999")) == 2
    assert main(arguments(collection, old, old, "--overwrite")) == 2
    assert (old / "config.yaml").is_file()
