"""Flags and YAML files: one parser sees both, and what is written reads back."""

from __future__ import annotations

import dataclasses
import re
import typing
from pathlib import Path
from typing import Annotated, Any

from ..errors import MissingResourceError, UsageError
from ..plugins import import_modules
from ..registry import option_name, unknown


def parse(options: type[Any], command: str, args: list[str]) -> Any:
    """Reads flags (and the YAML file that ``--config`` names, turned into flags before them) into ``options``."""
    import tyro

    from .options import CommonOptions

    config = _flag_value(args, "--config")
    flags_of_config = [] if config is None else config_flags(options, Path(config))
    modules, flags_of_config, args = _modules(options, flags_of_config, args)
    import_modules(modules)  # before the rest is parsed, since a flag may name what they register
    flags = [argument.split("=")[0] for argument in args if re.match(r"--?[a-zA-Z]", argument)]
    if repeated := next((flag for flag in flags if flags.count(flag) > 1), None):
        raise UsageError(f"{repeated} is given twice; give several values at once: {repeated} A B")
    args = flags_of_config + args + (["--import", *modules] if modules else [])
    # a field cannot be called `import`; said here and not beside it, so that flags are imported without a parser
    spelled = Annotated[tuple[str, ...], tyro.conf.arg(name="import", metavar="MODULE")]
    CommonOptions.__annotations__["import_"] = spelled
    return tyro.cli(options, args=args, prog=f"sparring {command}")


def _modules(options: type[Any], config: list[str], args: list[str]) -> tuple[list[str], list[str], list[str]]:
    """The modules that ``--import`` names, of both lists of flags together, and what else these lists hold.

    A flag takes all words up to the next flag, as every flag of several values does; only one where the command
    has positional arguments, which may follow it.
    """
    hints = typing.get_type_hints(options, include_extras=True)
    greedy = not any("Positional" in str(hint) for hint in hints.values())
    found: list[str] = []
    config_rest = _without_import(config, True, found)
    rest = _without_import(args, greedy, found)
    return list(dict.fromkeys(found)), config_rest, rest


def _without_import(words: list[str], greedy: bool, found: list[str]) -> list[str]:
    """``words`` without ``--import`` and its values, which are added to ``found``."""
    rest: list[str] = []
    taking = 0
    for word in words:
        if word == "--import" or word.startswith("--import="):
            taking = 1
            given = word.removeprefix("--import").removeprefix("=")
        elif word.startswith("-") or not taking:
            if taking == 1:
                raise UsageError("--import needs the name of a module")
            taking = 0
            rest.append(word)
            continue
        else:
            given = word
        if given:
            found += [name for name in given.split(",") if name]
            taking = 2 if greedy else 0
    if taking == 1:
        raise UsageError("--import needs the name of a module")
    return rest


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
    names = {option_name(field): field.name for field in dataclasses.fields(options)}
    problems, flags, positional = [], [], []
    for key, value in content.items():
        name = str(key).replace("-", "_")
        if name not in names or name == "config":
            problems.append(unknown("key", str(key), [n for n in names if n != "config"]))
        elif isinstance(value, dict):
            problems.append(f"{key}: nested values are not flags; write one flat 'flag: value' per line")
        elif "Positional" in str(hints[names[name]]):
            positional += [str(v) for v in (value if isinstance(value, list) else [value])]
        else:
            flags += [] if name == "import" and not value else _as_flags(name.replace("_", "-"), value)
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
        values[option_name(field)] = value
    return f"# sparring {command} --config THIS_FILE\n" + yaml.safe_dump(values, sort_keys=False)
