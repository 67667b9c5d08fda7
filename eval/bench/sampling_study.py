"""``make bench-sampling``: what a comparison buys, on every collection with judgements.

    python -m sparring.eval.bench.sampling_study [STUDY ...] [--data FOLDER] [--models FOLDER]

Every step is a `sparring` command that is printed before it runs, so that every figure can be computed again by
typing it. Preferences, runs and rows stay in the folder of work: a step whose file is there is not run again, an
interrupted one goes on; remove the folder after training a model anew. Tables, pictures and the commands behind
them go to the folder of results.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import tyro

from ...rerank import console
from ...rerank.data.atomic import atomic_write
from ...rerank.errors import MissingResourceError, SparringError
from ..text_table import Table
from .shell import sparring

Study = Literal["dl19-50", "dl19-100", "vaswani-50", "scifact-50", "photographs", "simulation", "joint-rank"]
CONFIG = Path("configs/bench/sampling.yaml")
TABLES = ("summary", "needed", "full", "bar")
PICTURES = ("budgets",)
"""Kept of the benches of the pair model alone: the pages have all of them, and they are large."""


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


@dataclass(frozen=True, kw_only=True)
class Options:
    """Compare all pairs with the models at hand, bench the schedules on them, and keep tables and pictures."""

    studies: tyro.conf.Positional[tuple[Study, ...]] = ()
    """Which ones; all where none is named."""
    data: Path = Path("../shared/data")
    """Folder of the collections."""
    models: Path = Path("models")
    """Folder of the trained models: pairwise-late, pointwise-minilm and set-encoder where they exist."""
    work: Path = Path("runs/sampling")
    """Folder of preferences, runs and rows."""
    results: Path = Path("eval/results/sampling")
    """Folder of the tables and pictures."""
    jobs: int | None = None
    """Processes of each bench."""


def main(options: Options) -> int:
    """Runs the studies and gathers their bars; returns the exit code of the first command that fails, or 0."""
    options.work.mkdir(parents=True, exist_ok=True)
    options.results.mkdir(parents=True, exist_ok=True)
    try:
        _check(options)
        for study in options.studies or get_args(Study):
            if study in COLLECTIONS:
                _collection(study, COLLECTIONS[study], options)
            else:
                {"photographs": _photographs, "simulation": _simulation, "joint-rank": _joint_rank}[study](options)
        gather(options.results)
    except subprocess.CalledProcessError as error:
        return error.returncode
    except SparringError as error:
        sys.stderr.write(f"sparring: error: {error}\n")
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    return 0


def _check(options: Options) -> None:
    if not options.data.is_dir():
        raise MissingResourceError(f"{options.data}: no such folder of collections; name it by --data")
    for name in ("pairwise-late", "pointwise-minilm", "set-encoder"):
        if not (options.models / name).is_dir():
            console.log.warning("%s is absent: its figures are left out", options.models / name)


def _pointwise(options: Options) -> str:
    """The trained cross-encoder, else the embedded bi-encoder."""
    trained = options.models / "pointwise-minilm"
    return str(trained) if trained.is_dir() else "minilm"


def _candidates(collection: Collection, options: Options) -> tuple[object, ...]:
    folder = options.data / collection.folder
    return ("--run", folder / "runs" / collection.run, "--dataset", folder, "--depth", collection.depth)


def _rerank(study: str, collection: Collection, model: str, options: Options) -> Path:
    """The run of a pointwise model over the candidates."""
    output = options.work / f"{study}.{Path(model).name}.run"
    sparring("rerank", *_candidates(collection, options), "--model", model, output=output)
    return output


def _collection(study: str, collection: Collection, options: Options) -> None:
    """All pairs of both comparators; benches with the first stage and with the pointwise model as prior."""
    pointwise = _pointwise(options)
    scored = _rerank(study, collection, pointwise, options)
    folder = options.data / collection.folder
    first = folder / "runs" / collection.run
    comparators = [pointwise]
    if (options.models / "pairwise-late").is_dir():
        comparators.insert(0, str(options.models / "pairwise-late"))
    for model in comparators:
        name = f"{study}.{Path(model).name}"
        prefs = options.work / f"{name}.prefs.parquet"
        asked = ("--model", model, "--schedule", "all")
        sparring("compare", *_candidates(collection, options), *asked, output=prefs)
        more = ("--qrels", folder / "qrels.txt", "--depth", collection.depth, "--seeds", *range(collection.seeds))
        _bench(name, prefs, ("--config", CONFIG, "--run", first, "--pointwise", scored, *more), options)
        if model != pointwise:
            _bench(f"{name}.after-pointwise", prefs, ("--config", CONFIG, "--run", scored, *more), options)


def _photographs(options: Options) -> None:
    """A complete matrix of crowd votes without judgements: how soon are its top ten and its order found?"""
    prefs = options.data / "pairwise" / "photo200" / "photo200.csv.gz"
    _bench("photographs", prefs, ("--config", "configs/bench/photographs.yaml"), options)


def _simulation(options: Options) -> None:
    """A judge with duoT5's statistics on the judgements of TREC DL 2019, behind BM25 and a better first stage."""
    collection = COLLECTIONS["dl19-50"]
    folder = options.data / collection.folder
    qrels = ("--qrels", folder / "qrels.txt")
    run, more = folder / "runs" / collection.run, (*qrels, "--depth", collection.depth, "--seeds", *range(5))
    for name, first, flags in (
        ("simulation", run, ()),
        ("simulation.better-first-stage", options.work / "simulation.run", ("--first-stage",)),
    ):
        prefs = options.work / f"{name}.prefs.parquet"
        made = ("--depth", collection.depth, "--seed", 19, *flags, *([first] if flags else []), "--overwrite")
        sparring("simulate", "--run", run, *qrels, *made, output=prefs)
        _bench(name, prefs, ("--config", CONFIG, "--run", first, *more), options)


