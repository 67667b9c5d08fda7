"""Somebody else's components: an installed package and a file in the current folder, through the real commands."""

from __future__ import annotations

import importlib
import json
import os
import pickle
import random
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import acme
import pytest
from sparring.rerank import plugins
from sparring.rerank.commands.config import config_flags, config_text, parse
from sparring.rerank.commands.options import CommonOptions
from sparring.rerank.data.runs import read_run
from sparring.rerank.errors import UsageError
from sparring.rerank.models.loading import load, source
from sparring.rerank.plugins import REGISTRIES, import_modules
from sparring.rerank.registry import families
from tiny_commands import write_collection
from tiny_models import save_classifier

CHECKS = """
import sys
from acme_parts import schedules, models, training, measures
from sparring.eval.contracts import check_measure
from sparring.rerank.contracts import check_aggregator, check_family, check_schedule
from sparring.train.contracts import check_loss, check_source

check_schedule(schedules.Chain(step=2))
check_aggregator(schedules.Wins())
check_family(models.OverlapFamily(), sys.argv[1])
check_loss(training.Square(margin=0.5))
check_source(training.MadeUp())
check_measure(measures.First(at=3))
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the distribution acme_parts installed."""
    return acme.install(tmp_path_factory.mktemp("site"), "acme_parts", acme.MODULES, acme.GROUPS)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny collection with a run, qrels and votes; a checkpoint of acme's family and one to train from."""
    folder = write_collection(tmp_path_factory.mktemp("world"))
    save_classifier(folder / "start", "bert")
    save_classifier(folder / "overlap", "bert")
    config = json.loads((folder / "overlap" / "config.json").read_text())
    config.pop("sparring_family", None)
    (folder / "overlap" / "config.json").write_text(json.dumps(config))
    pairs = [(f"d{a}", f"d{b}") for a in range(8) for b in range(8) if a != b]
    rng = random.Random(0)
    votes = "".join(f"{a},{b},{'left' if (a < b) != (rng.random() < 0.1) else 'right'}\n" for a, b in pairs)
    (folder / "votes.csv").write_text("left,right,winner\n" + votes)
    return folder


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """The current folder, from which modules are imported and forgotten again."""
    monkeypatch.chdir(tmp_path)
    path, known, imported = list(sys.path), set(sys.modules), list(plugins._imported)
    yield tmp_path
    sys.path[:], plugins._imported[:] = path, imported
    for name in set(sys.modules) - known:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(tmp_path)):
            del sys.modules[name]


# ---------------------------------------------------------------------------------------- an installed distribution


