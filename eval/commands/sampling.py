"""``sparring benchmark sampling``: what a comparison buys, on every collection with judgements."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import tyro

from ...rerank.commands.options import CommonOptions
from ...rerank.console import log
from ...rerank.data.atomic import atomic_write
from ...rerank.errors import SparringError, UsageError
from ..bench.sampling_study import Setup, Study, check, picture, run_study


@dataclass(frozen=True, kw_only=True)
class Options(CommonOptions):
    """Compare all pairs with the models at hand, bench the schedules on them, and keep a table of each study."""

    studies: tyro.conf.Positional[tuple[Study, ...]] = ()
    """Which ones; all where none is named."""
    data: Path
    """Folder of the collections: trec-dl-2019-pool, vaswani, scifact and pairwise/photo200."""
    output: Path
    """Folder of the results: a Markdown page for each study."""
    models: Path = Path("models")
    """Folder of the trained models: pairwise-late, pointwise-minilm and set-encoder where they exist."""
    work: Path = Path("runs/sampling")
    """Folder of preferences, runs, rows and reports; what is there is not made again."""
    grids: Path = Path("configs/bench")
    """Folder of sampling.yaml and photographs.yaml: schedules, aggregators and budgets."""
    pictures: tuple[str, ...] = ()
    """Benches, such as dl19-50.pairwise-late, whose curves are put beside the pages as NAME.budgets.svg."""
    jobs: int | None = None
    """Processes of each bench."""


class StepError(SparringError):
    """A command of a study failed, and has said why."""

    def __init__(self, error: subprocess.CalledProcessError) -> None:
        super().__init__("a step of the study failed; the same command goes on from there")
        self.exit_code = error.returncode if error.returncode > 0 else 6


def main(options: Options) -> None:
    """Runs the studies, then writes their pages."""
    studies: tuple[Study, ...] = options.studies or get_args(Study)
    targets = [options.output / f"{study}.md" for study in studies]
    targets += [options.output / f"{name}.budgets.svg" for name in options.pictures]
    there = [str(path) for path in targets if path.exists()]
    if there and not options.overwrite:
        raise UsageError(f"{', '.join(there)}: there already; choose another --output or add --overwrite")
    chosen = {"--device": options.device, "--dtype": options.dtype}
    setup = Setup(
        data=options.data,
        models=options.models,
        work=options.work,
        grids=options.grids,
        jobs=options.jobs,
        seed=options.seed,
        quiet=options.quiet,
        scoring=tuple(word for flag, value in chosen.items() if value != "auto" for word in (flag, value)),
    )
    check(studies, setup)
    log.info("studies: %s; work in %s, pages in %s", ", ".join(studies), options.work, options.output)
    if options.dry_run:
        return
    try:
        pages = {study: run_study(study, setup) for study in studies}
    except subprocess.CalledProcessError as error:
        raise StepError(error) from None
    options.output.mkdir(parents=True, exist_ok=True)
    for study, page in pages.items():
        if page:
            with atomic_write(options.output / f"{study}.md") as stream:
                stream.write(page)
    for name in options.pictures:
        if (drawn := picture(name, setup)).is_file():
            shutil.copyfile(drawn, options.output / f"{name}.budgets.svg")
        else:
            log.warning("%s: there is no picture of that bench", drawn)
