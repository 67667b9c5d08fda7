"""The table of commands: ``sparring COMMAND [flags]``.

A command is a module with a frozen dataclass ``Options`` (its flags) and ``main(options)`` (its work). Modules
are imported by name when their command runs, so that ``sparring --help`` answers at once.
"""

from __future__ import annotations

import dataclasses
import importlib
import logging
import os
import re
import sys
import typing
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import console
from .errors import MissingResourceError, SparringError, UsageError
from .registry import unknown

COMMANDS: dict[str, tuple[str, str]] = {
    "index": ("sparring.rerank.commands.index", "encode a collection with a bi-encoder into a FAISS index"),
    "search": ("sparring.rerank.commands.search", "retrieve candidates and write a TREC run"),
    "rerank": ("sparring.rerank.commands.rerank", "rerank a TREC run with a neural model"),
    "compare": ("sparring.rerank.commands.compare", "ask a model for pair preferences and store them"),
    "aggregate": ("sparring.rerank.commands.aggregate", "turn stored preferences into a ranking"),
    "fuse": ("sparring.eval.commands.fuse", "combine runs by scores or ranks"),
    "evaluate": ("sparring.eval.commands.evaluate", "score runs against qrels, with significance tests"),
    "bench": ("sparring.eval.commands.bench", "play schedules on stored preferences: quality against comparisons"),
    "simulate": (
        "sparring.eval.commands.simulate",
        "preferences of a simulated judge on real qrels, for the bench",
    ),
    "train": ("sparring.train.commands.train", "train a reranker or retriever"),
    "report": ("sparring.eval.commands.report", "one page of runs, benches, preferences, throughput and training"),
    "bench-throughput": ("sparring.eval.commands.throughput", "measure pairs per second against other libraries"),
    "serve": ("sparring.rerank.commands.serve", "serve a reranker over HTTP (POST /rerank)"),
    "mine": ("sparring.train.commands.mine", "find hard negatives for judged queries"),
    "distill": (
        "sparring.train.commands.distill",
        "write a teacher's scores or pair probabilities as training data",
    ),
    "probe": (
        "sparring.train.commands.probe",
        "rerank by a probe of a frozen language model, fitted without labels",
    ),
    "list": ("sparring.rerank.commands.list", "list the models, schedules, aggregators, losses or measures"),
    "doctor": ("sparring.rerank.commands.doctor", "say what is installed, cached and missing"),
}


@dataclass(frozen=True, kw_only=True)
class CommonOptions:
    """Flags that every command has."""

    config: Path | None = None
    """YAML file of flags, one per key; flags on the command line win."""
    dry_run: bool = False
    """Check everything, count the work, and stop before doing it."""
    device: str = "auto"
    """auto, cpu, cuda:0, or several, where a reranker scores: cuda:0,1 or cpu,cpu (a process for each)."""
    dtype: str = "auto"
    """auto, float32, bfloat16 or float16; auto is bf16 with an fp32 head where the hardware has it."""
    seed: int = 0
    """Seed of everything random; each topic draws from (seed, topic id)."""
    overwrite: bool = False
    """Replace an output that exists."""
    quiet: bool = False
    """Warnings and errors only."""
    debug: bool = False
    """Show the traceback of an error."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code (0 ok, 2 usage, 3 prerequisite, 4 resource, 5 input, 6 other)."""
    args = list(sys.argv[1:] if arguments is None else arguments)
    console.remember(args)
    debug = "--debug" in args
    console.configure(quiet="--quiet" in args, debug=debug)
    try:
        return _run(args)
    except SparringError as error:
        if debug:
            logging.getLogger("sparring").exception("traceback")
        sys.stderr.write(f"sparring: error: {error}\n")
        return error.exit_code
    except KeyboardInterrupt as interrupt:
        sys.stderr.write(f"sparring: {str(interrupt) or 'interrupted'}\n")
        return getattr(interrupt, "exit_code", 130)
    except BrokenPipeError:  # `sparring evaluate ... | head` is not an error
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except Exception as error:
        if debug:
            raise
        sys.stderr.write(
            f"sparring: unexpected {type(error).__name__}: {error}\n"
            "This is a bug or a failure of the machine; run again with --debug to see where it came from.\n"
        )
        return 6


