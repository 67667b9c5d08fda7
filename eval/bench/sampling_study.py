"""What a comparison buys, on collections with judgements: the steps of every study.

Every step is a `sparring` command that is printed before it runs, so that every figure can be computed again by
typing it. Preferences, runs, rows and pages stay in the folder of work: a step whose file is there is not run
again, an interrupted one goes on; remove the folder after training a model anew.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ...rerank import console
from ...rerank.errors import MissingResourceError
from .rows import read_rows
from .shell import sparring
from .study_page import Bench, study_page
from .summary import summarise

Study = Literal["dl19-50", "dl19-100", "vaswani-50", "scifact-50", "photographs", "simulation", "joint-rank"]
PHOTOGRAPHS = Path("pairwise/photo200/photo200.csv.gz")


@dataclass(frozen=True, slots=True)
class Collection:
    """Candidates with judgements: the first ``depth`` of a run; ``seeds`` repetitions of every setting."""

    folder: str
    run: str
    depth: int
    seeds: int


COLLECTIONS = {
    "dl19-50": Collection("trec-dl-2019-pool", "bm25.txt", 50, 5),
    "dl19-100": Collection("trec-dl-2019-pool", "bm25.txt", 100, 3),
    "vaswani-50": Collection("vaswani", "bm25-local.txt", 50, 3),
    "scifact-50": Collection("scifact", "bm25-local.txt", 50, 1),
}
OF_STUDY = COLLECTIONS | {"simulation": COLLECTIONS["dl19-50"], "joint-rank": COLLECTIONS["dl19-100"]}


@dataclass(frozen=True, kw_only=True)
class Setup:
    """Where everything is, and flags of the steps: ``scoring`` of those that load a model."""

    data: Path
    models: Path
    work: Path
    grids: Path
    jobs: int | None = None
    seed: int = 0
    quiet: bool = False
    scoring: tuple[str, ...] = ()

    def step(self, *words: object, output: Path) -> None:
        """Runs a command, unless its output is there."""
        sparring(*words, *(("--quiet",) if self.quiet else ()), output=output)

    def score(self, *words: object, output: Path) -> None:
        """Runs a command that loads a model, unless its output is there."""
        self.step(*words, *self.scoring, output=output)

    def candidates(self, collection: Collection) -> tuple[object, ...]:
        """Flags of the candidates."""
        folder = self.data / collection.folder
        return ("--run", folder / "runs" / collection.run, "--dataset", folder, "--depth", collection.depth)

    def pointwise(self) -> str:
        """The trained cross-encoder, else the embedded bi-encoder."""
        trained = self.models / "pointwise-minilm"
        return str(trained) if trained.is_dir() else "minilm"


def check(studies: Sequence[Study], setup: Setup) -> None:
    """Names all collections that are missing at once, and says which models are."""
    if not setup.data.is_dir():
        raise MissingResourceError(f"{setup.data}: no such folder of collections; name it by --data")
    wanted = [setup.data / OF_STUDY[study].folder for study in studies if study in OF_STUDY]
    wanted += [setup.data / PHOTOGRAPHS] if "photographs" in studies else []
    wanted += [setup.grids / f"{name}.yaml" for name in dict.fromkeys(map(_grid, studies)) if name]
    if missing := [str(path) for path in dict.fromkeys(wanted) if not path.exists()]:
        raise MissingResourceError(
            f"{', '.join(missing)}: not there; name the folder of the collections by --data and that of the "
            "benches' flags by --grids, or choose other studies"
        )
    for name in ("pairwise-late", "pointwise-minilm", "set-encoder"):
        if not (setup.models / name).is_dir():
            console.log.warning("%s is absent: its figures are left out", setup.models / name)


def _grid(study: Study) -> str:
    return {"photographs": "photographs", "joint-rank": ""}.get(study, "sampling")


def run_study(study: Study, setup: Setup) -> str:
    """Runs what is not there yet; returns the study's page, empty where the model that it needs is absent."""
    setup.work.mkdir(parents=True, exist_ok=True)
    if study == "joint-rank":
        return _joint_rank(setup)
    if study in COLLECTIONS:
        benches = _collection(study, COLLECTIONS[study], setup)
    else:
        benches = {"photographs": _photographs, "simulation": _simulation}[study](setup)
    return study_page(study, [_opened(judge, rows) for judge, rows in benches.items()])


def _opened(judge: str, rows: Path) -> Bench:
    columns, details = read_rows(rows)
    return Bench(judge, summarise(columns, details["measures"][0], details["margin"]), details)