def test_list_shows_what_an_installed_package_adds(site: Path) -> None:
    kinds = ["models", "schedules", "aggregators", "losses", "sources", "measures"]
    code = f"from sparring.rerank.cli import main; _ = [main(['list', kind]) for kind in {kinds}]"
    path = os.pathsep.join([str(site), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=True,
    )
    for shown in ("acme_overlap(weight=1.0)", "acme_chain(step=1)", "acme_wins", "acme_square(margin=1.0)",
                  "acme_made_up(count=8, ", "acme_first"):  # fmt: skip
        assert f"\n{done.stdout}".count(f"\n{shown}") == 1, shown
    assert done.stderr == ""


def test_a_strangers_components_pass_the_same_checks(site: Path, world: Path) -> None:
    path = os.pathsep.join([str(site), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, "-c", CHECKS, str(world / "overlap")]
    done = subprocess.run(command, env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_rerank_with_an_installed_family_schedule_and_aggregator(site: Path, world: Path, tmp_path: Path) -> None:
    flags = ["--run", str(world / "first.run"), "--dataset", str(world), "--model", str(world / "overlap")]
    flags += [
        "--family",
        "acme_overlap(weight=2.0)",
        "--schedule",
        "acme_chain(step=2)",
        "--aggregator",
        "acme_wins",
    ]
    acme.sparring("rerank", *flags, "--output", "one.run", site=site, folder=tmp_path)
    one = read_run(tmp_path / "one.run")
    assert len(one) == 4 and list(one["q0"][0]) != list(read_run(world / "first.run")["q0"][0])


def test_bench_with_an_installed_schedule_aggregator_and_measure(site: Path, world: Path, tmp_path: Path) -> None:
    flags = ["--preferences", str(world / "votes.csv"), "--reference", "all-pairs", "--output", "rows.parquet"]
    flags += [
        "--schedules",
        "acme_chain",
        "window",
        "--aggregators",
        "acme_wins",
        "--budgets",
        "20%",
        "--jobs",
        "2",
    ]
    flags += ["--measures", "acme_first@3", "nDCG@5", "--seeds", "0"]
    done = acme.sparring("bench", *flags, site=site, folder=tmp_path)
    assert "acme_chain" in done.stdout and "acme_wins" in done.stdout and "acme_first@3" in done.stdout


def test_train_with_an_installed_loss_and_source(site: Path, world: Path, tmp_path: Path) -> None:
    flags = ["--model-name-or-path", str(world / "start"), "--data", "acme_made_up(count=6)", "--max-steps", "2"]
    flags += ["--loss", "acme_square(margin=2.0)", "--output-dir", "out", "--device", "cpu", "--dtype", "float32"]
    acme.sparring("train", *flags, "--list-size", "4", "--max-length", "64", site=site, folder=tmp_path)
    assert "acme_square(margin=2.0)" in (tmp_path / "out" / "README.md").read_text()


BROKEN = {
    "fails": ("x = 1\nraise OSError('no such drive')\n", r"fails 1.2 is left out: fails.parts: .*parts.py:2: OSError: no such drive"),
    "bare": (
        "from sparring.rerank.registry import schedules\n@schedules.register('bare')\nclass Bare:\n    width = 2\n",
        r"bare 1.2 is left out: .* it is no dataclass: .*; it lacks oriented, rounds\(prior, rng\)",
    ),
    "thief": (
        "from sparring.rerank.schedules.windows import Window\nfrom sparring.rerank.registry import schedules\n"
        "from dataclasses import dataclass\n@schedules.register('window')\n@dataclass(frozen=True)\n"
        "class Mine(Window):\n    pass\n",
        r"thief 1.2 is left out: .*'window' is registered twice: by sparring.rerank.schedules.windows.Window "
        r"\(.*windows.py:\d+\) and by thief.parts.Mine \(.*parts.py:\d+\)",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_plugin_gets_one_line_and_harms_nobody(name: str, tmp_path: Path) -> None:
    text, message = BROKEN[name]
    site = acme.install(tmp_path / "site", name, {"parts": text}, {"schedules": "parts"})
    done = acme.sparring("list", "schedules", site=site)
    assert "window(m=5" in done.stdout
    assert re.search(message, done.stderr) and len(done.stderr.splitlines()) == 1, done.stderr


def test_help_reads_no_entry_points() -> None:
    code = (
        "import sys, sparring.rerank.cli as cli; cli.main(['--help']);"
        "sys.exit(any(m in sys.modules for m in ('importlib.metadata', 'sparring.rerank.schedules')))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0


# -------------------------------------------------------------------------------------------- a file of one's own


def test_a_model_is_loaded_elsewhere_with_the_modules_that_were_imported(fresh: Path, world: Path) -> None:
    (fresh / "mine.py").write_text(acme.MODELS.replace("acme_overlap", "acme_elsewhere"))
    code = (
        "import pickle, sys\n"
        f"sys.path.append({str(fresh)!r})\n"
        "model = pickle.load(sys.stdin.buffer).load()\n"
        "assert type(model).__module__ == 'mine' and model.weight == 3.0"
    )
    try:
        import_modules(["mine"])
        made_from = source(load(str(world / "overlap"), family="acme_elsewhere(weight=3.0)"))
    finally:
        families._entries.pop("acme_elsewhere", None)
    done = subprocess.run([sys.executable, "-c", code], input=pickle.dumps(made_from), capture_output=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_a_file_in_the_current_folder_reaches_the_worker_processes(world: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(acme.MODELS)
    (tmp_path / "other.py").write_text(acme.SCHEDULES)
    flags = ["--run", str(world / "first.run"), "--dataset", str(world), "--model", str(world / "overlap")]
    flags += ["--family", "acme_overlap", "--schedule", "acme_chain", "--device", "cpu,cpu"]
    acme.sparring("rerank", "--import", "mine", *flags, "--import=other", "--output", "o.run", folder=tmp_path)
    assert len(read_run(tmp_path / "o.run")) == 4


def test_a_config_names_modules_and_bench_processes_import_them(world: Path, tmp_path: Path) -> None:
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts" / "schedules.py").write_text(acme.SCHEDULES)
    (tmp_path / "parts" / "measures.py").write_text(acme.MEASURES)
    (tmp_path / "bench.yaml").write_text(
        f"import: [parts.schedules, parts.measures]\npreferences: {world}/votes.csv\nreference: all-pairs\n"
        "schedules: [acme_chain, window]\naggregators: [acme_wins]\nbudgets: ['20%']\nmeasures: acme_first@2\n"
        "output: rows.parquet\njobs: 2\nseeds: 0\n"
    )
    done = acme.sparring("bench", "--config", "bench.yaml", folder=tmp_path)
    assert "acme_chain" in done.stdout and "acme_wins" in done.stdout


SCHEDULE = (
    "from dataclasses import dataclass\nfrom sparring.rerank.registry import schedules\n"
    "@schedules.register('{name}')\n@dataclass(frozen=True)\nclass Lonely:\n    'Nobody.'\n    step: int = 1\n"
    "    width = 2\n    oriented = False\n    def rounds(self, prior, rng):\n        yield from ()\n"
)


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("other.py", "", r"--import mine: no module of this name is in .* or installed"),
        ("mina.py", "", r"did you mean 'mina'"),
        ("mine.py", "import nothing_of_this_name\n", r"mine.py:1: ModuleNotFoundError: No module named 'nothing_of"),
        ("mine.py", "x = (\n", r"mine.py:1: SyntaxError"),
        ("mine.py", "import sys\nsys.exit(3)\n", r"ends the program"),
        ("mine.py", "def f():\n    return 1 / 0\nf()\n", r"mine.py:2: ZeroDivisionError: division by zero"),
        ("mine.py", SCHEDULE.format(name="lonely").replace("(self, prior, rng)", "(self)"),
         r"schedule 'lonely' of mine.Lonely \(.*mine.py:3\): it lacks rounds\(prior, rng\) "
         r"\(sparring.rerank.vocabulary.Schedule describes"),
        ("mine.py", SCHEDULE.format(name="lonely").replace("@dataclass(frozen=True)\n", ""), "it is no dataclass"),
        ("mine.py", SCHEDULE.format(name="lonely").replace("(frozen=True)", ""), "it is not frozen"),
        ("mine.py", SCHEDULE.format(name="lo-nely"), "cannot be written as a call"),
        ("mine.py", SCHEDULE.format(name="window"), "registered twice: by sparring.*Window .* and by mine.Lonely"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_module_is_one_line(fresh: Path, file: str, text: str, message: str) -> None:
    (fresh / file).write_text(text)
    with pytest.raises(UsageError, match=message) as error:
        import_modules(["mine"])
    assert "\n" not in str(error.value)
    assert "mine" not in sys.modules


def test_a_files_name_is_no_modules_name(fresh: Path) -> None:
    with pytest.raises(UsageError, match="write a module's name.*--import sub.mine"):
        import_modules(["./sub/mine.py"])


def test_what_is_read_from_here_hides_no_library(fresh: Path) -> None:
    (fresh / "json.py").write_text("raise ValueError\n")
    (fresh / "mine.py").write_text("import json\nimport helper\nassert json.dumps(1) == '1'\n")
    (fresh / "helper.py").write_text("")
    import_modules(["mine"])
    assert plugins.imported()[-1] == "mine"


@pytest.mark.parametrize(
    ("words", "modules"),
    [
        (["--import", "one", "two", "--seed", "3"], ("one", "two")),
        (["--import", "one", "--seed", "3", "--import", "two"], ("one", "two")),
        (["--import=one,two", "--seed=3"], ("one", "two")),
    ],
)
def test_modules_are_named_as_lists_or_one_by_one(fresh: Path, words: list[str], modules: tuple[str, ...]) -> None:
    for name in ("one", "two", "three"):
        (fresh / f"{name}.py").write_text("")
    options = parse(CommonOptions, "sample", words)
    assert options.import_ == modules and options.seed == 3
    (fresh / "c.yaml").write_text(config_text("sample", options))
    assert config_flags(CommonOptions, fresh / "c.yaml") == ["--import", *modules, "--seed=3"]
    (fresh / "none.yaml").write_text("import: []\n")
    assert parse(CommonOptions, "sample", ["--config", "none.yaml"]).import_ == ()
    both = parse(CommonOptions, "sample", ["--config", "c.yaml", "--import", "three"])
    assert both.import_ == (*modules, "three")


def test_import_needs_a_name(fresh: Path) -> None:
    with pytest.raises(UsageError, match="--import needs the name of a module"):
        parse(CommonOptions, "sample", ["--import", "--seed", "3"])


# --------------------------------------------------------------------------------------------------- the one table


def test_every_registry_is_in_the_table_and_where_it_says() -> None:
    for group, place in REGISTRIES.items():
        registry = getattr(importlib.import_module(place.module), place.attribute)
        assert registry.names(), group
        if group != "measures":
            assert registry.kind == place.singular and registry._place == (group, place)
        owner, _, name = place.protocol.rpartition(".")
        described = getattr(importlib.import_module(owner), name)
        for need in place.needs:
            first = need.partition(" or ")[0].partition("(")[0]
            assert first in {*dir(described), *described.__annotations__}, (group, need)
