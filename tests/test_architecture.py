"""The shape of the house: who may import whom, no circles, folders and files of a size that one can read."""

from __future__ import annotations

import ast
import subprocess
import sys
import tempfile
import tomllib
from collections import Counter
from pathlib import Path

import house
import pytest
from places import ROOT

RULES = {
    # rerank. `rerank/*` are all its rooms but cli and commands; whatever is not listed may import the ground alone.
    "rerank/cli": "rerank/commands",  # the parser of flags; the commands themselves are named in strings
    "rerank/commands": "rerank/*",
    "rerank/executors": "rerank/models rerank/engine",
    "rerank/search": "rerank/models rerank/engine rerank/data",
    "rerank/serving": "rerank/pipeline rerank/rounds rerank/data",
    "rerank/ledger": "rerank/data",
    "rerank/models": "rerank/engine rerank/data",
    "rerank/models/attention": "rerank/engine",
    "rerank/models/chat": "rerank/models",
    "rerank/models/families": "",
    "rerank/models/families/encoders": "rerank/models/families rerank/models rerank/models/attention rerank/engine "
    "rerank/data",
    "rerank/models/families/language_models": "rerank/models/families rerank/models rerank/models/attention "
    "rerank/models/chat rerank/engine rerank/data",
    "rerank/models/families/modular": "rerank/models/families rerank/models/families/encoders "
    "rerank/models/families/language_models rerank/models rerank/models/attention rerank/engine rerank/data",
    "rerank/engine": "",
    "rerank/schedules": "rerank/pairs",
    "rerank/aggregators": "rerank/pairs",
    "rerank/pairs": "",
    "rerank/data": "",
    "rerank/data/pydocs": "rerank/data",
    "rerank/pipeline": "rerank/rounds",
    "rerank/rounds": "",
    "rerank/passages": "",
    "rerank/contracts": "rerank/executors rerank/models/families rerank/models",
    "rerank/vocabulary": "",
    "rerank/stats": "",
    "rerank/registry": "",
    "rerank/protocols": "",
    "rerank/plugins": "",
    "rerank/console": "",
    "rerank/errors": "",
    "rerank/arrays": "",
    # eval stands on all of rerank
    "eval/commands": "eval/* rerank/commands rerank/*",
    "eval/report": "eval/speed eval/bench eval/measures eval/text_table rerank/*",
    "eval/speed": "eval/bench eval/measures eval/text_table rerank/*",
    "eval/bench": "eval/measures eval/text_table rerank/*",
    "eval/measures": "eval/text_table rerank/*",
    "eval/text_table": "",
    "eval/contracts": "eval/measures rerank/*",
    # train stands on all of eval and rerank
    "train/commands": "train/* eval/* rerank/commands rerank/*",
    "train/demo": "train/* eval/* rerank/*",
    "train/retrievers": "train/loop train/rankers train/sources train/losses train/data eval/* rerank/*",
    "train/loop": "train/rankers train/sources train/losses train/data eval/* rerank/*",
    "train/probes": "train/rankers train/losses eval/* rerank/*",
    "train/rankers": "train/losses train/data eval/* rerank/*",
    "train/sources": "train/losses train/data eval/* rerank/*",
    "train/contracts": "train/losses train/data eval/* rerank/*",
    "train/losses": "eval/* rerank/*",
    "train/data": "eval/* rerank/*",
}
"""Who may import whom: a room, and the rooms that it may import besides the ground (see `house.GROUND`)."""
APART = ("rerank/cli", "rerank/commands", "eval/commands", "train/commands", "train/demo")
"""What `rerank/*`, `eval/*` and `train/*` leave out: the rooms that people call."""

MOST_FILES = 16
MOST_LINES = 350

HOUSE = house.read(ROOT)
TESTS = sorted((ROOT / "tests").rglob("*.py"))


def allowed(room: str) -> set[str]:
    """The rooms that a room may import, `rerank/*` and the like written out."""
    named = set(house.GROUND)
    for word in RULES[room].split():
        tree = word.removesuffix("*")
        named |= (
            {other for other in RULES if other.startswith(tree) and other not in APART} if "*" in word else {word}
        )
    return named


