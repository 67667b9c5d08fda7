"""What a throughput benchmark found: rows, bars, a table and a plot."""

from __future__ import annotations

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

BARS = {
    ("cpu", "minilm"): {"times_default": 4.0, "times_best": 1.8, "share_of_gemm": 0.78},
    ("cuda", "minilm"): {"times_default": 8.0, "times_best": 2.5},
    ("cuda", "bert-base"): {"times_best": 2.0, "share_of_gemm": 0.40},
}
NDCG_BAR = 0.001


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


def bars(rows: Sequence[Row], gemm: dict[str, dict[str, float]], device: str, size: str) -> dict[str, Any]:
    """What the engine is held to on this kind of device, and whether it is met."""
    default, best = rows[0], rows[1]
    ours = next(row for row in rows if row.name == "sparring" and row.settings == _ours_auto(rows))
    peak = gemm[ours.settings.split(",")[0]]
    found = {
        "times_default": ours.pairs_per_second / default.pairs_per_second,
        "times_best": ours.pairs_per_second / best.pairs_per_second,
        "share_of_gemm": ours.gflops / peak["best" if device == "cuda" else "model_shapes"],
    }
    result: dict[str, Any] = {
        name: {"value": round(float(value), 3), "bar": bar, "met": None if bar is None else bool(value >= bar)}
        for name, value in found.items()
        for bar in [BARS.get((device, size), {}).get(name)]
    }
    if ours.ndcg is not None and default.ndcg is not None:
        loss = float(abs(ours.ndcg - default.ndcg))
        result["ndcg_difference"] = {"value": round(loss, 5), "bar": NDCG_BAR, "met": loss <= NDCG_BAR}
    return result


def _ours_auto(rows: Sequence[Row]) -> str:
    return next(row.settings for row in rows if row.name == "sparring with ledger")


def bars_text(found: dict[str, Any]) -> str:
    """One line per bar."""
    return "".join(
        f"{name.replace('_', ' ')}: {entry['value']:g}"
        + ("" if entry["bar"] is None else f" (bar {entry['bar']:g}: {'met' if entry['met'] else 'not met'})")
        + "\n"
        for name, entry in found.items()
    )


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
