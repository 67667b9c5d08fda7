"""What a report says of benches, of one topic's preferences, of throughput and of training."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...rerank import registry
from ...rerank.data.preferences import read_preferences
from ...rerank.errors import InputError, UsageError
from ...rerank.pairs.diagnostics import diagnose
from ...rerank.registry import unknown
from ..bench.rows import read_rows
from ..bench.stored_pairs import stored_matrix
from ..bench.summary import ALL, Line, groups, summarise
from ..bench.tables import full_table, needed_table, published_table, summary_table
from ..speed.results import as_table
from .bench_charts import budget_curves, heat_map, preference_matrix
from .log_charts import rates, training_curves
from .page import Section
from .run_charts import topic_bars


def bench_section(path: Path, first: bool = True) -> Section:
    """Curves, heat map, per-topic differences of the best setting, and all tables of a bench."""
    columns, details = read_rows(path)
    measure, margin = details["measures"][0], details["margin"]
    lines = summarise(columns, measure, margin)
    prefix = "" if first else f"{path.stem}-"
    section = Section(f"Bench: {path.stem}")
    if details["simulation"]:
        section.label("SIMULATION: the preferences come from a simulated judge, not from a model")
    against = "the ranking that all pairs give" if details["reference"] == "all-pairs" else "the qrels"
    section.text(
        f"{measure} against {against}; {details['topics']} topics of up to {details['candidates']} candidates, "
        f"pairs shown in {details['order']} order, means over {len(details['seeds'])} seeds. Intervals and tests "
        "are over topics; tests compare with all pairs and the same aggregator."
    )
    section.picture(budget_curves(lines, measure, margin, f"{prefix}budgets"))
    section.picture(heat_map(lines, measure, f"{prefix}heatmap"))
    section.heading("Smallest budget that equals all pairs")
    section.text("From this budget on, at every larger one too; in brackets the difference there.")
    section.table(f"{prefix}needed", needed_table(lines, margin))
    if picture := _best_topics(lines, columns, measure, f"{prefix}bench-topics"):
        section.picture(picture)
    section.heading("All pairs and baselines")
    section.table(f"{prefix}full", full_table(lines, measure))
    section.heading("Every setting")
    section.text("The Pareto front (no setting is at least as good for fewer comparisons) is starred.")
    section.table(f"{prefix}summary", summary_table(lines, measure, margin))
    section.heading("In the form of Sparse Pairwise Re-ranking (ICTIR 2022)")
    section.text(
        "Smallest budget at which no repetition is significantly worse than all pairs (paired t-test, p < .05, "
        "not corrected; not significant does not mean equal)."
    )
    section.table(f"{prefix}published", published_table(lines))
    section.command("The rows of this bench again:", details["command"])
    return section


def _best_topics(lines: Sequence[Line], columns: dict[str, NDArray[Any]], measure: str, name: str) -> Any:
    """Per-topic differences to all pairs of the setting that is best at a middle budget."""
    budgets = list(dict.fromkeys(line.budget for group in groups(lines).values() for line in group))
    if not budgets:
        return None
    middle = budgets[(len(budgets) - 1) // 2]
    best = max((line for line in lines if line.budget == middle), key=lambda line: line.mean)
    full = next(line for line in lines if line.schedule == ALL and line.aggregator == best.aggregator)
    qids = np.unique(columns["qid"].astype(str)).tolist()
    title = f"{best.name} at {middle} against all pairs"
    return topic_bars(qids, best.values - full.values, measure, title, name)


def matrix_section(path: Path, topic: str | None) -> Section:
    """One topic's outcomes as a picture, and how consistent all of them are."""
    stored = read_preferences(path)
    qid = topic or stored.qids[0]
    if qid not in stored.qids:
        raise UsageError(unknown("topic", qid, stored.qids))
    said = stored.preferences.topic(stored.qids.index(qid))
    scores = registry.aggregators.parse("bradley_terry(mean=0.0)")(said)
    section = Section("Preferences")
    if stored.details.get("simulation"):
        section.label("SIMULATION: these preferences come from a simulated judge, not from a model")
    section.picture(preference_matrix(stored_matrix(said), np.argsort(-scores, kind="stable").tolist(), qid))
    section.lines(str(diagnose(stored.preferences)))
    return section


def speed_section(paths: Sequence[Path]) -> Section:
    """Tables of throughput benchmarks with the machines they ran on."""
    section = Section("Throughput")
    for number, path in enumerate(paths, 1):
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            rows, machine, task = found["rows"], found["machine"], found["task"]
            title = f"{task['model']}, {task['tokens_mean']:.0f} tokens on average, {machine['device']}"
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f"{path}: not a result of sparring benchmark throughput ({error!r})") from None
        section.heading(title)
        section.text("; ".join(f"{name}: {value}" for name, value in machine.items() if value not in (None, "")))
        section.picture(rates(rows, title, f"throughput-{number}"))
        section.table(f"throughput-{number}", as_table(rows))
    return section


def training_section(paths: Sequence[Path]) -> Section:
    """Curves of training logs."""
    section = Section("Training")
    section.picture(training_curves([(path.parent.name or path.stem, read_log(path)) for path in paths]))
    return section


def read_log(path: Path) -> dict[str, NDArray[np.float64]]:
    """Steps, losses and development values of a training_log.csv; ``value_step`` are the steps of the values."""
    try:
        with path.open(encoding="utf-8", newline="") as stream:
            rows = list(csv.DictReader(stream))
        trained = [row for row in rows if row["loss"]]
        valued = [row for row in rows if row["value"]]
        log = {
            name: np.array([float(row[name] or "nan") for row in trained])
            for name in ("step", "loss", "constant_loss")
        }
        log["value_step"] = np.array([float(row["step"]) for row in valued])
        log["value"] = np.array([float(row["value"]) for row in valued])
    except (OSError, KeyError, ValueError) as error:
        raise InputError(f"{path}: not a training log with step, loss and value: {error!r}") from None
    return log
