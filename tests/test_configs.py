"""Every file under configs/ is a command that its parser reads, and every training recipe trains."""

from __future__ import annotations

import importlib
import json
import shlex
from pathlib import Path

import pytest
import yaml
from places import ROOT
from sparring.rerank.cli import COMMANDS, main
from sparring.rerank.commands.config import parse
from sparring.train import sources
from tiny_training import arguments, log_of, save_start, write_collection

CONFIGS = ROOT / "configs"
FILES = sorted(CONFIGS.rglob("*.yaml"))
RECIPES = [path for path in FILES if path.parent.name == "train"]
ARCHITECTURES = {"t5": "t5", "pair_rm": "deberta-v2"}


def relative(path: Path) -> str:
    return str(path.relative_to(CONFIGS))


@pytest.mark.parametrize("path", FILES, ids=relative)
def test_the_first_line_is_the_command_and_it_parses(path: Path) -> None:
    first = path.read_text("utf-8").splitlines()[0]
    assert first.startswith("# sparring ")
    command, *flags = shlex.split(first)[2:]
    assert flags[:2] == ["--config", f"configs/{relative(path)}"]
    flags[1] = str(path)
    options = parse(importlib.import_module(COMMANDS[command][0]).Options, command, flags)
    for key, value in yaml.safe_load(path.read_text("utf-8")).items():
        given = getattr(options, key)
        assert given == (tuple(value) if isinstance(value, list) else type(given)(value)), key


@pytest.fixture(scope="module")
def starts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("starts")
    return {name: save_start(folder / name, name) for name in ("bert", *ARCHITECTURES.values())}


@pytest.fixture(scope="module")
def collection(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_collection(tmp_path_factory.mktemp("collection"))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.name)
def test_recipe_trains(path: Path, starts: dict[str, Path], collection: Path, tmp_path: Path) -> None:
    """Everything is the recipe's own but the data, the start, the lengths and the number of steps."""
    recipe = yaml.safe_load(path.read_text("utf-8"))
    assert sources.parse(recipe["data"])
    kind = recipe.get("family", "pointwise")
    start = starts[ARCHITECTURES.get(kind.partition("(")[0], "bert")]
    flags = ["--config", str(path), "--max-steps=2", "--save-steps=1", "--dev-depth=6", "--list-size=4"]
    if "source_length" in kind:  # 64 tokens are too few for the recipe's own
        flags.append("--family=pair_rm")
    command, *tiny = arguments(
        collection, start, tmp_path / "m", "--max-steps=2", "--eval-steps=2", "--list-size=4"
    )
    tiny = [flag for flag in tiny if flag.partition("=")[0] not in {f.partition("=")[0] for f in flags}]
    assert main([command, *flags, *tiny]) == 0
    assert json.loads((tmp_path / "m" / "best.json").read_text())["measure"] == "nDCG@10"
    assert [row["step"] for row in log_of(tmp_path / "m") if row["value"]] == ["0", "2"]
