"""``sparring bench``: how few comparisons give the quality of all of them? Schedules play on stored outcomes."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ...rerank import registry
from ...rerank.commands.options import CommonOptions
from ...rerank.console import command, log, out
from ...rerank.data.atomic import atomic_write, check_output, sha256
from ...rerank.data.meta import write_meta
from ...rerank.data.runs import read_run
from ...rerank.engine.processors import available_cpus
from ...rerank.errors import SparringError, UsageError
from ...rerank.rounds import Order, check_widths
from ...rerank.vocabulary import Schedule
from ..bench.play_setting import DEFAULT, Budget, Job, Setting, baselines, join, play, reference_orders
from ..bench.rows import Parts, play_all, write_rows
from ..bench.stored_pairs import Arena, open_arena
from ..bench.summary import Line, summarise
from ..bench.tables import full_table, needed_table, published_table, summary_table
from ..measures.batched import Judged, Value, parse_value, ranks
from ..measures.qrels import read_qrels

PLAIN, PRIOR = "bradley_terry(mean=0.0)", "bradley_terry"


@dataclass(frozen=True, kw_only=True)
class Options(CommonOptions):
    """Play schedules on stored all-pairs preferences: quality against comparisons, tested against all pairs."""

    preferences: Path
    """All ordered pairs: Parquet of `sparring compare --schedule all`, or CSV/Parquet with left, right, winner."""
    output: Path
    """Rows to write (.parquet), one per topic and setting; the tables are written beside it."""
    run: Path | None = None
    """First-stage run that the candidates came from; its scores are the prior."""
    qrels: Path | None = None
    """Judgements."""
    reference: Literal["qrels", "all-pairs"] = "qrels"
    """Measure against the qrels, or against the ranking that all pairs give (grades k to 1 for its top k)."""
    reference_aggregator: str = PLAIN
    """Aggregator of that ranking."""
    pointwise: Path | None = None
    """Run of a pointwise model over the same candidates, as a baseline."""
    depth: int | None = None
    """Candidates per topic; all of the run where absent."""
    schedules: tuple[str, ...] = ("bayes", "window(skip=7)", "window", "random")
    """Specs of schedules (see: sparring list schedules)."""
    aggregators: tuple[str, ...] = ("log_odds", PRIOR, "greedy")
    """Specs of aggregators (see: sparring list aggregators); default is the schedule's own order where it has one,
    else Bradley-Terry, as in `sparring rerank`."""
    budgets: tuple[str, ...] = ("2%", "4%", "6%", "10%", "20%", "30%")
    """Comparisons per topic: a share of the ordered pairs (4%), a multiple of n (2.5n) or a number (98)."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Repetitions; results are means over them."""
    measures: tuple[str, ...] = ("nDCG@10",)
    """nDCG@k, P@k, RR@k, AP, R@k, Judged@k, with (rel=r), or registered ones; the tables show the first."""
    order: Order = "random"
    """How a pair is shown: in a random order, in both (twice the calls), or as the schedule gives it."""
    k: int = 10
    """The cutoff of the overlap with the all-pairs ranking, and of its grades."""
    margin: float = 0.01
    """Differences within this margin count as none (equivalence test)."""
    pair_tokens: float | None = None
    """Mean tokens of a comparison; read from the meta file of the preferences where that has them."""
    jobs: int | None = None
    """Processes; as many as there are cores, up to 8."""
    format: Literal["text", "markdown", "tsv", "latex"] = "text"
    """Form of the tables on stdout."""
    rows_tsv: bool = False
    """Write the rows as TSV too."""


def main(options: Options) -> None:
    """Checks everything, plays all settings (or those an interrupted bench left), writes rows and tables."""
    _check(options)
    measures = tuple(parse_value(name) for name in options.measures)
    settings = plan(options)
    aggregators = tuple(dict.fromkeys(_spec(name) for name in options.aggregators))
    arena = _open(options)
    sizes = np.array([len(topic) for topic in arena.topics])
    log.info(
        "%d topics, %d candidates; %d schedules x %d aggregators x %d budgets x %d seeds = %d rankings%s",
        len(sizes),
        int(sizes.sum()),
        len(options.schedules),
        len(aggregators),
        len(options.budgets),
        len(options.seeds),
        len(settings) * len(aggregators) * len(sizes),
        "; the outcomes are SIMULATED" if arena.simulated else "",
    )
    log.info("%s", arena.consistency)
    if options.dry_run:
        return
    started = time.perf_counter()
    job = prepare(arena, aggregators, measures, options)
    full = replace(job, aggregators=tuple(dict.fromkeys((*aggregators, PLAIN, PRIOR))), order="given")
    parts = Parts.beside(options.output, _fingerprint(options, aggregators))
    rows = join(
        [
            baselines(job, options.seeds),
            play(Setting("all", None, options.seeds[0]), full),
            play_all(settings, job, parts, options.jobs or min(available_cpus(), 8)),
        ]
    )
    details = _details(options, arena, time.perf_counter() - started)
    write_rows(options.output, rows, details)
    lines = summarise(rows, str(measures[0]), options.margin)
    _write_tables(options, lines, str(measures[0]), details)
    parts.discard()
    log.info("%s: %d rows in %.1f s", options.output, len(rows["qid"]), time.perf_counter() - started)