def forbidden(found: house.House) -> list[str]:
    """Every import that the rules forbid, where it stands, and the rule."""
    return [
        f"{where.source}:{where.line} imports {where.target}: {source} may import {RULES[source] or 'the ground only'}"
        for (source, target), places in sorted(found.arrows.items())
        if source in RULES and target not in allowed(source)
        for where in places
    ]


def test_rooms_import_only_what_the_rules_allow() -> None:
    broken = forbidden(HOUSE)
    assert not broken, "\n".join(broken)


def test_the_rules_name_every_room_and_no_other() -> None:
    named = set(RULES) | {word for rule in RULES.values() for word in rule.split() if "*" not in word} | set(APART)
    rooms = set(HOUSE.rooms())
    assert named - rooms == set(), "these rooms are in the rules only"
    assert rooms - set(RULES) == set(), "these rooms have no rule"


def test_no_room_and_no_file_lies_on_a_circle() -> None:
    found = [*HOUSE.circles_of_rooms(), *HOUSE.circles_of_files()]
    assert not found, "\n".join(" -> ".join(circle) for circle in found)


def test_folders_and_files_can_be_read() -> None:
    folders = Counter(HOUSE.folders()) + Counter(str(path.parent.relative_to(ROOT)) for path in TESTS)
    assert {name: count for name, count in folders.items() if count > MOST_FILES} == {}
    paths = [*(ROOT / path for path in HOUSE.files), *TESTS]
    lines = {str(path.relative_to(ROOT)): len(path.read_text("utf-8").splitlines()) for path in paths}
    assert {name: count for name, count in lines.items() if count > MOST_LINES} == {}


# what the checks above say of a house that is built wrong


@pytest.fixture
def hut(tmp_path: Path) -> Path:
    """A house of four files that imports in every way there is, and breaks no rule."""
    files = {
        "rerank/pairs/table.py": "",
        "rerank/errors.py": "",
        "rerank/aggregators/one.py": "from ..pairs.table import Table\nfrom .. import errors\n",
        "rerank/schedules/two.py": "def f():\n    import sparring.rerank.pairs.table\n",
        "eval/measures/three.py": "from ...rerank.pairs import table\n",
        "train/data/four.py": "from sparring.eval.measures import three\n",
    }
    for name, text in files.items():
        write(tmp_path, name, text)
    return tmp_path


def write(root: Path, name: str, text: str) -> None:
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_text(text)


def test_the_hut_keeps_the_rules(hut: Path) -> None:
    found = house.read(hut)
    pairs, measures = "rerank/pairs", "eval/measures"
    assert set(found.arrows) == {
        *((room, pairs) for room in ("rerank/aggregators", "rerank/schedules", measures)),
        ("rerank/aggregators", "rerank/errors"),
        ("train/data", measures),
    }
    assert not forbidden(found) and not found.circles_of_rooms() and not found.circles_of_files()


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("rerank/pairs/x.py", "\nfrom ...eval.measures import three\n", "rerank/pairs/x.py:2 imports eval/measures/three.py: rerank/pairs may import the ground only"),
        ("rerank/pairs/x.py", "def f():\n    from ..aggregators.one import Table\n", "rerank/pairs/x.py:2 imports rerank/aggregators/one.py"),
        ("rerank/errors.py", "from .pairs.table import x\n", "rerank/errors.py:1 imports rerank/pairs/table.py"),
        ("eval/measures/x.py", "import sparring.train.data.four\n", "eval/measures/x.py:1 imports train/data/four.py"),
        ("rerank/pairs/x.py", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from ..schedules.two import f\n", "rerank/pairs/x.py:3 imports rerank/schedules/two.py"),
        ("train/data/x.py", "from ...rerank.commands.job import Job\n", "train/data/x.py:1 imports rerank/commands/job.py"),
    ],
)  # fmt: skip
def test_a_forbidden_import_is_named_with_its_line_and_rule(hut: Path, name: str, text: str, said: str) -> None:
    write(hut, "rerank/commands/job.py", "")
    write(hut, name, text)
    (broken,) = forbidden(house.read(hut))
    assert broken.startswith(said)


