"""What a Python package documents in public, read from its sources with ``ast``: nothing is imported or run.

A *definition* is a function or class statement, or a literal that the package attaches to compiled code
(``add_newdoc``). Its *public names* are found by following imports from the public modules,
as a user's ``import`` would; the shortest one names it, ties go to the alphabet.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from .module_names import Alias, Function, Module, Node, last_name, parse_module


@dataclass(frozen=True, slots=True)
class Documented:
    """A public object: dotted name, kind, parameter names (None where the source does not say), raw docstring."""

    name: str
    kind: str
    parameters: tuple[str, ...] | None
    docstring: str


@dataclass(frozen=True, slots=True)
class _Found:
    """Where a name leads: the module that defines it and the definition."""

    module: Module
    node: Node

    @property
    def key(self) -> tuple[str, int]:
        return self.module.name, self.node.lineno


class Sources:
    """The sources of one package: modules are parsed when first asked for."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._modules: dict[str, Module | None] = {}

    def modules(self, public: Callable[[str], bool]) -> Iterator[Module]:
        """The modules with a public dotted name, sorted by file."""
        for path in sorted(self.root.rglob("*.py"), key=lambda path: path.as_posix()):
            parts = (self.root.name, *path.relative_to(self.root).with_suffix("").parts)
            name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
            if public(name) and (module := self.module(name)) is not None:
                yield module

    def module(self, name: str) -> Module | None:
        """A module by dotted name; None where it is not Python or belongs to another package."""
        if name not in self._modules:
            first, *rest = name.split(".")
            path = self.root.joinpath(*rest)
            package = (path / "__init__.py").is_file()
            path = path / "__init__.py" if package else path.with_suffix(".py")
            known = first == self.root.name and path.is_file()
            self._modules[name] = parse_module(path, name, package) if known else None
        return self._modules[name]

    def surface(self, module: Module) -> list[str]:
        """The names a module offers: ``__all__`` if literal, else what it defines; a package and a module that
        defines nothing offer what they import."""
        if module.exports is not None:
            return module.exports
        facade = module.package or all(isinstance(bound, Alias) for bound in module.bound.values())
        names = [n for n, bound in module.bound.items() if facade or not isinstance(bound, Alias)]
        names += [n for star in module.stars if facade for n in self._star(star, {module.name})]
        return [n for n in dict.fromkeys(names) if _visible(n)]

    def _star(self, name: str, seen: set[str]) -> list[str]:
        module = None if name in seen else self.module(name)
        if module is None:
            return []
        if module.exports is not None:
            return module.exports
        names = [n for n in module.bound if not n.startswith("_")]
        return names + [n for star in module.stars for n in self._star(star, seen | {name})]

    def resolve(self, module: Module, name: str, seen: frozenset[tuple[str, str]] = frozenset()) -> _Found | None:
        """Follows imports from ``name`` in ``module`` to its definition; None where that is not in the package."""
        if (module.name, name) in seen:
            return None
        seen |= {(module.name, name)}
        bound = module.bound.get(name)
        if isinstance(bound, Alias):
            target = self.module(bound.module)
            return None if target is None else self.resolve(target, bound.name, seen)
        if bound is not None:
            return _Found(module, bound)
        for star in reversed(module.stars):
            target = self.module(star)
            if target is not None and name in self._star(star, {module.name}):
                found = self.resolve(target, name, seen)
                if found is not None:
                    return found
        return None


def public_docstrings(
    root: Path, public: Callable[[str], bool], attached: Mapping[str, str] | None = None
) -> list[Documented]:
    """Everything a package documents under a public name, sorted by name; of equal docstrings one remains.

    Args:
        root: the package's folder.
        public: whether a dotted name (of a module or of what it holds) is part of the public surface; parts
            with a leading underscore never are.
        attached: modules that attach docstrings to compiled code by calls → the prefix of the names there.

    A method that public classes inherit from a private base is documented by the first of them.
    """
    sources = Sources(root)
    names: dict[tuple[str, int], tuple[int, str]] = {}
    found: dict[tuple[str, int], _Found] = {}
    for module in sources.modules(lambda name: _visible(name) and public(name)):
        for name in filter(_visible, sources.surface(module)):
            if (target := sources.resolve(module, name)) is not None:
                rank = (module.name.count("."), f"{module.name}.{name}")
                found[target.key] = target
                names[target.key] = min(rank, names.get(target.key, rank))
    documents: dict[str, Documented] = {}
    for rank, key in sorted((rank, key) for key, rank in names.items()):
        for item in _describe(sources, rank[1], found[key], found.keys()):
            if public(item.name):
                documents.setdefault(item.name, item)
    for origin, prefix in (attached or {}).items():
        for item in _attached(sources, origin, prefix):
            if public(item.name):
                documents.setdefault(item.name, item)
    return _once(documents)


