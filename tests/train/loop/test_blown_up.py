"""A training that blew up stops at once, says where and why, and leaves no model under the final name."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from sparring.rerank.cli import main
from tiny_models import save_bi_encoder, save_classifier
from tiny_training import arguments, log_of, write_collection


@pytest.fixture(scope="module")
def collection(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_collection(tmp_path_factory.mktemp("collection"))


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_classifier(tmp_path_factory.mktemp("start"), "bert")


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_bi_encoder(tmp_path_factory.mktemp("encoder"))


HOT = ["--learning-rate=1e20", "--head-learning-rate=1e20", "--warmup-ratio=0"]
NO_DEV = ("--dev-run", "--dev-dataset", "--dev-holdout")


def without_dev(command: list[str]) -> list[str]:
    return [flag for flag in command if not flag.startswith(NO_DEV)]


@pytest.mark.parametrize("kind", ["pointwise", "bi-encoder"])
@pytest.mark.parametrize("more", [[], ["--max-steps=1"], ["--save-steps=1"]], ids=["later", "last", "saved"])
def test_training_that_blew_up_stops(
    kind: str,
    more: list[str],
    collection: Path,
    start: Path,
    encoder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    output = tmp_path / "m"
    begin = start if kind == "pointwise" else encoder
    command = without_dev(arguments(collection, begin, output, *HOT, *more, f"--family={kind}"))
    assert main(command) == 6
    said = capsys.readouterr().err.splitlines()[-1]
    found = re.match(
        r"sparring: error: step (\d+): (.*) \(learning rate 1e\+20\): stopped, no model is written", said
    )
    assert found and int(found[1]) <= 2 and "last good checkpoint: none" in said
    assert not list(output.glob("*.safetensors")) and not (output / "README.md").exists()
    assert not list(output.rglob("*.safetensors"))
    if (output / "training_log.csv").exists():
        assert all(float(row["loss"]) > 0 for row in log_of(output))


def test_the_last_good_checkpoint_and_the_best_model_are_named(
    collection: Path,
    start: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from sparring.train.loop.trainer import RankingTrainer

    original = RankingTrainer.compute_loss

    def explode(self: RankingTrainer, *args: object, **options: object) -> object:
        value = original(self, *args, **options)  # type: ignore[arg-type]
        return value * float("inf") if self.state.global_step == 4 and torch.is_grad_enabled() else value

    monkeypatch.setattr(RankingTrainer, "compute_loss", explode)
    output = tmp_path / "m"
    assert main(arguments(collection, start, output, "--learning-rate=1e-3")) == 6
    said = capsys.readouterr().err.splitlines()[-1]
    assert "step 5: the loss is inf (learning rate" in said
    assert f"last good checkpoint: {output}/checkpoints/checkpoint-4" in said
    best = json.loads((output / "checkpoints" / "best" / "best.json").read_text())
    assert f"best model: step {best['step']}" in said
    assert not list(output.glob("*.safetensors"))
    for path in output.rglob("model.safetensors"):
        assert all(bool(value.isfinite().all()) for value in load_file(path).values())


@pytest.mark.parametrize(
    "flag", ["--learning-rate=nan", "--weight-decay=nan", "--token-budget=0", "--logging-steps=0", "--seed=-1"]
)
def test_nonsense_is_refused_before_work(
    flag: str, collection: Path, start: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments(collection, start, tmp_path / "m", flag)) == 2
    assert f"{flag.partition('=')[0]} must be" in capsys.readouterr().err
    assert not (tmp_path / "m").exists()
