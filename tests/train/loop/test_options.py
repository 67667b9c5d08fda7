"""The options of a training: light to import, apart from the commands, and given back whole by ``config.yaml``."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest
from sparring.rerank.commands.config import parse
from sparring.rerank.errors import UsageError
from sparring.rerank.registry import option_name
from sparring.train.commands.train import OF_ONE_RUN, Options, config_text
from sparring.train.loop.limits import AT_LEAST, check_numbers
from sparring.train.loop.options import TrainingOptions


def test_options_import_nothing_heavy_and_nothing_of_train() -> None:
    code = "import sys, sparring.train.loop.options; print(' '.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    modules = done.stdout.split()
    assert not {"torch", "transformers", "numpy", "yaml", "tyro"} & set(modules)
    ours = {name for name in modules if name.startswith("sparring.")}
    assert ours == {"sparring.train", "sparring.train.loop", "sparring.train.loop.options"}


def test_the_file_of_options_gives_all_of_them_back(tmp_path: Path) -> None:
    options = Options(
        output_dir=tmp_path / "m", data=("run(path='a', dataset='b')", "judged(dataset='c')"), dropout=0.25,
        dev_run=tmp_path / "x.run", tensorboard=True, resume=True, overwrite=True, token_budget=50,
    )  # fmt: skip
    path = tmp_path / "config.yaml"
    path.write_text(config_text(options))
    names = {line.partition(":")[0] for line in path.read_text().splitlines()[1:] if not line.startswith("- ")}
    assert names == {option_name(field) for field in dataclasses.fields(Options)} - set(OF_ONE_RUN)
    again = parse(Options, "train", ["--config", str(path)])
    assert dataclasses.replace(again, config=None) == dataclasses.replace(options, resume=False, overwrite=False)


def options(**values: object) -> TrainingOptions:
    return TrainingOptions(output_dir=Path("m"), data=("x",), **values)  # type: ignore[arg-type]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1.0])
@pytest.mark.parametrize(
    "name", ["learning_rate", "head_learning_rate", "weight_decay", "max_grad_norm", "warmup_ratio"]
)
def test_numbers_that_mean_nothing_are_refused_by_flag(name: str, value: float) -> None:
    with pytest.raises(UsageError, match=f"--{name.replace('_', '-')} must be"):
        check_numbers(options(**{name: value}))


def test_everything_that_is_wrong_is_said_at_once() -> None:
    with pytest.raises(UsageError) as caught:
        check_numbers(
            options(token_budget=0, list_size=1, save_steps=0, seed=-1, dropout=1.0, num_train_epochs=0.0)
        )
    for flag in ("token-budget", "list-size", "save-steps", "seed", "dropout", "num-train-epochs"):
        assert f"--{flag}" in str(caught.value)
    assert str(caught.value).count("\n") == 0
    check_numbers(options())
    assert set(AT_LEAST) < {field.name for field in dataclasses.fields(TrainingOptions)}
