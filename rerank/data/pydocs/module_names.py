"""What the modules of a package bind at their top level, read from their sources with ``ast``."""

from __future__ import annotations

import ast
import warnings
from dataclasses import dataclass, field
from pathlib import Path

Function = ast.FunctionDef | ast.AsyncFunctionDef
Node = Function | ast.ClassDef


@dataclass(frozen=True, slots=True)
class Alias:
    """A name that another module defines."""

    module: str
    name: str


Bound = Node | Alias


@dataclass(slots=True)
class Module:
    name: str
    package: bool
    bound: dict[str, Bound] = field(default_factory=dict)
    stars: list[str] = field(default_factory=list)
    exports: list[str] | None = None
    attached: list[tuple[str, str]] = field(default_factory=list)


def parse_module(path: Path, name: str, package: bool) -> Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # invalid escapes in others' docstrings
        tree = ast.parse(path.read_bytes())
    module = Module(name, package)
    _collect(module, tree.body)
    return module


def _collect(module: Module, body: list[ast.stmt]) -> None:
    """Reads what a module's top level binds; both arms of an ``if`` and of a ``try`` count, the later one wins."""
    for node in body:
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                module.bound[node.name] = node
            case ast.ImportFrom():
                _import(module, node)
            case ast.Assign(targets=[ast.Name(id="__all__")], value=value):
                module.exports = _strings(value)
            case ast.AugAssign(target=ast.Name(id="__all__"), value=value):
                more = _strings(value)
                module.exports = None if more is None or module.exports is None else module.exports + more
            case ast.Assign(targets=[ast.Name(id=target)], value=ast.Name(id=source)):
                module.bound[target] = Alias(module.name, source)
            case ast.Expr(value=ast.Call() as call):
                _attach(module, call)
            case ast.If() | ast.Try():
                for arm in (node.body, node.orelse, *_handlers(node)):
                    _collect(module, arm)


def _handlers(node: ast.If | ast.Try) -> list[list[ast.stmt]]:
    return [handler.body for handler in node.handlers] if isinstance(node, ast.Try) else []


def _import(module: Module, node: ast.ImportFrom) -> None:
    parts = module.name.split(".")
    if node.level:
        parts = parts[: len(parts) - node.level + module.package]
    origin = ".".join([*(parts if node.level else []), *([node.module] if node.module else [])])
    for item in node.names:
        if item.name == "*":
            module.stars.append(origin)
        else:
            module.bound[item.asname or item.name] = Alias(origin, item.name)


def _attach(module: Module, call: ast.Call) -> None:
    """``add_newdoc(place, "name", doc)``, the same with ``("member", doc)``, and ``add_newdoc("name", doc)``."""
    if last_name(call) != "add_newdoc":
        return
    match call.args:
        case [_, ast.Constant(value=str(name)), ast.Tuple(elts=[ast.Constant(value=str(member)), text])]:
            module.attached.append((f"{name}.{member}", _string(text)))
        case [_, ast.Constant(value=str(name)), text] | [ast.Constant(value=str(name)), text]:
            module.attached.append((name, _string(text)))


def _strings(node: ast.expr) -> list[str] | None:
    """A literal list of strings, or None."""
    if isinstance(node, ast.List | ast.Tuple):
        values = [e.value for e in node.elts if isinstance(e, ast.Constant) and isinstance(e.value, str)]
        return values if len(values) == len(node.elts) else None
    return None


def _string(node: ast.expr) -> str:
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""


def last_name(node: ast.expr) -> str:
    """The last part of a dotted expression or of what it calls."""
    if isinstance(node, ast.Call):
        return last_name(node.func)
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""
