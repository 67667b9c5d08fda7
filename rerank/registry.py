"""Names and spec strings: a component is written as a call and prints back as one.

``window(m=5, skip=7)`` is at once the flag, the YAML value, the run tag and the row of a bench table.
A component is a frozen dataclass; its fields are the options. Options left at their defaults are not
printed, so that one component has one name. Components come from this project, from installed packages (entry
points of the group ``sparring.schedules``, and so on: see `sparring.rerank.plugins`) and from ``--import``.
"""

from __future__ import annotations

import ast
import dataclasses
import difflib
import importlib
import keyword
import pkgutil
import typing
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from . import plugins
from .errors import UsageError
from .protocols import check_class, place

T = TypeVar("T")


class Registry:
    """The components of one kind, found by importing every module of ``package`` on first use, then all plugins.

    Args:
        kind: what one entry is called in messages, in the singular ("schedule"); its row in
            `sparring.rerank.plugins.REGISTRIES` says what an entry must have and which plugins add to it.
        package: the package or module whose import registers the entries ("sparring.rerank.schedules").
        also: another registry, whose components can be named here too, alone and inside those of this one.
    """

    def __init__(self, kind: str, package: str, also: Registry | None = None) -> None:
        self.kind = kind
        self.package = package
        self.also = also
        self._place = plugins.place_of(kind)
        self._entries: dict[str, type[Any]] = {}
        self._loaded_own = False
        self._loaded = False

    def register(self, name: str) -> Callable[[type[T]], type[T]]:
        """Class decorator: makes a frozen dataclass known as ``name`` and gives it its spec as ``str()``.

        Raises UsageError where the class lacks what its protocol asks, or where the name is another's.
        """

        def add(cls: type[T]) -> type[T]:
            if not self._own(cls):
                self._load_own()  # a name of ours is taken, whoever is imported first
            check_class(self.kind, name, cls, None if self._place is None else self._place[1])
            held = self._entries.get(name)
            if held is not None and (held.__module__, held.__qualname__) != (cls.__module__, cls.__qualname__):
                raise UsageError(
                    f"{self.kind} {name!r} is registered twice: by {place(held)} and by {place(cls)}; "
                    "choose another name"
                )
            self._entries[name] = cls
            cls.spec_name = name  # type: ignore[attr-defined]
            cls.__str__ = format_spec  # type: ignore[method-assign]
            plugins.note(name)
            return cls

        return add

    def names(self) -> list[str]:
        """All registered names, sorted."""
        self._load()
        return sorted(self._entries)

    def __iter__(self) -> Iterator[tuple[str, type[Any]]]:
        self._load()
        return iter(sorted(self._entries.items()))

    def parse(self, spec: str) -> Any:
        """Builds the component that ``spec`` names; raises UsageError naming the nearest known name or option."""
        self._load()
        try:
            node = ast.parse(spec.strip(), mode="eval").body
        except SyntaxError:
            raise UsageError(
                f"{self.kind} {spec!r} is not a call: write name or name(option=value, ...)"
            ) from None
        return self._build(node, spec)

    def _build(self, node: ast.expr, spec: str) -> Any:
        call = node if isinstance(node, ast.Call) else ast.Call(func=node, args=[], keywords=[])
        if not isinstance(call.func, ast.Name):
            raise UsageError(f"{self.kind} {spec!r} is not a call: write name or name(option=value, ...)")
        name = call.func.id
        if name not in (known := self._known()):
            left_out = plugins.broken()
            note = f"; plugins left out: {', '.join(left_out)}" if left_out else ""
            raise UsageError(unknown(self.kind, name, known) + note)
        cls = known[name]
        fields = {option_name(f): f for f in dataclasses.fields(cls) if f.init}
        if len(call.args) > len(fields):
            raise UsageError(f"{spec!r}: {name} takes at most {len(fields)} options, {len(call.args)} given")
        options = dict(zip(fields, call.args, strict=False))
        for given in call.keywords:
            if given.arg is None or given.arg not in fields:
                raise UsageError(unknown(f"option of {name}", str(given.arg), fields))
            if given.arg in options:
                raise UsageError(f"{spec!r}: option {given.arg} is given twice")
            options[given.arg] = given.value
        hints = _hints(self.kind, name, cls)
        values = {
            fields[key].name: self._value(hints[fields[key].name], value, f"{spec!r}: {key}")
            for key, value in options.items()
        }
        missing = [
            option
            for option, f in fields.items()
            if option not in options
            and f.default is dataclasses.MISSING
            and f.default_factory is dataclasses.MISSING
        ]
        if missing:
            raise UsageError(f"{spec!r}: {name} needs {', '.join(missing)}")
        try:
            return cls(**values)
        except ValueError as error:
            raise UsageError(f"{spec!r}: {error}") from None

    def _value(self, hint: Any, node: ast.expr, where: str) -> Any:
        if isinstance(node, ast.Call):  # a component inside a component, such as two_level(first=blocks(...))
            return self._build(node, ast.unparse(node))
        if isinstance(node, ast.Name):  # a bare word is a string: design=latin
            words = any(kind is str or isinstance(kind, str) for kind in typing.get_args(hint) or (hint,))
            if node.id in self._known() and not words:
                return self._build(node, node.id)
            value: Any = node.id
        else:
            try:
                value = ast.literal_eval(node)
            except ValueError:
                raise UsageError(f"{where}: cannot read {ast.unparse(node)!r}") from None
        kinds = typing.get_args(hint) or (hint,)
        if float in kinds and type(value) is int:
            value = float(value)
        plain = tuple(k for k in kinds if k in (int, float, str, bool, type(None), tuple, list))
        literal = tuple(k for k in kinds if isinstance(k, str))  # Literal["a", "b"]
        if literal and value not in literal:
            raise UsageError(unknown(where, str(value), literal))
        if plain and not any(type(value) is k for k in plain):
            expected = " or ".join(k.__name__ for k in plain)
            raise UsageError(f"{where}: expected {expected}, found {value!r}")
        return value

    def _known(self) -> dict[str, type[Any]]:
        return ({} if self.also is None else self.also._known()) | self._entries

    def _own(self, cls: type[Any]) -> bool:
        """Whether a class comes with the registry, and is no plugin's."""
        return cls.__module__ == self.package or cls.__module__.startswith(f"{self.package}.")

    def _load(self) -> None:
        if self._loaded:
            return
        if self.also is not None:
            self.also._load()
        self._load_own()
        self._loaded = True  # before the plugins: what they import may look names up
        if self._place is not None:
            plugins.load_installed(self._place[0])

    def _load_own(self) -> None:
        if self._loaded_own:
            return
        module = importlib.import_module(self.package)
        for info in pkgutil.walk_packages(getattr(module, "__path__", []), f"{self.package}."):
            importlib.import_module(info.name)
        self._loaded_own = True


