"""The shape of the tree: what may import what, what is light to import, and what the wheel holds."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from places import ROOT

MAY_IMPORT = {"rerank": {"rerank"}, "eval": {"rerank", "eval"}, "train": {"rerank", "eval", "train"}}
HEAVY = {"torch", "transformers", "faiss", "sentence_transformers", "pandas", "matplotlib", "tyro", "scipy"}
SOURCES = sorted(p for top in MAY_IMPORT for p in (ROOT / top).rglob("*.py"))


def imported_modules(path: Path) -> set[str]:
    """Absolute names of all modules that a source file imports, relative ones resolved."""
    package = ("sparring", *path.relative_to(ROOT).parent.parts)
    found = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join([*base, *([node.module] if node.module else [])])
            found |= {module} | {f"{module}.{alias.name}" for alias in node.names}
    return found


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_point_one_way(path: Path) -> None:
    top = path.relative_to(ROOT).parts[0]
    rooms = {name.split(".")[1] for name in imported_modules(path) if name.startswith("sparring.")}
    assert rooms <= MAY_IMPORT[top], f"{path} imports from {rooms - MAY_IMPORT[top]}"


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_inner_imports_are_relative(path: Path) -> None:
    tree = ast.parse(path.read_text("utf-8"))
    absolute = [
        n for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) and (n.module or "").startswith("sparring")
    ]
    assert not absolute, f"{path}:{absolute[0].lineno}: write it as a relative import"


def test_packages_list_is_the_tree() -> None:
    config = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["setuptools"]
    tree = {
        "sparring." + ".".join(p.parent.relative_to(ROOT).parts)
        for top in MAY_IMPORT
        for p in (ROOT / top).rglob("__init__.py")
    }
    assert set(config["packages"]) == tree == set(config["package-dir"])


@pytest.mark.parametrize(
    "module", ["sparring.rerank.cli", "sparring.eval", "sparring.train", "sparring.rerank.pipeline"]
)
def test_light_modules_import_nothing_heavy(module: str) -> None:
    code = f"import sys, {module}; print(' '.join(sorted(m for m in sys.modules if '.' not in m)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    heavy = HEAVY - {"scipy"} if module.endswith("pipeline") else HEAVY
    assert not heavy & set(done.stdout.split())


@pytest.mark.slow
def test_the_wheel_owns_one_name(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation", "--target"]
    subprocess.run([*command, str(tmp_path), str(ROOT)], check=True)
    assert {p.name for p in tmp_path.iterdir() if not p.name.endswith(".dist-info")} <= {"sparring", "bin"}
