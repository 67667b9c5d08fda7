"""What every component promises: it is registered, documented, and its spec reads back."""

from __future__ import annotations

import dataclasses
from typing import Any

from ..registry import Registry, option_name


class ContractError(AssertionError):
    """A component does not keep a promise; the message says which one, and what was found."""


def promise(kept: Any, component: object, what: str, found: object = None) -> None:
    """Raises ContractError where a promise is not kept: ``what`` was promised, ``found`` is what came instead."""
    if not kept:
        shown = "" if found is None else f"; found {found}"
        raise ContractError(f"{component}: {what}{shown}")


def check_component(component: Any, registry: Registry) -> None:
    """It is registered, has a sentence for ``sparring list``, and its spec reads back, also with all options.

    Raises ContractError.
    """
    name, cls = getattr(component, "spec_name", None), type(component)
    promise(dict(registry).get(str(name)) is cls, repr(component), f"it is registered as a {registry.kind}")
    made = f"{cls.__name__}("  # what dataclasses write where there is no docstring
    promise(
        cls.__doc__ and not cls.__doc__.startswith(made), component, "its class has a docstring, which list shows"
    )
    read = registry.parse(str(component))
    promise(read == component, component, "its spec reads back", read)
    again = registry.parse(str(read))
    promise(str(again) == str(read), component, "its spec prints back", str(again))
    written = ", ".join(
        f"{option_name(field)}={_shown(getattr(component, field.name))}"
        for field in dataclasses.fields(cls)
        if field.init
    )
    again = registry.parse(f"{name}({written})")
    promise(again == component, component, f"its spec with all options, {name}({written}), is the same", again)


def _shown(value: object) -> str:
    return str(value) if hasattr(type(value), "spec_name") else repr(value)
