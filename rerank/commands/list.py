"""``sparring list KIND [NAME]``: what can be named in a spec string, with its options; of one entry everything."""

from __future__ import annotations

import ast
import dataclasses
import importlib
import inspect
import itertools
import re
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any

import tyro

from .. import console
from ..errors import UsageError
from ..models.families.about import Described
from ..plugins import REGISTRIES
from ..registry import Registry, option_name, unknown
from .options import CommonOptions

KINDS = {place.plural: place for place in REGISTRIES.values()}
COLUMNS = 100
FIRST = 34
"""Longest call that shares its line with the summary."""


@dataclass(frozen=True, kw_only=True)
class Options(CommonOptions):
    """List the models, schedules, aggregators, kinds, losses, data sources or measures to be named."""

    kind: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar=f"{{{','.join(KINDS)}}}")]
    """What to list."""
    name: Annotated[str | None, tyro.conf.Positional] = None
    """One of them, to be shown in full: options, their meanings, references."""


def main(options: Options) -> None:
    """Prints each entry as it is written with its default options and its first sentence, or one entry in full."""
    if options.kind not in KINDS:
        raise UsageError(unknown("kind", options.kind, KINDS))
    place = KINDS[options.kind]
    registry: Registry = getattr(importlib.import_module(place.module), place.attribute)
    if options.name is not None:
        _show(place.singular, options.name, dict(registry))
        return
    rows = [(signature(name, entry), entry) for name, entry in registry]
    width = min(FIRST, max(len(call) for call, _ in rows))
    for call, entry in rows:
        for line in _described(call, entry) if isinstance(entry, Described) else _row(call, summary(entry), width):
            console.out(line)


def _row(call: str, text: str, width: int) -> Iterator[str]:
    """A call and its sentence, on one line where both fit, else the sentence below it."""
    beside = _wrapped(text, " " * (width + 2))
    if len(call) <= width:
        beside[0] = f"{call:<{width}}  {beside[0].lstrip()}".rstrip()
    else:
        yield from _wrapped(call, "", "    ")
    yield from beside


def _described(call: str, family: Described) -> Iterator[str]:
    """A family: how it is written, then what it is and what it says of itself, indented."""
    yield from _wrapped(call, "", "    ")
    for text in (summary(family), *about(family)):
        yield from _wrapped(text, "    ", "      ")


def _wrapped(text: str, first: str, later: str | None = None) -> list[str]:
    """Lines of at most `COLUMNS` characters; words stay whole."""
    return textwrap.wrap(
        text,
        COLUMNS,
        initial_indent=first,
        subsequent_indent=first if later is None else later,
        break_long_words=False,
        break_on_hyphens=False,
    ) or [first]


def about(family: Described) -> Iterator[str]:
    """What a family says of itself, one line each."""
    said = family.about
    yield f"{said.width}; {said.forward}; returns {said.returns}"
    if said.examples:
        yield f"such as {', '.join(map(str, said.examples))}"
    if said.made_by:
        yield f"none is published: {said.made_by}"


def signature(name: str, entry: Any) -> str:
    """The entry as a call with all its options and their defaults."""
    options = [
        option_name(field) + ("" if (value := _default(field)) is dataclasses.MISSING else f"={value}")
        for field in dataclasses.fields(entry)
        if field.init
    ]
    return f"{name}({', '.join(options)})" if options else name


def _default(field: dataclasses.Field[Any]) -> Any:
    if field.default is not dataclasses.MISSING:
        return field.default
    return dataclasses.MISSING if field.default_factory is dataclasses.MISSING else field.default_factory()


def summary(entry: Any) -> str:
    """The first sentence of the entry's docstring."""
    text = " ".join((inspect.getdoc(entry) or "").split("\n\n")[0].split())
    return re.split(r"(?<![.])[.](?:\s|$)", text)[0]


# -------------------------------------------------------------------------------------------------- one in full


def _show(kind: str, name: str, entries: dict[str, Any]) -> None:
    """Prints one entry: its call, its docstring, and every option with type, default and meaning."""
    plain = {re.split(r"\W", known)[0].replace("-", "_"): known for known in entries}
    found = name if name in entries else plain.get(name.replace("-", "_"))
    if found is None:
        raise UsageError(unknown(kind, name, plain))
    entry = entries[found]
    lines = [*_wrapped(signature(found, entry), "", "    "), "", *_reflowed(inspect.getdoc(entry) or "")]
    rows = list(_options(entry))
    lines += ["options:"] if rows else []
    for call, meaning in rows:
        lines += _wrapped(f"{call}  {meaning}", "    ", "        ")
    if isinstance(entry, Described):
        lines.append("")
        for text in about(entry):
            lines += _wrapped(text, "", "  ")
    for line in lines:
        console.out(line)


def _reflowed(text: str) -> Iterator[str]:
    """A docstring in lines of at most `COLUMNS` characters; entries of lists keep lines of their own."""
    paragraph: list[str] = []
    indent = ""
    for line in [*text.splitlines(), ""]:
        own = line[: len(line) - len(line.lstrip())]
        item = re.match(r"[-*|>] |\d+\. ", line.lstrip()) or (
            own == indent and re.match(r"[\w, ]+: ", line.strip())
        )
        apart = not line.strip() or not own.startswith(indent) or (own != indent and not indent)
        if paragraph and (apart or (item and (own or line.startswith(("-", "*", "|", ">"))))):
            yield from _wrapped(" ".join(paragraph), indent, indent + ("    " if indent else ""))
            paragraph = []
        if not line.strip():
            yield ""
            continue
        indent = indent if paragraph else own
        paragraph.append(line.strip())


def _options(entry: Any) -> Iterator[tuple[str, str]]:
    meanings = _meanings(entry)
    for field in dataclasses.fields(entry):
        if field.init:
            value = _default(field)
            kind = field.type if isinstance(field.type, str) else field.type.__name__
            shown = f"{option_name(field)}: {kind}" + ("" if value is dataclasses.MISSING else f" = {value}")
            yield shown, meanings.get(field.name, "")


def _meanings(entry: Any) -> dict[str, str]:
    """The strings below the fields of a class, by field; empty where its source cannot be had."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(entry)))
    except (OSError, TypeError, SyntaxError):
        return {}
    found: dict[str, str] = {}
    body = tree.body[0].body if isinstance(tree.body[0], ast.ClassDef) else []
    for field, below in itertools.pairwise(body):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and isinstance(below, ast.Expr):
            value = below.value
            if isinstance(value, ast.Constant) and isinstance(value.value, str):
                found[field.target.id] = " ".join(value.value.split())
    return found