def _hints(kind: str, name: str, cls: type[Any]) -> dict[str, Any]:
    """The types of a class's options."""
    try:
        return typing.get_type_hints(cls)
    except (NameError, AttributeError, TypeError, SyntaxError) as error:
        raise UsageError(
            f"{kind} {name!r} of {place(cls)}: the types of its options cannot be read: {error}; "
            "import what they name, and not for type checkers only"
        ) from None


def format_spec(component: Any) -> str:
    """The spec string of a component: its name and the options that differ from their defaults."""
    options = []
    for field in dataclasses.fields(component):
        value = getattr(component, field.name)
        factory = field.default_factory
        default = factory() if factory is not dataclasses.MISSING else field.default
        if not field.init or value == default:
            continue
        shown = str(value) if dataclasses.is_dataclass(value) or _is_word(value) else repr(value)
        options.append(f"{option_name(field)}={shown}")
    return f"{component.spec_name}({', '.join(options)})" if options else str(component.spec_name)


def option_name(field: dataclasses.Field[Any]) -> str:
    """How the option is written: a field that a method would hide carries an underscore, ``rounds_``."""
    return field.name.rstrip("_")


def _is_word(value: object) -> bool:
    return isinstance(value, str) and value.isascii() and value.isidentifier() and not keyword.iskeyword(value)


def unknown(what: str, name: str, known: typing.Iterable[str]) -> str:
    """The message for an unknown name: the nearest known one, then all of them."""
    choices = sorted(known)
    near = difflib.get_close_matches(name, choices, n=1)
    hint = f" (did you mean {near[0]!r}?)" if near else ""
    return f"unknown {what} {name!r}{hint}; known: {', '.join(choices) or 'none'}"


schedules = Registry("schedule", "sparring.rerank.schedules")
aggregators = Registry("aggregator", "sparring.rerank.aggregators")
families = Registry("model family", "sparring.rerank.models.families")
passages = Registry("way of scoring long documents", "sparring.rerank.passages")
