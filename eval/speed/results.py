"""What a benchmark found: rows, ratios, a table, a plot, and the JSON file of everything."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...rerank.console import log
from ...rerank.data.atomic import atomic_write
from ..text_table import Table
from .contenders import Contender, Timing
from .inputs import Pairs


@dataclass(frozen=True, slots=True)
class Row:
    """The result of one contender; rates are medians, ``max_difference`` and ``tau`` against fp32.

    ``gflops`` is the rate of the forward passes alone where they were timed alone, else of the whole.
    """

    name: str
    settings: str
    pairs_per_second: float
    pairs_per_second_tokenised: float | None
    tokens_per_second: float
    gflops: float
    max_difference: float
    tau: float
    ndcg: float | None
    seconds: list[float]


def summary(
    contender: Contender,
    timings: Sequence[Timing],
    pairs: Pairs,
    tokens: int,
    flops: float,
    reference: NDArray[np.float64],
) -> Row:
    """Medians of a contender's repetitions, and how its scores differ from the reference."""
    seconds = float(np.median([timing.seconds for timing in timings]))
    forwards = [timing.forward_seconds for timing in timings if timing.forward_seconds is not None]
    scores = timings[-1].scores
    return Row(
        name=contender.name,
        settings=contender.settings,
        pairs_per_second=round(len(pairs) / seconds, 2),
        pairs_per_second_tokenised=round(len(pairs) / float(np.median(forwards)), 2) if forwards else None,
        tokens_per_second=round(tokens / seconds, 1),
        gflops=round(flops / (float(np.median(forwards)) if forwards else seconds) / 1e9, 1),
        max_difference=float(np.abs(scores - reference).max()),
        tau=round(mean_tau(pairs.split(scores), pairs.split(reference)), 6),
        ndcg=pairs.ndcg(scores),
        seconds=[round(timing.seconds, 4) for timing in timings],
    )


def mean_tau(scores: Sequence[NDArray[np.float64]], reference: Sequence[NDArray[np.float64]]) -> float:
    """Kendall's tau-b of every topic, averaged."""
    from scipy.stats import kendalltau

    taus = [kendalltau(a, b).statistic for a, b in zip(scores, reference, strict=True) if len(a) > 1]
    return float(np.mean(taus))


def ratios(rows: Sequence[Row], gemm: dict[str, dict[str, float]], device: str) -> dict[str, float]:
    """The engine at the device's best precision against both settings of sentence-transformers.

    ``share_of_gemm`` is its part of the measured rate of matrix products, ``ndcg_difference`` what its nDCG@10
    differs from that of fp32, where there are judgements.
    """
    default, best = rows[0], rows[1]
    ours = next(row for row in rows if row.name == "sparring" and row.settings == _ours_auto(rows))
    peak = gemm[ours.settings.split(",")[0]]
    found = {
        "times_default": ours.pairs_per_second / default.pairs_per_second,
        "times_best": ours.pairs_per_second / best.pairs_per_second,
        "share_of_gemm": ours.gflops / peak["best" if device == "cuda" else "model_shapes"],
    }
    rounded = {name: round(float(value), 3) for name, value in found.items()}
    if ours.ndcg is not None and default.ndcg is not None:
        rounded["ndcg_difference"] = round(float(abs(ours.ndcg - default.ndcg)), 5)
    return rounded


def _ours_auto(rows: Sequence[Row]) -> str:
    return next(row.settings for row in rows if row.name == "sparring with ledger")


def ratios_text(found: dict[str, float]) -> str:
    """One line per ratio."""
    return "".join(f"{name.replace('_', ' ')}: {value:g}\n" for name, value in found.items())


def write_json(path: Path, report: dict[str, Any]) -> None:
    """Writes all that a benchmark found."""
    with atomic_write(path) as stream:
        json.dump(report, stream, indent=1, default=str)
        stream.write("\n")


def as_table(rows: Sequence[dict[str, Any]]) -> Table:
    """Rows in the order measured; rates in pairs per second, from texts and from token ids."""
    header = ("system", "setting", "pairs/s", "from ids", "tokens/s", "GFLOP/s", "max diff", "tau", "nDCG@10")
    cells = [
        (
            row["name"],
            row["settings"],
            f"{row['pairs_per_second']:,.1f}",
            f"{row['pairs_per_second_tokenised']:,.1f}" if row["pairs_per_second_tokenised"] else "",
            f"{row['tokens_per_second']:,.0f}",
            f"{row['gflops']:,.0f}",
            f"{row['max_difference']:.1e}",
            f"{row['tau']:.4f}",
            f"{row['ndcg']:.4f}" if row["ndcg"] is not None else "",
        )
        for row in rows
    ]
    return Table(header, cells, labels=2)


def plot(report: dict[str, Any], target: Path) -> None:
    """A bar chart of pairs per second; says so where matplotlib is not installed."""
    try:
        import matplotlib as mpl
    except ImportError:
        log.warning("no plot: pip install 'sparring[report]'")
        return
    mpl.use("Agg")
    from matplotlib import pyplot

    rows = report["rows"][::-1]
    labels = [f"{row['name']}\n{row['settings']}" for row in rows]
    rates = [row["pairs_per_second"] for row in rows]
    colours = ["#1b6ca8" if row["name"].startswith("sparring") else "#b0b0b0" for row in rows]
    figure, axes = pyplot.subplots(figsize=(8, 0.7 * len(rows) + 1.2), layout="constrained")
    axes.bar_label(axes.barh(labels, rates, color=colours), fmt=" {:,.0f}")
    axes.set_xlabel("pairs per second, tokenisation included")
    task = report["task"]
    axes.set_title(
        f"{task['model']}, {task['tokens_mean']:.0f} tokens on average, {report['machine']['device']}", fontsize=10
    )
    axes.spines[["top", "right"]].set_visible(False)
    with atomic_write(target, "wb") as stream:
        figure.savefig(stream, format="svg", metadata={"Date": None})
    pyplot.close(figure)
