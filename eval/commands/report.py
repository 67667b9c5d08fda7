"""``sparring report``: what changed between runs, and what a bench found, as one page that opens anywhere."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from ...rerank.commands.options import CommonOptions, DatasetOptions
from ...rerank.console import command, log
from ...rerank.data.atomic import atomic_write, check_output
from ...rerank.data.meta import write_meta
from ...rerank.data.runs import read_run
from ...rerank.errors import MissingResourceError, UsageError
from ..measures.catalogue import DEFAULT_MEASURES, parse_measures
from ..measures.qrels import check_order, read_qrels
from ..report.bench_sections import bench_section, matrix_section, speed_section, training_section
from ..report.drawing import close, pyplot, save
from ..report.page import Section, page, templates
from ..report.run_sections import TOP, NamedRun, changes_section, judged_section


@dataclass(frozen=True, kw_only=True)
class Options(DatasetOptions, CommonOptions):
    """Make one HTML page of runs, benches, preferences, throughput and training logs; PNG and SVG beside it."""

    runs: tyro.conf.Positional[tuple[Path, ...]] = ()
    """TREC runs; the first is what the others are compared with, unless --baseline names another."""
    output: Path
    """HTML file to write; pictures and tables go to a folder of the same name with _files."""
    qrels: Path | None = None
    """Judgements."""
    baseline: Path | None = None
    """The run that the others are compared with."""
    measures: Annotated[tuple[str, ...], tyro.conf.arg(aliases=["-m"])] = DEFAULT_MEASURES
    """Measures of the runs; the pictures show the first."""
    topic: str | None = None
    """Topic of the rank-change and matrix pictures; by default the one that changed most."""
    bench: tuple[Path, ...] = ()
    """Rows of `sparring bench` (.parquet)."""
    preferences: Path | None = None
    """All-pairs preferences of which one topic is drawn as a matrix."""
    throughput: tuple[Path, ...] = ()
    """Results of `sparring benchmark throughput` (.json)."""
    training: tuple[Path, ...] = ()
    """Training logs (training_log.csv, or the folder of a trained model)."""
    title: str = "sparring report"
    """Title of the page."""


def main(options: Options) -> None:
    """Reads everything, draws, writes the page, its pictures and tables."""
    _check(options)
    pyplot()
    templates()
    if options.qrels:
        check_order(options.qrels, _ordered(options), "sparring report {runs} --qrels {qrels}")
    runs = [(path.name, read_run(path)) for path in _ordered(options)]
    qrels = read_qrels(options.qrels) if options.qrels else None
    measures = parse_measures(options.measures)
    if options.dry_run:
        log.info("%d runs, %d benches, %d logs", len(runs), len(options.bench), len(options.training))
        return
    sections: list[Section] = []
    if runs and qrels is not None:
        sections += judged_section(runs, qrels, measures, _evaluate_command(options))
    if len(runs) > 1:
        sections += [changes_section(runs, qrels, _texts(options, runs), options.topic)]
    for path in options.bench:
        sections.append(bench_section(path, first=path == options.bench[0]))
    if options.preferences is not None:
        sections.append(matrix_section(options.preferences, options.topic))
    if options.throughput:
        sections.append(speed_section(options.throughput))
    if options.training:
        sections.append(training_section([_log_file(path) for path in options.training]))
    _write(options, sections)


def _check(options: Options) -> None:
    if options.output.suffix.lower() not in (".html", ".htm"):
        raise UsageError(f"--output {options.output}: the report is a page; give it a name that ends in .html")
    given = (options.runs, options.bench, options.preferences, options.throughput, options.training)
    if not any(given):
        raise UsageError("nothing to report on: give runs, --bench, --preferences, --throughput or --training")
    if len(options.runs) == 1 and options.qrels is None and options.baseline is None:
        raise UsageError("one run alone: give --qrels to score it, or a second run to compare it with")
    absent = [
        str(path)
        for path in (*options.runs, *options.bench, *options.throughput, *options.training)
        if not path.exists()
    ]
    if absent:
        raise MissingResourceError(f"no such file: {', '.join(absent)}")
    check_output(options.output, options.overwrite)


def _ordered(options: Options) -> list[Path]:
    first = [options.baseline] if options.baseline else []
    return list(dict.fromkeys([*first, *options.runs]))


def _texts(options: Options, runs: Sequence[NamedRun]) -> tuple[dict[str, str], dict[str, str]]:
    """Queries by topic and documents by id, of what may be shown; empty without a dataset."""
    if not (options.dataset or options.corpus or options.queries):
        return {}, {}
    dataset = options.open_dataset()
    queries = dataset.queries if options.queries or not options.corpus else {}
    if not dataset.has_documents:
        return queries, {}
    wanted = list(dict.fromkeys(docid for _, run in runs for _, ids, _ in run.top(TOP).items() for docid in ids))
    missing = dataset.documents.missing(wanted)
    found = [docid for docid in wanted if docid not in missing]
    return queries, dict(zip(found, dataset.documents.get_many(found), strict=True))


def _evaluate_command(options: Options) -> str:
    runs = [str(path) for path in _ordered(options)]
    parts = ["sparring", "evaluate", str(options.qrels), *runs, "-m", *options.measures]
    return shlex.join([*parts, *(["--baseline", runs[0]] if len(runs) > 1 else [])])


def _log_file(path: Path) -> Path:
    return path / "training_log.csv" if path.is_dir() else path


def _write(options: Options, sections: Sequence[Section]) -> None:
    closing = Section("How to make this page again")
    closing.command("Every number and picture here is computed from the files that this command names:", command())
    text = page(options.title, "Made by sparring.", [*sections, closing])
    with atomic_write(options.output) as stream:
        stream.write(text)
    folder = options.output.with_name(options.output.stem + "_files")
    folder.mkdir(exist_ok=True)
    for section in sections:
        for picture in section.pictures:
            save(picture, folder)
            close(picture)
        for name, table in section.tables:
            for suffix, form in (("tsv", table.tsv()), ("md", table.markdown()), ("tex", table.latex())):
                with atomic_write(folder / f"{name}.{suffix}") as stream:
                    stream.write(form)
    named = {"qrels": options.qrels, "preferences": options.preferences}
    inputs = {name: path for name, path in named.items() if path is not None}
    many = (*_ordered(options), *options.bench, *options.throughput, *options.training)
    inputs |= {f"input {number}": path for number, path in enumerate(many, 1)}
    write_meta(options.output, "report", inputs, {"sections": [section.title for section in sections]})
    log.info("%s and %s: %d sections", options.output, folder, len(sections))