def _collection(study: str, collection: Collection, setup: Setup) -> dict[str, Path]:
    """All pairs of both comparators; benches with the first stage and with the pointwise model as prior."""
    pointwise = setup.pointwise()
    scored = _rerank(study, collection, pointwise, setup)
    folder = setup.data / collection.folder
    first = folder / "runs" / collection.run
    comparators = [pointwise]
    if (setup.models / "pairwise-late").is_dir():
        comparators.insert(0, str(setup.models / "pairwise-late"))
    seeds = ("--seeds", *range(setup.seed, setup.seed + collection.seeds))
    more = ("--qrels", folder / "qrels.txt", "--depth", collection.depth, *seeds)
    benches = {}
    for model in comparators:
        judge = Path(model).name
        name = f"{study}.{judge}"
        prefs = setup.work / f"{name}.prefs.parquet"
        asked = ("--model", model, "--schedule", "all")
        setup.score("compare", *setup.candidates(collection), *asked, output=prefs)
        benches[judge] = _bench(name, prefs, ("--run", first, "--pointwise", scored, *more), setup)
        if model != pointwise:
            after = f"{judge} after {Path(pointwise).name}"
            benches[after] = _bench(f"{name}.after-pointwise", prefs, ("--run", scored, *more), setup)
    return benches


def _rerank(study: str, collection: Collection, model: str, setup: Setup) -> Path:
    """The run of a pointwise model over the candidates."""
    output = setup.work / f"{study}.{Path(model).name}.run"
    setup.score("rerank", *setup.candidates(collection), "--model", model, output=output)
    return output


def _photographs(setup: Setup) -> dict[str, Path]:
    """A complete matrix of crowd votes without judgements: how soon are its top ten and its order found?"""
    return {"votes": _bench("photographs", setup.data / PHOTOGRAPHS, (), setup, grid="photographs")}


def _simulation(setup: Setup) -> dict[str, Path]:
    """A judge with duoT5's statistics on the judgements of TREC DL 2019, behind BM25 and a better first stage."""
    collection = COLLECTIONS["dl19-50"]
    folder = setup.data / collection.folder
    qrels, run = ("--qrels", folder / "qrels.txt"), folder / "runs" / collection.run
    more = (*qrels, "--depth", collection.depth, "--seeds", *range(setup.seed, setup.seed + collection.seeds))
    made = setup.work / "simulation.run"
    benches = {}
    for judge, name, first, flags in (
        ("simulated", "simulation", run, ()),
        ("simulated, better first stage", "simulation.better-first-stage", made, ("--first-stage", made)),
    ):
        prefs = setup.work / f"{name}.prefs.parquet"
        asked = ("--depth", collection.depth, "--seed", 19 + setup.seed, *flags, "--overwrite")
        setup.step("simulate", "--run", run, *qrels, *asked, output=prefs)
        benches[judge] = _bench(name, prefs, ("--run", first, *more), setup)
    return benches


def _joint_rank(setup: Setup) -> str:
    """A set model on lists of 100 and on 20 blocks of 10 and of 20 (JointRank), beside the pointwise model."""
    model = setup.models / "set-encoder"
    if not model.is_dir():
        console.log.warning("joint-rank needs %s: left out", model)
        return ""
    collection = OF_STUDY["joint-rank"]
    asked, first = setup.candidates(collection), setup.data / collection.folder / "runs" / collection.run
    whole = setup.work / "joint-rank.whole.run"
    setup.score("rerank", *asked, "--model", model, "--schedule", "whole", output=whole)
    runs = [_rerank("dl19-100", collection, setup.pointwise(), setup), whole]
    for name, schedule in (("10x2", "blocks(size=10, replicas=2)"), ("20x4", "blocks(size=20, replicas=4)")):
        prefs = setup.work / f"joint-rank.{name}.prefs.parquet"
        setup.score("compare", *asked, "--model", model, "--schedule", schedule, output=prefs)
        for aggregator in ("bradley_terry", "log_odds", "pagerank"):
            output = setup.work / f"joint-rank.{name}.{aggregator}.run"
            ranked = ("--preferences", prefs, "--run", first, "--aggregator", aggregator)
            setup.step("aggregate", *ranked, output=output)
            runs.append(output)
    table = setup.work / "joint-rank.md"
    shown = ("--baseline", whole, "-m", "nDCG@10", "--format", "markdown", "--overwrite")
    setup.step("evaluate", setup.data / collection.folder / "qrels.txt", *runs, *shown, output=table)
    return (
        "# joint-rank\n\nBM25 top 100 of TREC DL 2019; differences are to the whole list at once. Made by "
        f"`sparring benchmark sampling joint-rank`.\n\n{table.read_text(encoding='utf-8')}"
    )


def _bench(name: str, prefs: Path, flags: Sequence[object], setup: Setup, grid: str = "sampling") -> Path:
    """The rows of a bench, and a report with its pictures beside them; returns the path of the rows."""
    rows, page = setup.work / f"{name}.bench.parquet", setup.work / f"{name}.html"
    jobs = () if setup.jobs is None else ("--jobs", setup.jobs)
    config = ("--config", setup.grids / f"{grid}.yaml")
    setup.step("bench", *config, *flags, "--preferences", prefs, *jobs, output=rows)
    setup.step("report", "--bench", rows, "--overwrite", output=page)
    return rows


def picture(name: str, setup: Setup) -> Path:
    """The drawing of a bench, quality against budget, that its report left in the folder of work."""
    return setup.work / f"{name}_files" / "budgets.svg"
