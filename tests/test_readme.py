"""The README is true: its first block prints what stands below it, its commands parse, its files and targets exist."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from typing import Any

import pytest
from every_command import parsed
from places import ROOT
from sparring.eval.commands.benchmark import BENCHMARKS
from sparring.rerank import registry
from sparring.rerank.cli import COMMANDS

README = (ROOT / "README.md").read_text("utf-8")
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def commands() -> list[str]:
    """Every `sparring ...` line of a block that is no Python, continued lines joined, comments left out."""
    lines = [
        line.removeprefix("$ ")
        for language, block in BLOCKS
        if language != "python"
        for line in block.replace("\\\n", " ").splitlines()
    ]
    return [line for line in lines if re.match(r"sparring [a-z-]+( |$)", line)]


def options(line: str) -> Any:
    """A command's options, read by the parser that runs it."""
    return parsed(shlex.split(line, comments=True)[1:])


def test_the_first_block_prints_what_the_readme_shows() -> None:
    place = next(i for i, (language, _) in enumerate(BLOCKS) if language == "python")
    (_, code), (shown_as, shown) = BLOCKS[place], BLOCKS[place + 1]
    assert shown_as == "text"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == shown


def test_the_readme_shows_commands() -> None:
    named = {line.split()[1] for line in commands()}
    assert {"rerank", "compare", "aggregate", "evaluate"} <= named <= set(COMMANDS)
    assert {line.split()[2] for line in commands() if line.split()[1] == "benchmark"} == set(BENCHMARKS)


@pytest.mark.parametrize("line", commands())
def test_its_commands_are_read_by_the_parser(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)  # --config names a file of the project
    read = options(line)
    for flag, known in (("schedule", registry.schedules), ("aggregator", registry.aggregators)):
        if spec := getattr(read, flag, None):
            known.parse(spec)


def test_files_and_targets_that_it_names_exist() -> None:
    files = set(re.findall(r"`((?:rerank|train|eval|configs|tests)/[\w./-]+\.\w+)`", README))
    assert len(files) >= 5
    assert not [name for name in files if not (ROOT / name).is_file()]
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    assert set(re.findall(r"(?:^|`)make ([a-z-]+)", README, re.MULTILINE)) <= targets