def test_circles_are_shown_as_paths(hut: Path) -> None:
    write(hut, "rerank/pairs/table.py", "def f():\n    from ..aggregators import one\n")
    found = house.read(hut)
    assert found.circles_of_rooms() == [["rerank/aggregators", "rerank/pairs", "rerank/aggregators"]]
    assert found.circles_of_files() == []  # the import inside a function comes later
    write(hut, "rerank/pairs/table.py", "from .more import x\n")
    write(hut, "rerank/pairs/more.py", "try:\n    from .table import y\nexcept ImportError:\n    pass\n")
    found = house.read(hut)
    assert found.circles_of_files() == [["rerank/pairs/more.py", "rerank/pairs/table.py", "rerank/pairs/more.py"]]
    assert found.circles_of_rooms() == []


# the sources


@pytest.mark.parametrize("path", HOUSE.files, ids=str)
def test_inner_imports_are_relative(path: Path) -> None:
    nodes = [node for node, _ in house.imports_in(ast.parse((ROOT / path).read_text("utf-8")))]
    names = [
        (node.lineno, name)
        for node in nodes
        for name in ([node.module or ""] if isinstance(node, ast.ImportFrom) else [a.name for a in node.names])
    ]
    absolute = [f"{path}:{line}" for line, name in names if name.split(".")[0] == "sparring"]
    assert not absolute, f"write {absolute} as relative imports"


def test_no_shipped_file_names_a_folder_outside_the_project() -> None:
    shipped = [path for tree in house.TREES for path in (ROOT / tree).rglob("*") if path.suffix in (".py", ".tsv")]
    strings = {
        f"{path.relative_to(ROOT)}:{number}"
        for path in shipped
        for number, line in enumerate(path.read_text("utf-8").splitlines(), 1)
        if "../shared" in line or (path.suffix == ".py" and "shared/data" in line)
    }
    assert not strings


def test_packages_list_is_the_tree() -> None:
    config = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["setuptools"]
    tree = {"sparring." + ".".join(path.parent.parts) for path in HOUSE.files if path.name == "__init__.py"}
    folders = {"sparring." + ".".join(path.parent.parts) for path in HOUSE.files}
    assert folders == tree, "a folder without __init__.py is not shipped"
    assert set(config["packages"]) == tree == set(config["package-dir"])
    assert {name.replace(".", "/") for name in tree} == {
        f"sparring/{place}" for place in config["package-dir"].values()
    }


# the tests


def test_no_test_module_imports_another() -> None:
    names = {path.stem for path in TESTS if path.name.startswith("test_")} | {"conftest"}
    found = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in TESTS
        for node, _ in house.imports_in(ast.parse(path.read_text("utf-8")))
        for name in ([node.module or ""] if isinstance(node, ast.ImportFrom) else [a.name for a in node.names])
        if names & {*name.split("."), *(alias.name for alias in node.names)}
    ]
    assert not found


def test_names_of_test_modules_are_their_own() -> None:
    """All lie on one path: two of a name, or a helper named like the standard library's, would hide one another."""
    stems = Counter(path.stem for path in TESTS if path.name != "conftest.py")
    assert [name for name, count in stems.items() if count > 1] == []
    assert set(stems) & sys.stdlib_module_names == set()


def test_tests_lie_where_their_code_lies() -> None:
    folders = {path.parent.relative_to(ROOT / "tests") for path in TESTS if path.name.startswith("test_")}
    assert {str(folder) for folder in folders if not (ROOT / folder).is_dir()} == set()


def test_the_suite_and_its_children_are_away_from_home() -> None:
    names = ("XDG_CACHE_HOME", "HF_HOME", "MPLCONFIGDIR")
    code = f"import os, pathlib; print(pathlib.Path.home(), *(os.environ[name] for name in {names}), sep='\\n')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    home, *caches = map(Path, done.stdout.split("\n")[:-1])
    assert home.is_relative_to(tempfile.gettempdir()) and len(caches) == len(names)
    assert all(folder.is_relative_to(home) for folder in caches)


# the wheel


@pytest.mark.slow
def test_the_wheel_owns_one_name(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation", "--target"]
    subprocess.run([*command, str(tmp_path), str(ROOT)], check=True)
    assert {path.name for path in tmp_path.iterdir() if not path.name.endswith(".dist-info")} == {
        "sparring",
        "bin",
    }
    shipped = {str(path.relative_to(tmp_path / "sparring")) for path in (tmp_path / "sparring").rglob("*.py")}
    assert shipped == {str(path) for path in HOUSE.files}
