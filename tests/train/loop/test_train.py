"""`sparring train`: what it says, what it saves, and that a resumed training is the same training."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from sparring.rerank.cli import main
from sparring.rerank.commands.config import config_flags
from sparring.rerank.vocabulary import Candidates
from sparring.train.commands.train import Options
from tiny_models import save_classifier, sentence
from tiny_training import arguments, log_of, write_collection


@pytest.fixture(scope="module")
def collection(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_collection(tmp_path_factory.mktemp("collection"))


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_classifier(tmp_path_factory.mktemp("start"), "bert")


def list_of(count: int) -> Candidates:
    """A query with texts of different lengths."""
    texts = tuple(sentence(random.Random(i), 3 + 4 * i) for i in range(count))
    return Candidates("q", "winter garden", tuple(f"d{i}" for i in range(count)), texts, np.zeros(count))


@pytest.fixture(scope="module")
def trained(
    collection: Path, start: Path, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Path:
    output = tmp_path_factory.mktemp("trained") / "model"
    assert main(arguments(collection, start, output)) == 0
    return output


def test_model_is_measured_before_and_during_training(trained: Path) -> None:
    measured = [row for row in log_of(trained) if row["value"]]
    assert [int(row["step"]) for row in measured] == [0, 2, 4, 6]
    best = json.loads((trained / "best.json").read_text())
    assert best["value"] == max(float(row["value"]) for row in measured)
    losses = [row for row in log_of(trained) if row["loss"]]
    assert len(losses) == 6 and all(float(row["constant_loss"]) > 0 for row in losses)


def test_saved_model_scores_the_same_everywhere(trained: Path) -> None:
    from sentence_transformers import CrossEncoder
    from sparring.train.data.collator import Collator
    from sparring.train.rankers.kinds import Start, kinds
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    topic = list_of(6)
    pairs = [(topic.query, text) for text in topic.texts]
    ranker = kinds.parse("pointwise").start(Start(str(trained), 64)).eval()
    inputs = Collator(ranker.tokenizer, ranker.layout, 50).inputs([topic], [np.arange(6)[None]])
    with torch.inference_mode():
        ours = ranker(**inputs)[0].numpy()
        tokens = AutoTokenizer.from_pretrained(trained)(
            *map(list, zip(*pairs, strict=True)), padding=True, truncation="only_second", return_tensors="pt"
        )
        plain = AutoModelForSequenceClassification.from_pretrained(trained)(**tokens).logits[:, 0].numpy()
    theirs = CrossEncoder(str(trained), device="cpu").predict(pairs)
    np.testing.assert_allclose(ours, plain, atol=1e-5)
    np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_card_holds_the_command_and_the_data(trained: Path) -> None:
    card = (trained / "README.md").read_text()
    assert "judged(" in card and "nDCG@10" in card and "sparring " in card
    assert config_flags(Options, trained / "config.yaml")


def test_output_is_not_overwritten(
    trained: Path, collection: Path, start: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments(collection, start, trained)) == 2
    assert "add --resume to go on, --overwrite to start anew" in capsys.readouterr().err


def test_resume_with_other_options_is_refused(
    trained: Path, collection: Path, start: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments(collection, start, trained, "--resume", "--seed=5")) == 2
    assert "made with other options (seed: 5)" in capsys.readouterr().err


def test_dry_run_counts_and_writes_nothing(
    collection: Path, start: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments(collection, start, tmp_path / "no", "--dry-run")) == 0
    assert "12 lists of 6 candidates, 6 steps" in capsys.readouterr().out
    assert not (tmp_path / "no").exists()


def test_killed_training_resumes_to_the_same_model(
    trained: Path, collection: Path, start: Path, tmp_path: Path
) -> None:
    from safetensors.torch import load_file

    output = tmp_path / "model"
    ahead = "--dataloader-num-workers=1"  # batches made elsewhere are the same, and so are their places
    command = [sys.executable, "-m", "sparring.rerank.cli", *arguments(collection, start, output, ahead)]
    process = subprocess.Popen(command, env=os.environ, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 90
    while process.poll() is None and time.monotonic() < deadline:
        if list(output.glob("checkpoints/checkpoint-2/trainer_state.json")):
            process.send_signal(signal.SIGKILL)
            break
        time.sleep(0.01)
    assert process.wait() == -signal.SIGKILL, "it ended before it was killed"
    (output / "checkpoints" / "checkpoint-5").mkdir(parents=True, exist_ok=True)  # killed while it was written
    assert main(arguments(collection, start, output, "--resume")) == 0
    whole, resumed = (
        load_file(folder / "checkpoints/checkpoint-6/model.safetensors") for folder in (trained, output)
    )
    for name, weights in whole.items():
        torch.testing.assert_close(resumed[name], weights, rtol=0, atol=1e-6)
    steps = [(row["step"], row["loss"][:6], row["value"][:6]) for row in log_of(output)]
    assert steps == [(row["step"], row["loss"][:6], row["value"][:6]) for row in log_of(trained)]


@pytest.mark.parametrize("option", ["caching", "checkpointing"])
def test_computing_twice_changes_no_gradient(start: Path, option: str) -> None:
    from sparring.train.data.collator import Collator
    from sparring.train.rankers.kinds import Start, kinds

    topic = list_of(6)
    gradients, calls = [], [0, 0]
    for place, options in enumerate(({}, {option: True})):
        ranker = kinds.parse("pointwise").start(Start(str(start), 64, dropout=0.2, **options)).train()
        inputs = Collator(ranker.tokenizer, ranker.layout, 50).inputs([topic], [np.arange(6)[None]])
        assert len(inputs["batches"]) > 2
        for module in ranker.modules():
            module.register_forward_pre_hook(lambda *_, place=place: calls.__setitem__(place, calls[place] + 1))
        torch.manual_seed(3)
        (ranker(**inputs) ** 2).sum().backward()
        gradients.append(torch.cat([p.grad.flatten() for p in ranker.parameters() if p.grad is not None]))
    torch.testing.assert_close(gradients[0], gradients[1], rtol=0, atol=1e-6)
    assert calls[1] > 1.5 * calls[0]  # it is computed twice indeed


@pytest.mark.slow
def test_two_processes_train_one_model(collection: Path, start: Path, tmp_path: Path) -> None:
    """The lists of a step may be spread over processes: the same losses and measurements, up to rounding."""
    flags = ["--dropout=0", "--per-device-train-batch-size=1", "--loss=listnet"]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--master-port=29671"]
    command = [*launcher, "-m", "sparring.rerank.cli", *arguments(collection, start, tmp_path / "two", *flags)]
    subprocess.run(command, check=True, timeout=100)
    flags[1] = "--per-device-train-batch-size=2"
    assert main(arguments(collection, start, tmp_path / "one", *flags)) == 0
    one, two = log_of(tmp_path / "one"), log_of(tmp_path / "two")
    for name in ("loss", "constant_loss", "value"):
        values = [[float(row[name] or 0) for row in rows] for rows in (one, two)]
        np.testing.assert_allclose(*values, atol=1e-3)


def test_flat_loss_is_warned_about(
    collection: Path, start: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--learning-rate=1e-12", "--head-learning-rate=1e-12", "--max-steps=60", "--eval-steps=99"]
    flags += ["--logging-steps=10", "--save-steps=99", "--list-size=3", "--warmup-ratio=0", "--loss=ranknet"]
    assert main(arguments(collection, start, tmp_path / "flat", *flags)) == 0
    assert capsys.readouterr().err.count("that of a constant prediction") == 1


def test_early_stopping(collection: Path, start: Path, tmp_path: Path) -> None:
    flags = ["--learning-rate=1e-12", "--head-learning-rate=1e-12", "--max-steps=40", "--eval-steps=1"]
    flags += ["--early-stopping-patience=3", "--save-steps=99"]
    assert main(arguments(collection, start, tmp_path / "stop", *flags)) == 0
    assert max(int(row["step"]) for row in log_of(tmp_path / "stop")) == 3


def test_tensorboard_gets_the_curves(collection: Path, start: Path, tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    assert main(arguments(collection, start, tmp_path / "m", "--tensorboard", "--max-steps=2")) == 0
    events = EventAccumulator(str(tmp_path / "m" / "tensorboard"))
    events.Reload()
    assert [event.step for event in events.Scalars("train/loss")] == [1, 2]
    assert [event.step for event in events.Scalars("eval/nDCG@10")] == [0, 2]


def test_tensorboard_that_is_missing_is_named(
    collection: Path,
    start: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from sparring.train.commands import train

    monkeypatch.setattr(train, "find_spec", lambda name: None)
    assert main(arguments(collection, start, tmp_path / "m", "--tensorboard")) == 3
    assert "TensorBoard is needed for --tensorboard: pip install tensorboard" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--sampler=random"], "--sampler chooses pairs, and pointwise looks at none"),
        (
            ["--family=late_pair", "--sampler=pointwise"],
            "pointwise scores candidates one by one, but the model compares",
        ),
        (["--family=late_pair", "--dev-schedule=pointwise"], "pointwise scores candidates one by one"),
        (["--family=late_pairs"], "unknown family of rankers 'late_pairs' .did you mean 'late_pair'"),
        (["--sampler=al"], "unknown schedule 'al'"),
    ],
)
def test_what_does_not_fit_the_kind_is_said(
    collection: Path,
    start: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    flags: list[str],
    message: str,
) -> None:
    assert main(arguments(collection, start, tmp_path / "m", *flags)) == 2
    assert re.search(message, capsys.readouterr().err)