def prepare(arena: Arena, aggregators: Sequence[str], measures: tuple[Value, ...], options: Options) -> Job:
    """The job of this arena: all-pairs orders of every aggregator; grades from the qrels or from such an order."""
    wanted = dict.fromkeys((*aggregators, PLAIN, PRIOR, _spec(options.reference_aggregator)))
    references = reference_orders(arena, tuple(wanted))
    judged = arena.judged
    if judged is None:
        place = ranks(references[_spec(options.reference_aggregator)])
        grades = np.where(place >= 0, np.maximum(options.k - place, 0), -2)
        judged = Judged.from_topics(list(grades), list(np.maximum(grades, 0)))
    return Job(arena, tuple(aggregators), measures, references, judged, options.order, options.k)


def plan(options: Options) -> list[Setting]:
    """Every schedule at every budget with every seed; all that is wrong with them in one UsageError."""
    problems: list[str] = []
    budgets: list[Budget] = []
    schedules: list[str] = []
    for text in dict.fromkeys(options.budgets):
        try:
            budgets.append(Budget(text))
        except UsageError as error:
            problems.append(str(error))
    for text in options.schedules:
        try:
            schedule: Schedule = registry.schedules.parse(text)
            check_widths(schedule, 2)
            schedules.append(str(schedule))
        except SparringError as error:
            problems.append(str(error))
    for text in (*options.aggregators, options.reference_aggregator):
        try:
            _spec(text)
        except UsageError as error:
            problems.append(str(error))
    if problems:
        raise UsageError("\n".join(problems))
    return [
        Setting(schedule, budget, seed)
        for schedule in dict.fromkeys(schedules)
        for budget in budgets
        for seed in dict.fromkeys(options.seeds)
    ]


def _check(options: Options) -> None:
    if options.output.suffix != ".parquet":
        raise UsageError(f"--output {options.output}: rows are stored as .parquet (add --rows-tsv for TSV)")
    if (options.qrels is None) == (options.reference == "qrels"):
        raise UsageError("give --qrels, or --reference all-pairs without them")
    if options.pointwise is not None and options.run is None:
        raise UsageError("--pointwise needs --run: its documents are the candidates")
    if not (options.seeds and options.budgets and options.schedules and options.aggregators and options.measures):
        raise UsageError("give at least one seed, budget, schedule, aggregator and measure")
    if min(options.seeds) < 0 or options.margin <= 0 or options.k < 1 or (options.jobs or 1) < 1:
        raise UsageError("seeds must be 0 or more, --margin positive, --k and --jobs at least 1")
    check_output(options.output, options.overwrite)


def _spec(text: str) -> str:
    """An aggregator's spec as it prints back."""
    return DEFAULT if text.strip() == DEFAULT else str(registry.aggregators.parse(text))


def _open(options: Options) -> Arena:
    return open_arena(
        options.preferences,
        read_run(options.run) if options.run else None,
        read_qrels(options.qrels) if options.qrels else None,
        options.depth,
        read_run(options.pointwise) if options.pointwise else None,
        options.pair_tokens,
    )


def _inputs(options: Options) -> dict[str, Path]:
    named = {name: getattr(options, name) for name in ("preferences", "run", "qrels", "pointwise")}
    return {name: path for name, path in named.items() if path is not None}


def _fingerprint(options: Options, aggregators: Sequence[str]) -> str:
    """Everything a setting's rows depend on beside the setting: inputs and flags."""
    flags = ("reference", "reference_aggregator", "depth", "measures", "order", "k", "pair_tokens")
    content = [{name: sha256(path) for name, path in _inputs(options).items()}, aggregators]
    content.append([str(getattr(options, flag)) for flag in flags])
    return hashlib.blake2b(json.dumps(content).encode(), digest_size=16).hexdigest()


def _details(options: Options, arena: Arena, seconds: float) -> dict[str, Any]:
    return {
        "command": command(),
        "preferences": str(options.preferences),
        "judge": arena.details,
        "simulation": arena.simulated,
        "diagnostics": asdict(arena.consistency) if arena.consistency else None,
        "reference": options.reference,
        "measures": list(options.measures),
        "margin": options.margin,
        "order": options.order,
        "k": options.k,
        "topics": len(arena.topics),
        "candidates": int(max(len(topic) for topic in arena.topics)),
        "seeds": list(options.seeds),
        "seconds": round(seconds, 2),
    }


def _write_tables(options: Options, lines: Sequence[Line], measure: str, details: dict[str, Any]) -> None:
    tables = {
        "summary": summary_table(lines, measure, options.margin),
        "full": full_table(lines, measure),
        "needed": needed_table(lines, options.margin),
        "published": published_table(lines),
    }
    for name, table in tables.items():
        for suffix, text in (("tsv", table.tsv()), ("md", table.markdown()), ("tex", table.latex())):
            with atomic_write(options.output.with_suffix(f".{name}.{suffix}")) as stream:
                stream.write(text)
    if options.rows_tsv:
        from ..bench.rows import read_rows

        write_rows(options.output.with_suffix(".tsv"), read_rows(options.output)[0], {})
    write_meta(options.output, "bench", _inputs(options), details)
    label = "SIMULATED outcomes. " if details["simulation"] else ""
    reference = "the all-pairs ranking" if options.reference == "all-pairs" else "qrels"
    log.info("%s%s against %s, means over seeds, intervals over topics", label, measure, reference)
    shown = [tables[name] for name in ("summary", "needed")]
    forms = {"text": "text", "markdown": "markdown", "tsv": "tsv", "latex": "latex"}
    out("\n".join(getattr(table, forms[options.format])() for table in shown))
