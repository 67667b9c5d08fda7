"""The house as it stands: its rooms, the arrows between them and the circles, read from the sources alone.

A room is a folder of `rerank/`, `eval/` or `train/`, or a file that lies directly in one of the three. An arrow is
an import from one room to another, wherever it stands: inside a function and under ``TYPE_CHECKING`` too. What is
named in strings (the table of commands, registries) is no arrow.

``python tests/helpers/house.py [ROOT]`` prints the rooms, arrows and circles of a checkout.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

TREES = ("rerank", "eval", "train")
GROUND = (
    "rerank/vocabulary",
    "rerank/stats",
    "rerank/arrays",
    "rerank/registry",
    "rerank/plugins",
    "rerank/protocols",
    "rerank/console",
    "rerank/errors",
)
"""What every room may import: nouns, counts, ragged arrays, names and plugins, and how to speak to people."""


@dataclass(frozen=True)
class Import:
    """One file of the house imports another; ``at_once`` where that happens as soon as the file is imported."""

    source: Path
    line: int
    target: Path
    at_once: bool


@dataclass(frozen=True)
class House:
    """The files of a checkout (paths relative to its root), and which imports which."""

    root: Path
    files: tuple[Path, ...]
    imports: tuple[Import, ...]

    @cached_property
    def arrows(self) -> dict[tuple[str, str], list[Import]]:
        """From (room, room) to the imports that make the arrow."""
        arrows: dict[tuple[str, str], list[Import]] = {}
        for found in self.imports:
            rooms = room(found.source), room(found.target)
            if rooms[0] != rooms[1]:
                arrows.setdefault(rooms, []).append(found)
        return arrows

    def rooms(self) -> dict[str, list[Path]]:
        """Every room and its files; a folder with nothing but a docstring and other folders is none."""
        found: dict[str, list[Path]] = {}
        for path in self.files:
            found.setdefault(room(path), []).append(path)
        empty = [name for name, paths in found.items() if [path.name for path in paths] == ["__init__.py"]]
        docstrings = [name for name in empty if self.lines(found[name][0]) <= 1]
        return {name: found[name] for name in sorted(found) if name not in docstrings}

    def folders(self) -> dict[str, int]:
        """Every folder and how many Python files lie in it."""
        found: dict[str, int] = {}
        for path in self.files:
            found[path.parent.as_posix()] = found.get(path.parent.as_posix(), 0) + 1
        return found

    def lines(self, path: Path) -> int:
        return len((self.root / path).read_text("utf-8").splitlines())

    def circles_of_rooms(self) -> list[list[str]]:
        """Rooms that import each other, a shortest path around each circle."""
        return circles(self.arrows)

    def circles_of_files(self) -> list[list[str]]:
        """Files that cannot be imported one after the other, a shortest path around each circle."""
        return circles({(str(i.source), str(i.target)) for i in self.imports if i.at_once})


def room(path: Path) -> str:
    """The room of a file: its folder, or the file itself where it lies directly in a tree."""
    if len(path.parts) == 2:
        return path.parts[0] if path.stem == "__init__" else path.with_suffix("").as_posix()
    return path.parent.as_posix()


def read(root: Path) -> House:
    """The house of a checkout."""
    files = tuple(sorted(path.relative_to(root) for tree in TREES for path in (root / tree).rglob("*.py")))
    modules = {module_name(path): path for path in files}
    imports = []
    for path in files:
        for node, at_once in imports_in(ast.parse((root / path).read_text("utf-8"))):
            for target in dict.fromkeys(targets(node, path, modules)):
                if target != path:
                    imports.append(Import(path, node.lineno, target, at_once))
    return House(root, files, tuple(imports))


def module_name(path: Path) -> str:
    """What the file is called where it is imported."""
    return ".".join(("sparring", *path.with_suffix("").parts)).removesuffix(".__init__")


def imports_in(node: ast.AST, at_once: bool = True) -> Iterator[tuple[ast.Import | ast.ImportFrom, bool]]:
    """All import statements under a node, and whether each runs when the module does."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import | ast.ImportFrom):
            yield child, at_once
        elif isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            yield from imports_in(ast.Module(child.body, []), False)
            yield from imports_in(ast.Module(child.orelse, []), at_once)
        else:
            later = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            yield from imports_in(child, at_once and not later)


