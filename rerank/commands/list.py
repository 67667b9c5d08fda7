"""``sparring list KIND``: what can be named in a spec string, one per line, with its options."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import re
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import tyro

from .. import console
from ..registry import Registry, option_name
from .options import CommonOptions

KINDS = {
    "models": ("sparring.rerank.registry", "families"),
    "schedules": ("sparring.rerank.registry", "schedules"),
    "aggregators": ("sparring.rerank.registry", "aggregators"),
    "kinds": ("sparring.train.rankers.kinds", "kinds"),
    "retrievers": ("sparring.train.retrievers.model", "retrievers"),
    "losses": ("sparring.train.losses", "losses"),
    "retriever-losses": ("sparring.train.retrievers.losses", "retriever_losses"),
    "sources": ("sparring.train.data.mixture", "sources"),
    "measures": ("sparring.eval.measures.catalogue", "measures"),
}


@dataclass(frozen=True, kw_only=True)
class Options(CommonOptions):
    """List the models, schedules, aggregators, kinds, losses, data sources or measures to be named."""

    kind: Annotated[
        Literal[
            "models",
            "schedules",
            "aggregators",
            "kinds",
            "retrievers",
            "losses",
            "retriever-losses",
            "sources",
            "measures",
        ],
        tyro.conf.Positional,
    ]
    """What to list."""


def main(options: Options) -> None:
    """Prints one line per entry: how it is written with its default options, then its first sentence."""
    module, name = KINDS[options.kind]
    registry: Registry = getattr(importlib.import_module(module), name)
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
