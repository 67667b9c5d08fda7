"""``sparring list KIND``: what can be named in a spec string, one per line, with its options."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import re
from dataclasses import dataclass
from typing import Annotated, Any

import tyro

from .. import console
from ..errors import UsageError
from ..plugins import REGISTRIES
from ..registry import Registry, option_name, unknown
from .options import CommonOptions

KINDS = {place.plural: place for place in REGISTRIES.values()}


@dataclass(frozen=True, kw_only=True)
class Options(CommonOptions):
    """List the models, schedules, aggregators, kinds, losses, data sources or measures to be named."""

    kind: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar=f"{{{','.join(KINDS)}}}")]
    """What to list."""


def main(options: Options) -> None:
    """Prints one line per entry: how it is written with its default options, then its first sentence."""
    if options.kind not in KINDS:
        raise UsageError(unknown("kind", options.kind, KINDS))
    place = KINDS[options.kind]
    registry: Registry = getattr(importlib.import_module(place.module), place.attribute)
    rows = [(signature(entry_name, entry), summary(entry)) for entry_name, entry in registry]
    width = min(58, max(len(call) for call, _ in rows))
    for call, text in rows:
        console.out(f"{call:<{width}}  {text}" if len(call) <= width else f"{call}\n{'':<{width}}  {text}")


def signature(name: str, entry: Any) -> str:
    """The entry as a call with all its options and their defaults."""
    options = []
    for field in dataclasses.fields(entry):
        if not field.init:
            continue
        if field.default is not dataclasses.MISSING:
            value = field.default
        elif field.default_factory is not dataclasses.MISSING:
            value = field.default_factory()
        else:
            options.append(option_name(field))
            continue
        options.append(f"{option_name(field)}={value}")
    return f"{name}({', '.join(options)})" if options else name


def summary(entry: Any) -> str:
    """The first sentence of the entry's docstring."""
    text = " ".join((inspect.getdoc(entry) or "").split("\n\n")[0].split())
    return re.split(r"(?<![.])[.](?:\s|$)", text)[0]
