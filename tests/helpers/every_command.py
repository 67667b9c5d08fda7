"""Every command that `sparring` knows, those of a group by two words, and the flags of each."""

from __future__ import annotations

import importlib
from typing import Any

from sparring.eval.commands.benchmark import BENCHMARKS
from sparring.rerank.cli import COMMANDS, GROUPS
from sparring.rerank.commands.config import parse

MODULES = {name: module for name, (module, _) in COMMANDS.items() if name not in GROUPS} | {
    f"benchmark {name}": module for name, (module, _) in BENCHMARKS.items()
}
"""Module by command."""


def options_of(command: str) -> type[Any]:
    """The dataclass of a command's flags."""
    found: type[Any] = importlib.import_module(MODULES[command]).Options
    return found


def parsed(words: list[str]) -> Any:
    """The options that the words after `sparring` stand for, read by the parser that runs them."""
    count = 2 if words[0] in GROUPS else 1
    name = " ".join(words[:count])
    return parse(options_of(name), name, words[count:])