def _joint_rank(options: Options) -> None:
    """A set model on lists of 100 and on 20 blocks of 10 and of 20 (JointRank), beside the pointwise model."""
    model = options.models / "set-encoder"
    if not model.is_dir():
        console.log.warning("joint-rank needs %s: left out", model)
        return
    collection = COLLECTIONS["dl19-100"]
    asked, first = _candidates(collection, options), options.data / collection.folder / "runs" / collection.run
    whole = options.work / "joint-rank.whole.run"
    sparring("rerank", *asked, "--model", model, "--schedule", "whole", output=whole)
    runs = [_rerank("dl19-100", collection, _pointwise(options), options), whole]
    for name, schedule in (("10x2", "blocks(size=10, replicas=2)"), ("20x4", "blocks(size=20, replicas=4)")):
        prefs = options.work / f"joint-rank.{name}.prefs.parquet"
        sparring("compare", *asked, "--model", model, "--schedule", schedule, output=prefs)
        for aggregator in ("bradley_terry", "log_odds", "pagerank"):
            output = options.work / f"joint-rank.{name}.{aggregator}.run"
            ranked = ("--preferences", prefs, "--run", first, "--aggregator", aggregator)
            sparring("aggregate", *ranked, output=output)
            runs.append(output)
    qrels = options.data / collection.folder / "qrels.txt"
    for suffix, form in (("md", "markdown"), ("tsv", "tsv")):
        table = options.work / f"joint-rank.{suffix}"
        shown = ("--baseline", runs[1], "-m", "nDCG@10", "--format", form, "--overwrite")
        sparring("evaluate", qrels, *runs, *shown, "--output", table)
        shutil.copyfile(table, options.results / table.name)


def _bench(name: str, prefs: Path, flags: Sequence[object], options: Options) -> None:
    """Rows, then a page with the pictures; what is small goes to the results."""
    rows, page = options.work / f"{name}.bench.parquet", options.work / f"{name}.html"
    jobs = () if options.jobs is None else ("--jobs", options.jobs)
    sparring("bench", *flags, "--preferences", prefs, *jobs, output=rows)
    sparring("report", "--bench", rows, "--overwrite", "--output", page)
    for table in TABLES:
        for suffix in ("md", "tsv"):
            made = rows.with_suffix(f".{table}.{suffix}")
            if made.is_file():
                shutil.copyfile(made, options.results / f"{name}.{table}.{suffix}")
    for picture in PICTURES if name.endswith("pairwise-late") else ():
        made = page.with_name(f"{page.stem}_files") / f"{picture}.svg"
        shutil.copyfile(made, options.results / f"{name}.{picture}.svg")
    with atomic_write(options.results / f"{name}.json") as stream:
        json.dump(_described(rows), stream, indent=1, default=str)


def _described(rows: Path) -> dict[str, Any]:
    """What a bench was made from, what was found out about the judge, and the command that makes it again."""
    import yaml

    meta = yaml.safe_load(rows.with_name(f"{rows.name}.meta.yaml").read_text(encoding="utf-8"))
    return {"inputs": meta["data"]["inputs"], **meta["method"]}


def gather(results: Path) -> Table:
    """One table of the bars of all benches in the folder, written there as bars.md and bars.tsv, and printed."""
    rows: list[list[str]] = []
    header = ["bench"]
    for path in sorted(results.glob("*.bar.tsv")):
        lines = path.read_text(encoding="utf-8").splitlines()
        header = ["bench", *lines[0].split("\t")]
        rows += [[path.name.removesuffix(".bar.tsv"), *line.split("\t")] for line in lines[1:]]
    table = Table(header, rows, labels=4)
    if rows:
        for suffix, text in (("md", table.markdown()), ("tsv", table.tsv())):
            with atomic_write(results / f"bars.{suffix}") as stream:
                stream.write(text)
        console.out(f"\nThe bar of the field ({results}):\n{table.text()}")
    return table


if __name__ == "__main__":
    console.configure()
    sys.exit(main(tyro.cli(Options, prog="python -m sparring.eval.bench.sampling_study", description=__doc__)))
