"""The command line: one table, one parser for flags and YAML, errors on one line, exit codes as promised."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import pytest
import tyro
from every_command import MODULES
from hypothesis import given
from hypothesis import strategies as st
from sparring.rerank.cli import main
from sparring.rerank.commands.config import config_flags, config_text, parse
from sparring.rerank.commands.options import CommonOptions
from sparring.rerank.errors import MissingResourceError, UsageError
from sparring.rerank.plugins import REGISTRIES


@dataclass(frozen=True, kw_only=True)
class Sample(CommonOptions):
    """A command for these tests."""

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional] = ()
    rate: float = 1.0
    name: str = "x"
    seeds: tuple[int, ...] = (0,)
    flag: bool = True
    limit: int | None = 7


def read(tmp_path: Path, text: str, *flags: str) -> Sample:
    path = tmp_path / "c.yaml"
    path.write_text(text, encoding="utf-8")
    options = parse(Sample, "sample", ["--config", str(path), *flags])
    assert isinstance(options, Sample)
    return options


def test_yaml_and_flags_meet_in_one_parser(tmp_path: Path) -> None:
    options = read(tmp_path, "rate: 2e-5\nseeds: [1, 2]\nflag: false\nlimit: null\nruns: [a, b]\n", "--name", "y")
    assert (options.rate, options.seeds, options.flag, options.limit, options.name) == (
        2e-5,
        (1, 2),
        False,
        None,
        "y",
    )
    assert options.runs == (Path("a"), Path("b"))


def test_flags_win_over_yaml(tmp_path: Path) -> None:
    options = read(
        tmp_path, "rate: 3\nflag: false\nseeds: [4]\nlimit: 2\n", "--rate", "5", "--flag", "--seeds", "1"
    )
    assert (options.rate, options.flag, options.seeds, options.limit) == (5.0, True, (1,), 2)


def test_every_unknown_key_is_named_at_once(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="did you mean 'rate'.*nested values are not flags"):
        read(tmp_path, "rat: 3\nname: {a: 1}\n")


@pytest.mark.parametrize("text", ["- a\n- b\n", "a: [\n"])
def test_yaml_that_is_no_table_of_flags(tmp_path: Path, text: str) -> None:
    with pytest.raises(UsageError, match=r"c\.yaml"):
        read(tmp_path, text)


def test_missing_config() -> None:
    with pytest.raises(MissingResourceError, match="no such config file"):
        config_flags(Sample, Path("absent.yaml"))


@given(
    rate=st.floats(allow_nan=False, allow_infinity=False),
    name=st.text("abc -='\":#", min_size=1),
    seeds=st.lists(st.integers(0, 9), min_size=1),
    flag=st.booleans(),
)
def test_a_written_config_reads_back(
    tmp_path_factory: pytest.TempPathFactory, rate: float, name: str, seeds: list[int], flag: bool
) -> None:
    options = Sample(rate=rate, name=name, seeds=tuple(seeds), flag=flag, limit=None, seed=3)
    path = tmp_path_factory.mktemp("c") / "c.yaml"
    path.write_text(config_text("sample", options), encoding="utf-8")
    again = parse(Sample, "sample", ["--config", str(path)])
    assert (again.rate, again.name, again.seeds, again.flag, again.limit, again.seed) == (
        rate, name, tuple(seeds), flag, None, 3,
    )  # fmt: skip


@pytest.mark.parametrize("command", sorted(MODULES))
def test_every_command_has_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main([*command.split(), "--help"])
    assert stop.value.code == 0
    shown = capsys.readouterr().out
    for flag in ("--config", "--dry-run", "--device", "--dtype", "--seed", "--overwrite", "--quiet"):
        assert flag in shown


def test_a_flag_given_twice_is_refused_rather_than_half_used(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "models", "--seed", "1", "--seed=2"]) == 2
    assert "--seed is given twice" in capsys.readouterr().err


def test_unknown_command_names_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["rerun"]) == 2
    captured = capsys.readouterr()
    assert "did you mean 'rerank'?" in captured.err and captured.out == ""


def test_unknown_flag_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["list", "models", "--colour"])
    assert stop.value.code == 2


def test_help_imports_no_framework() -> None:
    code = "import sys, sparring.rerank.cli as c; c.main(['--help']); sys.exit('torch' in sys.modules or 'tyro' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0


@pytest.mark.parametrize("group", sorted(REGISTRIES))
def test_list_prints_one_entry_per_component(group: str, capsys: pytest.CaptureFixture[str]) -> None:
    place = REGISTRIES[group]
    registry = getattr(importlib.import_module(place.module), place.attribute)
    assert main(["list", place.plural]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if not line.startswith(" ")]
    assert [re.split(r"\W", line)[0] for line in lines] == [re.split(r"\W", name)[0] for name in registry.names()]


def test_list_names_the_nearest_kind(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "schedule"]) == 2
    assert "did you mean 'schedules'?" in capsys.readouterr().err


def test_doctor_fits_one_screen(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 0
    shown = capsys.readouterr().out
    assert len(shown.splitlines()) <= 45
    assert "device" in shown and "licence" in shown