def _run(args: list[str]) -> int:
    if not args or args[0] in ("-h", "--help"):
        console.out(_help())
        return 0 if args else 2
    if args[0] == "--version":
        from importlib.metadata import version

        console.out(f"sparring {version('sparring')}")
        return 0
    name, rest = args[0], args[1:]
    if name not in COMMANDS:
        raise UsageError(unknown("command", name, COMMANDS))
    module = importlib.import_module(COMMANDS[name][0])
    module.main(parse(module.Options, name, rest))
    return 0


def _help() -> str:
    rows = "\n".join(f"  {name:<17}{text}" for name, (_, text) in COMMANDS.items())
    return (
        "usage: sparring COMMAND [flags]      (sparring COMMAND --help lists the flags)\n\n"
        "Rerank with pointwise, sampled-pair and listwise models; train and benchmark them.\n\n"
        f"commands:\n{rows}\n\n"
        "exit codes: 0 ok, 2 usage, 3 missing prerequisite, 4 missing resource, 5 invalid input,\n"
        "            6 runtime, 7 partial success, 130 interrupted\n"
    )


def parse(options: type[Any], command: str, args: list[str]) -> Any:
    """Reads flags (and the YAML file that ``--config`` names, turned into flags before them) into ``options``."""
    import tyro

    flags = [argument.split("=")[0] for argument in args if re.match(r"--?[a-zA-Z]", argument)]
    if repeated := next((flag for flag in flags if flags.count(flag) > 1), None):
        raise UsageError(f"{repeated} is given twice; give several values at once: {repeated} A B")
    config = _flag_value(args, "--config")
    if config is not None:
        args = config_flags(options, Path(config)) + args
    return tyro.cli(options, args=args, prog=f"sparring {command}")


def _flag_value(args: list[str], flag: str) -> str | None:
    for position, argument in enumerate(args):
        if argument == flag and position + 1 < len(args):
            return args[position + 1]
        if argument.startswith(flag + "="):
            return argument.removeprefix(flag + "=")
    return None


def config_flags(options: type[Any], path: Path) -> list[str]:
    """The flags that a flat YAML file stands for; unknown keys and nested values are errors that name them."""
    import yaml

    if not path.is_file():
        raise MissingResourceError(f"{path}: no such config file")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except yaml.YAMLError as error:
        raise UsageError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        raise UsageError(f"{path}: expected one 'flag: value' per line")
    hints = typing.get_type_hints(options, include_extras=True)
    names = [field.name for field in dataclasses.fields(options)]
    problems, flags, positional = [], [], []
    for key, value in content.items():
        name = str(key).replace("-", "_")
        if name not in names or name == "config":
            problems.append(unknown("key", str(key), [n for n in names if n != "config"]))
        elif isinstance(value, dict):
            problems.append(f"{key}: nested values are not flags; write one flat 'flag: value' per line")
        elif "Positional" in str(hints[name]):
            positional += [str(v) for v in (value if isinstance(value, list) else [value])]
        else:
            flags += _as_flags(name.replace("_", "-"), value)
    if problems:
        raise UsageError(f"{path}: " + "; ".join(problems))
    return positional + flags


def _as_flags(flag: str, value: object) -> list[str]:
    if isinstance(value, bool):
        return [f"--{flag}" if value else f"--no-{flag}"]
    if isinstance(value, list):
        return [f"--{flag}", *(str(item) for item in value)]
    return [f"--{flag}={'None' if value is None else value}"]


def config_text(command: str, options: Any) -> str:
    """The YAML file that gives ``options`` back: flags that differ from their defaults, one per line."""
    import yaml

    values = {}
    for field in dataclasses.fields(options):
        value = getattr(options, field.name)
        if field.name in ("config", "dry_run", "debug") or value == field.default:
            continue
        if isinstance(value, Path):
            value = str(value)
        elif isinstance(value, tuple):
            value = [str(item) if isinstance(item, Path) else item for item in value]
        values[field.name] = value
    return f"# sparring {command} --config THIS_FILE\n" + yaml.safe_dump(values, sort_keys=False)


if __name__ == "__main__":
    sys.exit(main())