def targets(node: ast.Import | ast.ImportFrom, path: Path, modules: Mapping[str, Path]) -> Iterator[Path]:
    """The files of the house that a statement imports: of ``from a import b`` the module a.b, or else a."""
    if isinstance(node, ast.Import):
        names = [(alias.name, "") for alias in node.names]
    else:
        package = ("sparring", *path.parent.parts)
        base = package[: len(package) - node.level + 1] if node.level else ()
        module = ".".join((*base, *([node.module] if node.module else [])))
        names = [(module, alias.name) for alias in node.names]
    for module, name in names:
        found = modules.get(f"{module}.{name}") or modules.get(module)
        if found is not None:
            yield found


def circles(arrows: Iterable[tuple[str, str]]) -> list[list[str]]:
    """A shortest path around each circle of a graph; parts that share no circle come apart."""
    after: dict[str, list[str]] = {}
    for source, target in sorted(arrows):
        after.setdefault(source, []).append(target)
    reach = {name: set(distances(name, after)) for name in after}
    found, seen = [], set()
    for name in sorted(after):
        together = {other for other in reach[name] if name in reach.get(other, ())}
        if together and name not in seen:  # a strongly connected component
            seen |= together
            found.append(min((around(member, after) for member in sorted(together)), key=len))
    return found


def distances(start: str, after: Mapping[str, list[str]]) -> dict[str, str]:
    """Whatever can be reached from ``start``, and from where it is reached first."""
    came: dict[str, str] = {}
    border = [start]
    while border:
        here = border
        border = []
        for name in here:
            for other in after.get(name, ()):
                if other not in came:
                    came[other] = name
                    border.append(other)
    return came


def around(start: str, after: Mapping[str, list[str]]) -> list[str]:
    """A shortest path from ``start`` back to it."""
    came = distances(start, after)
    path = [start, came[start]]
    while path[-1] != start:
        path.append(came[path[-1]])
    return path[::-1]


def describe(house: House) -> str:
    """The rooms with their arrows, and what the whole comes to."""
    out = []
    rooms = house.rooms()
    for name, paths in rooms.items():
        out.append(f"{name}  ({len(paths)} files, {sum(map(house.lines, paths))} lines)")
        out += [f"    -> {b}  ({len(found)})" for (a, b), found in sorted(house.arrows.items()) if a == name]
    for kind, found in (("rooms", house.circles_of_rooms()), ("files", house.circles_of_files())):
        out.append(f"circles of {kind}: {len(found)}")
        out += ["    " + " -> ".join(circle) for circle in found]
    largest, longest = max(house.folders().items(), key=lambda item: item[1]), max(house.files, key=house.lines)
    out.append(f"largest folder: {largest[0]}/ ({largest[1]} files)")
    out.append(f"longest file: {longest} ({house.lines(longest)} lines)")
    for tree in ("", *TREES):
        named = [name for name in rooms if name.startswith(tree)]
        arrows = [pair for pair in house.arrows if pair[0].startswith(tree)]
        above = [pair for pair in arrows if pair[1] not in GROUND]
        total = sum(house.lines(path) for name in named for path in rooms[name])
        out.append(
            f"{tree or 'all'}: {len(named)} rooms, {len(arrows)} arrows ({len(above)} above the ground), {total} lines"
        )
    return "\n".join(out)


if __name__ == "__main__":
    here = Path(__file__).resolve().parent.parent.parent
    print(describe(read(Path(sys.argv[1]).resolve() if len(sys.argv) > 1 else here)))  # noqa: T201
