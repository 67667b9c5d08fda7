"""An evaluation as text, Markdown, TSV, LaTeX or JSON."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np

from ..text_table import Table
from .catalogue import Measure
from .evaluation import Comparison, Evaluation, Result


def render(evaluation: Evaluation, form: str = "text", per_topic: bool = False, digits: int = 4) -> str:
    """The evaluation as text, tsv, json, latex or markdown."""
    if form == "json":
        return json.dumps(_as_json(evaluation, per_topic), indent=2, ensure_ascii=False) + "\n"
    if form == "tsv":
        return (_topic_table(evaluation, None) if per_topic else _long_table(evaluation)).tsv()
    table = _topic_table(evaluation, digits) if per_topic else render_table(evaluation, digits)
    return {"text": table.text, "latex": table.latex, "markdown": table.markdown}[form]()


def render_table(evaluation: Evaluation, digits: int = 4) -> Table:
    """A row per run; with a baseline, difference and corrected p-value behind every measure."""
    compared = evaluation.baseline is not None
    header = ["run", "topics"]
    for measure in evaluation.measures:
        header += [str(measure), "diff", "p"] if compared else [str(measure)]
    rows = []
    first = evaluation.results[0].average(evaluation.measures, evaluation.topics) if evaluation.results else []
    for result in evaluation.results:
        row = [result.name, _topic_count(result)]
        averages = result.average(evaluation.measures, evaluation.topics)
        for m, (measure, value) in enumerate(zip(evaluation.measures, averages, strict=True)):
            row.append(_number(measure, value, digits))
            if compared and result.comparisons:
                comparison = result.comparisons[m]
                # of the averages shown, to which topics that neither run has add nothing
                judged = evaluation.topics == "judged" and not measure.summed
                difference = value - first[m] if judged else comparison.difference
                row += [f"{difference:+.{digits}f}", _p(comparison.p_corrected)]
            elif compared:
                row += ["", ""]
        rows.append(row)
    return Table(header, rows, best=_best(evaluation, 3 if compared else 1))


def _best(evaluation: Evaluation, step: int) -> frozenset[tuple[int, int]]:
    if len(evaluation.results) < 2:
        return frozenset()
    table = np.array([result.average(evaluation.measures, evaluation.topics) for result in evaluation.results])
    cells = set()
    for m, measure in enumerate(evaluation.measures):
        if not measure.summed:
            top = table[:, m].min() if measure.lower_is_better else table[:, m].max()
            cells |= {(row, 2 + m * step) for row in np.flatnonzero(table[:, m] == top).tolist()}
    return frozenset(cells)


def _topic_table(evaluation: Evaluation, digits: int | None) -> Table:
    """A row per run and topic, then one with the average; ``digits=None`` prints numbers in full."""
    rows: list[list[str]] = []
    rules: set[int] = set()
    for result in evaluation.results:
        rules.add(len(rows))
        for t, qid in enumerate(evaluation.qids):
            if evaluation.topics == "judged" or result.present[t]:
                cells = zip(evaluation.measures, result.values[:, t].tolist(), strict=True)
                rows.append([result.name, qid, *(_number(m, value, digits) for m, value in cells)])
        averages = result.average(evaluation.measures, evaluation.topics)
        cells = zip(evaluation.measures, averages, strict=True)
        rows.append([result.name, "all", *(_number(m, value, digits) for m, value in cells)])
    return Table(["run", "topic", *map(str, evaluation.measures)], rows, labels=2, rules=frozenset(rules - {0}))


def _long_table(evaluation: Evaluation) -> Table:
    """A row per run and measure with every statistic, numbers in full."""
    header = ["run", "measure", "topics", "judged_topics", "value", "over_judged", "over_run"]
    if evaluation.baseline is not None:
        header += ["baseline", "test", "correction", *Comparison.__slots__[1:]]
    rows: list[list[str]] = []
    for record in _records(evaluation):
        comparison = record.pop("comparison", None)
        row = [record[key] for key in header[:7]]
        if comparison is not None:
            row += [evaluation.baseline, evaluation.test, evaluation.correction]
            row += [comparison[key] for key in Comparison.__slots__[1:]]
        rows.append([_plain(cell) for cell in row] + [""] * (len(header) - len(row)))
    return Table(header, rows, labels=2)


def _records(evaluation: Evaluation) -> list[dict[str, Any]]:
    records = []
    for result in evaluation.results:
        every = result.average(evaluation.measures, "judged")
        own = result.average(evaluation.measures, "run")
        for m, measure in enumerate(evaluation.measures):
            record: dict[str, Any] = {
                "run": result.name,
                "tag": result.tag,
                "measure": str(measure),
                "topics": int(result.present.sum()),
                "judged_topics": len(evaluation.qids),
                "value": (every if evaluation.topics == "judged" else own)[m],
                "over_judged": every[m],
                "over_run": own[m],
            }
            if result.comparisons:
                record["comparison"] = {key: getattr(result.comparisons[m], key) for key in Comparison.__slots__}
            records.append(record)
    return records


def _as_json(evaluation: Evaluation, per_topic: bool) -> dict[str, Any]:
    content: dict[str, Any] = {"averaged_over": evaluation.topics, "results": _records(evaluation)}
    if evaluation.baseline is not None:
        content |= {"baseline": evaluation.baseline, "test": evaluation.test, "correction": evaluation.correction}
    if per_topic:
        content["per_topic"] = [
            {"run": result.name, "measure": str(measure), "topic": qid, "value": float(result.values[m, t])}
            for result in evaluation.results
            for m, measure in enumerate(evaluation.measures)
            for t, qid in enumerate(evaluation.qids)
            if evaluation.topics == "judged" or result.present[t]
        ]
    return {key: _without_nan(value) for key, value in content.items()}


def _without_nan(value: Any) -> Any:
    """NaN is not JSON: it becomes null."""
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _topic_count(result: Result) -> str:
    have, judged = int(result.present.sum()), len(result.present)
    return str(have) if have == judged else f"{have}/{judged}"


def _number(measure: Measure, value: float, digits: int | None) -> str:
    if measure.summed and value == int(value):
        return str(int(value))
    return repr(value) if digits is None else f"{value:.{digits}f}"


def _p(value: float) -> str:
    """A p-value in three significant decimals, with a star below 0.05."""
    if math.isnan(value):
        return "-"
    return ("<0.0001" if value < 0.0001 else f"{value:.4f}") + ("*" if value < 0.05 else "")


def _plain(cell: object) -> str:
    return repr(cell) if isinstance(cell, float) else str(cell)
