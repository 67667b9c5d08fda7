"""``sparring evaluate``: runs against qrels, averaged as TREC does, compared with a baseline and tested."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from ...rerank.commands.options import CommonOptions
from ...rerank.console import log, out
from ...rerank.data.atomic import atomic_write, check_output
from ...rerank.data.meta import write_meta
from ...rerank.data.runs import Run, read_run
from ...rerank.errors import SparringError, UsageError
from ..measures.catalogue import DEFAULT_MEASURES, Measure, parse_measures
from ..measures.evaluation import evaluate
from ..measures.qrels import Qrels, check_order, read_qrels
from ..measures.rendered import render


@dataclass(frozen=True, kw_only=True)
class Options(CommonOptions):
    """Score runs against qrels: averages over all judged topics, optional test against a baseline."""

    qrels: tyro.conf.Positional[Path]
    """Judgements: qid iteration docid grade, plain or gzip."""
    runs: tyro.conf.Positional[tuple[Path, ...]]
    """TREC runs, plain or gzip."""
    measures: Annotated[tuple[str, ...], tyro.conf.arg(aliases=["-m"])] = DEFAULT_MEASURES
    """One or several, as ir-measures or trec_eval writes them: -m nDCG@10 'AP(rel=2)' recall_1000 WSS@95."""
    per_topic: Annotated[bool, tyro.conf.arg(aliases=["-q"])] = False
    """Show every topic, then the average ("all")."""
    baseline: Path | None = None
    """Compare every other run with this one: difference, p-value of a paired test, corrected for the number of
    runs compared on a measure. It may be one of the runs."""
    test: Literal["t", "wilcoxon", "permutation"] = "t"
    """Paired test, two-sided, over topics."""
    correction: Literal["holm", "bh", "none"] = "holm"
    """Holm (family-wise error), Benjamini-Hochberg (false discovery rate) or none."""
    topics: Literal["judged", "run"] = "judged"
    """Average over all judged topics, those missing from a run counting as 0 (as trec_eval -c does), or over those
    that the run has."""
    dedup: Literal["error", "max", "first"] = "error"
    """A document that comes twice in a topic: refuse the run, keep its best score, or its first line."""
    on_error: Literal["stop", "skip"] = "stop"
    """Malformed run lines: refuse the run, or skip and count them."""
    encoding: str = "utf-8"
    """Encoding of the runs."""
    encoding_errors: Literal["strict", "replace"] = "strict"
    """Bytes outside the encoding: refuse the run, or replace them."""
    digits: int = 4
    """Decimals shown (TSV and JSON have all of them)."""
    format: Literal["text", "tsv", "json", "latex", "markdown"] = "text"
    """text, latex and markdown have a row per run; tsv has one per run and measure, with all statistics."""
    output: Path | None = None
    """Write the table here and not to stdout."""


def main(options: Options) -> None:
    """Checks everything first, says all that is wrong at once, then prints or writes the table."""
    if options.output is not None:
        check_output(options.output, options.overwrite)
    if not 0 <= options.digits <= 17:
        raise UsageError(f"--digits must lie between 0 and 17, found {options.digits}")
    if not options.runs:
        raise UsageError("no run given: sparring evaluate QRELS RUN [RUN ...]")
    check_order(options.qrels, options.runs, "sparring evaluate {qrels} {runs}")
    measures, qrels, runs = _read_all(options)
    if qrels.highest > 1 and any(
        str(m).split("@")[0] in ("AP", "RR", "R", "P", "Rprec", "Bpref") for m in measures
    ):
        log.info(
            "grades go up to %d: AP, RR, R and P count from grade 1 on; TREC DL counts from 2, as in 'AP(rel=2)'",
            qrels.highest,
        )
    names = _names([path for path, _ in runs])
    baseline = None if options.baseline is None else names[[path for path, _ in runs].index(options.baseline)]
    if options.dry_run:
        log.info("%d runs, %d judged topics, measures %s", len(runs), len(qrels), ", ".join(map(str, measures)))
        return
    evaluation = evaluate(
        qrels,
        [(name, run) for name, (_, run) in zip(names, runs, strict=True)],
        measures,
        baseline=baseline,
        test=options.test,
        correction=options.correction,
        topics=options.topics,
    )
    if baseline is not None:
        _say_family(options, len(runs) - 1)
    text = render(evaluation, options.format, options.per_topic, options.digits)
    if options.output is None:
        out(text)
        return
    with atomic_write(options.output) as stream:
        stream.write(text)
    inputs = {"qrels": options.qrels} | {f"run {name}": path for name, (path, _) in zip(names, runs, strict=True)}
    write_meta(options.output, "evaluate", inputs, {"measures": [str(measure) for measure in measures]})
    log.info("%s written", options.output)


def _read_all(options: Options) -> tuple[list[Measure], Qrels, list[tuple[Path, Run]]]:
    """Measures, qrels and runs (baseline first, each path once); everything wrong in one error."""
    errors: list[SparringError] = []
    measures: list[Measure] = []
    qrels: Qrels | None = None
    runs: list[tuple[Path, Run]] = []
    try:
        measures = parse_measures(options.measures)
    except SparringError as error:
        errors.append(error)
    try:
        qrels = read_qrels(options.qrels)
    except SparringError as error:
        errors.append(error)
    for path in dict.fromkeys([*([options.baseline] if options.baseline else []), *options.runs]):
        try:
            run = read_run(
                path,
                dedup=options.dedup,
                on_error=options.on_error,
                encoding=options.encoding,
                encoding_errors=options.encoding_errors,
            )
            runs.append((path, run))
        except SparringError as error:
            errors.append(error)
    if errors or qrels is None:
        first = errors[0]
        raise type(first)("\n".join(str(error) for error in errors))
    return measures, qrels, runs


def _names(paths: Sequence[Path]) -> list[str]:
    """File names where they tell the runs apart, else whole paths."""
    names = [path.name for path in paths]
    return names if len(set(names)) == len(names) else [str(path) for path in paths]


def _say_family(options: Options, comparisons: int) -> None:
    tests = {"t": "paired t-test", "wilcoxon": "Wilcoxon signed-rank test", "permutation": "permutation test"}
    corrections = {"holm": "Holm", "bh": "Benjamini-Hochberg"}
    corrected = corrections.get(options.correction)
    how = f"corrected by {corrected} for {comparisons} comparisons per measure" if corrected else "not corrected"
    log.info("p: %s, two-sided, %s; * below 0.05", tests[options.test], how)
