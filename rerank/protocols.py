"""What a registry asks of a class, checked when the class is registered: a plugin's fault gets one line."""

from __future__ import annotations

import dataclasses
import inspect
import keyword
from typing import Any

from .errors import UsageError
from .plugins import Place


def place(cls: type[Any]) -> str:
    """Where a class is: its module and name, with file and line where they can be had."""
    named = f"{cls.__module__}.{cls.__qualname__}"
    try:
        file, line = inspect.getsourcefile(cls), inspect.getsourcelines(cls)[1]
    except (OSError, TypeError):  # typed at a prompt
        return named
    return f"{named} ({file}:{line})"


def check_class(kind: str, name: str, cls: type[Any], asked: Place | None) -> None:
    """Raises UsageError with all that a class lacks to be registered as ``name``, and where that is described."""
    problems = []
    if not isinstance(cls, type):
        raise UsageError(f"{kind} {name!r} is {cls!r}: only a class, a frozen dataclass, can be registered")
    if not name.isidentifier() or keyword.iskeyword(name):
        problems.append(f"{name!r} cannot be written as a call: a name has letters, digits and underscores")
    if "__dataclass_params__" not in vars(cls) or not vars(cls)["__dataclass_params__"].frozen:
        what = "is no dataclass" if "__dataclass_params__" not in vars(cls) else "is not frozen"
        problems.append(f"it {what}: write @dataclass(frozen=True) between @register({name!r}) and the class")
    elif asked is not None and asked.bare and (without := _without_default(cls)):
        problems.append(f"every option needs a default, and {', '.join(without)} has none")
    if asked is not None:
        lacking = [need for need in asked.needs if not any(_has(cls, part) for part in need.split(" or "))]
        if lacking:
            problems.append(f"it lacks {', '.join(lacking)}")
    if problems:
        described = f" ({asked.protocol} describes what is asked)" if asked is not None else ""
        raise UsageError(f"{kind} {name!r} of {place(cls)}: {'; '.join(problems)}{described}")


def _without_default(cls: type[Any]) -> list[str]:
    missing = dataclasses.MISSING
    fields = [field for field in dataclasses.fields(cls) if field.init]
    return [field.name for field in fields if field.default is missing and field.default_factory is missing]


def _has(cls: type[Any], need: str) -> bool:
    """Whether a class has an attribute, or a method that can be called with the arguments named in ``need``."""
    name, called, arguments = need.partition("(")
    found = inspect.getattr_static(cls, name, None)
    if not called:
        fields = [field.name for field in dataclasses.fields(cls)] if dataclasses.is_dataclass(cls) else []
        return name in fields or name in {key for base in cls.__mro__ for key in vars(base)}
    method = found.__func__ if isinstance(found, staticmethod | classmethod) else found
    if not callable(method):
        return False
    try:
        signature = inspect.signature(method)
    except (ValueError, TypeError):  # written in C
        return True
    own = [] if isinstance(found, staticmethod) else ["self"]
    try:
        signature.bind(*own, *[part for part in arguments.rstrip(")").split(", ") if part])
    except TypeError:
        return False
    return True