def _once(documents: dict[str, Documented]) -> list[Documented]:
    """Sorted by name; of equal last names with equal summaries only the one with the shortest path stays."""
    first: dict[tuple[str, str], str] = {}
    for name in sorted(documents, key=lambda name: (name.count("."), name)):
        paragraph = documents[name].docstring.strip().partition("\n\n")[0]
        first.setdefault((name.rpartition(".")[2], " ".join(paragraph.split())), name)
    return [documents[name] for name in sorted(first.values())]


def _visible(name: str) -> bool:
    return not any(part.startswith("_") for part in name.split("."))


def _attached(sources: Sources, origin: str, prefix: str) -> Iterator[Documented]:
    """What ``origin`` attaches to names that ``prefix`` imports, or may import from compiled code by a star."""
    module, home = sources.module(origin), sources.module(prefix)
    if module is None or home is None:
        return
    compiled = any(sources.module(star) is None for star in home.stars)
    for name, docstring in module.attached:
        if _visible(name) and (compiled or name.partition(".")[0] in home.bound):
            member = "method" if re.match(r"\s*[\w.]+\(", docstring) else "property"
            yield Documented(f"{prefix}.{name}", member if "." in name else "function", None, docstring)


def _describe(sources: Sources, name: str, target: _Found, public: Collection[object]) -> Iterator[Documented]:
    """A definition and, if it is a class, its public methods, its accessors' and those of private bases."""
    node = target.node
    if isinstance(node, ast.ClassDef):
        start = _constructor(sources, target, set())
        yield from _documented(name, "class", node, None if start is None else _parameters(start, skip=1))
        yield from _members(sources, name, target, node, public, set())
    else:
        yield from _documented(name, "function", node, _parameters(node, skip=0))


def _documented(name: str, kind: str, node: Node, parameters: tuple[str, ...] | None) -> Iterator[Documented]:
    docstring = ast.get_docstring(node, clean=False)
    if docstring:
        yield Documented(name, kind, parameters, docstring)


def _members(
    sources: Sources, name: str, owner: _Found, node: ast.ClassDef, public: Collection[object], taken: set[str]
) -> Iterator[Documented]:
    for item in node.body:
        if isinstance(item, Function):
            if _visible(item.name) and item.name not in taken and not _overload(item):
                yield from _documented(f"{name}.{item.name}", *_method(item))
                taken.add(item.name)
        elif (accessor := _accessor(item)) is not None:
            target = sources.resolve(owner.module, accessor[1])
            if target is not None and isinstance(target.node, ast.ClassDef) and target.key not in public:
                yield from _members(sources, f"{name}.{accessor[0]}", target, target.node, public, set())
    for base, base_node in _bases(sources, owner, node):
        if base.key not in public:
            yield from _members(sources, name, base, base_node, public, taken)


def _method(node: Function) -> tuple[str, Node, tuple[str, ...]]:
    decorators = {last_name(decorator) for decorator in node.decorator_list}
    kind = "property" if decorators & {"property", "cached_property", "cache_readonly"} else "method"
    return kind, node, _parameters(node, skip=0 if "staticmethod" in decorators else 1)


def _overload(node: Function) -> bool:
    """A typing stub before the real definition; it has no docstring."""
    return any(last_name(decorator) == "overload" for decorator in node.decorator_list)


def _bases(sources: Sources, owner: _Found, node: ast.ClassDef) -> Iterator[tuple[_Found, ast.ClassDef]]:
    for base in node.bases:
        found = sources.resolve(owner.module, base.id) if isinstance(base, ast.Name) else None
        if found is not None and isinstance(found.node, ast.ClassDef) and found.key != owner.key:
            yield found, found.node


def _constructor(sources: Sources, target: _Found, seen: set[tuple[str, int]]) -> Function | None:
    if target.key in seen or not isinstance(target.node, ast.ClassDef):
        return None
    seen.add(target.key)
    for item in target.node.body:
        if isinstance(item, Function) and item.name == "__init__":
            return item
    starts = (_constructor(sources, base, seen) for base, _ in _bases(sources, target, target.node))
    return next((start for start in starts if start is not None), None)


def _parameters(node: Function, skip: int) -> tuple[str, ...]:
    """Names as a signature shows them, without defaults and annotations, which say little in a search."""
    arguments = node.args
    names = [a.arg for a in (*arguments.posonlyargs, *arguments.args)][skip:]
    if arguments.vararg:
        names.append(f"*{arguments.vararg.arg}")
    elif arguments.kwonlyargs:
        names.append("*")
    names += [a.arg for a in arguments.kwonlyargs]
    if arguments.kwarg:
        names.append(f"**{arguments.kwarg.arg}")
    return tuple(names)


def _accessor(node: ast.stmt) -> tuple[str, str] | None:
    """``str = Accessor("str", StringMethods)`` in a class body: (attribute, class)."""
    match node:
        case ast.Assign(
            targets=[ast.Name(id=attribute)],
            value=ast.Call(func=ast.Name(id="Accessor" | "CachedAccessor"), args=[_, ast.Name(id=name)]),
        ):
            return attribute, name
    return None
