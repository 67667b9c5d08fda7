"""Pictures of a bench and of one topic's preferences; each takes data and returns a `Picture`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..bench.summary import ALL, Line, groups
from .drawing import DASHES, GRID, INK, MARKERS, MUTED, SERIES, Picture, drawn

Floats = NDArray[np.float64]


def budget_curves(lines: Sequence[Line], measure: str, margin: float, name: str = "budgets") -> Picture:
    """Quality against comparisons, and the difference to all pairs with its interval, a column per aggregator."""
    found = groups(lines)
    schedules = list(dict.fromkeys(schedule for schedule, _ in found))
    aggregators = list(dict.fromkeys(aggregator for _, aggregator in found))

    def draw(plt: Any) -> Any:
        size = (max(3.5 * len(aggregators), 6.4), 6.2)
        figure, axes = plt.subplots(
            2, len(aggregators), figsize=size, sharex=True, sharey="row", squeeze=False, layout="constrained"
        )
        for column, aggregator in enumerate(aggregators):
            top, bottom = axes[0, column], axes[1, column]
            top.set_title(aggregator)
            _references(top, lines, aggregator, last=column == len(aggregators) - 1)
            bottom.axhspan(-margin, margin, color=GRID, alpha=0.6, lw=0)
            bottom.axhline(0, color=MUTED, lw=0.8)
            for number, schedule in enumerate(schedules):
                group = found.get((schedule, aggregator), [])
                if group:
                    _curve(top, bottom, group, number, len(schedules))
            bottom.set_xscale("log")
            ticks = _spread({round(line.cost["comparisons"]) for line in lines if line.sampled})
            bottom.set_xticks(ticks, [str(tick) for tick in ticks], rotation=45, fontsize=7)
            bottom.minorticks_off()
            bottom.set_xlabel("comparisons per topic")
        axes[0, 0].set_ylabel(measure)
        axes[1, 0].set_ylabel("difference to all pairs\n(90 % interval)")
        handles, labels = axes[0, 0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=min(4, len(labels)))
        return figure

    caption = (
        f"{measure} against the number of comparisons per topic. Above, the mean; below, the difference to all "
        "pairs with the same aggregator and its 90 % interval over topics: inside the grey band "
        f"(±{margin:g}) it is equivalent."
    )
    return drawn(name, caption, draw)


def _spread(numbers: set[int], apart: float = 1.35) -> list[int]:
    """Those of the numbers that labels on a logarithmic axis have room for, from the smallest on."""
    kept: list[int] = []
    for number in sorted(numbers):
        if not kept or number >= apart * kept[-1]:
            kept.append(number)
    return kept


def _references(axes: Any, lines: Sequence[Line], aggregator: str, last: bool) -> None:
    named = {"first stage": ":", "pointwise": "-."}
    shown = [(line, named[line.schedule]) for line in lines if line.schedule in named]
    shown += [(line, "--") for line in lines if line.schedule == ALL and line.aggregator == aggregator]
    for line, dashes in shown:
        axes.axhline(line.mean, color=INK, lw=0.9, ls=dashes)
        label = "all pairs" if line.schedule == ALL else line.schedule
        # at the other end: all pairs often lie where the pointwise model lies
        x, side = (0.01, "left") if label == "pointwise" else (0.99, "right")
        axes.annotate(label, (x, line.mean), xycoords=("axes fraction", "data"), va="bottom", ha=side, fontsize=7)


def _curve(top: Any, bottom: Any, group: Sequence[Line], number: int, count: int) -> None:
    colour, marker, dashes = (table[number % len(table)] for table in (SERIES, MARKERS, DASHES))
    x = np.array([line.cost["comparisons"] for line in group])
    looks = {"color": colour, "marker": marker, "ls": dashes}
    top.plot(x, [line.mean for line in group], label=group[0].schedule, **looks)
    beside = x * 1.035 ** (number - (count - 1) / 2)  # side by side on the logarithmic axis
    y = np.array([line.difference for line in group])
    spread = np.abs(np.array([[line.low, line.high] for line in group]).T - y)
    bottom.errorbar(beside, y, yerr=spread, elinewidth=1, capsize=1.5, lw=0.8, **looks)


def heat_map(lines: Sequence[Line], measure: str, name: str = "heatmap") -> Picture:
    """Schedules by aggregators at the smallest, a middle and the largest budget."""
    found = groups(lines)
    schedules = list(dict.fromkeys(schedule for schedule, _ in found))
    aggregators = list(dict.fromkeys(aggregator for _, aggregator in found))
    budgets = list(dict.fromkeys(line.budget for group in found.values() for line in group))
    chosen = [budgets[i] for i in sorted({0, (len(budgets) - 1) // 2, len(budgets) - 1})]
    value = {(line.schedule, line.aggregator, line.budget): line.mean for line in lines if line.sampled}
    low, high = min(value.values()), max(value.values())

    def draw(plt: Any) -> Any:
        width = 1.8 + len(chosen) * max(1.0, 0.62 * len(aggregators))
        height = 1.7 + 0.42 * len(schedules)
        figure, axes = plt.subplots(
            1, len(chosen), figsize=(max(width, 6.4), height), sharey=True, squeeze=False, layout="constrained"
        )
        for panel, budget in zip(axes[0], chosen, strict=True):
            table = np.array([[value.get((s, a, budget), np.nan) for a in aggregators] for s in schedules])
            mesh = panel.pcolormesh(table, cmap="cividis", vmin=low, vmax=high, edgecolors="white", linewidth=1)
            for (row, column), cell in np.ndenumerate(table):
                if np.isfinite(cell):
                    dark = (cell - low) / max(high - low, 1e-9) < 0.55
                    panel.text(
                        column + 0.5, row + 0.5, f"{cell:.3f}".lstrip("0"), ha="center", va="center", fontsize=8,
                        color="#ffffff" if dark else "#101010",
                    )  # fmt: skip
            panel.set_title(f"budget {budget}")
            panel.set_xticks(np.arange(len(aggregators)) + 0.5, aggregators, rotation=35, ha="right")
            panel.set_yticks(np.arange(len(schedules)) + 0.5, schedules)
            panel.grid(visible=False)
            panel.tick_params(length=0)
        axes[0, 0].invert_yaxis()
        figure.colorbar(mesh, ax=axes, label=measure, shrink=0.9)
        return figure

    return drawn(name, f"{measure} of every schedule with every aggregator, at budgets from small to large.", draw)


def preference_matrix(matrix: Floats, order: Sequence[int], qid: str, name: str = "matrix") -> Picture:
    """Every outcome of a topic, best candidate first; flips below the diagonal, cycles above it.

    ``matrix`` holds P(i beats j), i shown first, (n, n); ``order`` are positions, best first.
    """
    placed = matrix[np.ix_(order, order)]
    n = len(placed)
    flips = np.argwhere(np.tril((placed - 0.5) * (placed.T - 0.5) > 0, -1))
    mean = (placed + 1 - placed.T) / 2
    beats = np.nan_to_num(mean, nan=0.5) > 0.5
    through = (beats.astype(np.float64) @ beats) * beats.T  # through[a, b]: c with a > c > b, and b > a
    cycles = through + through.T
    upper = np.triu(cycles, 1)

    def draw(plt: Any) -> Any:
        figure, axes = plt.subplots(figsize=(6.4, 5.6), layout="constrained")
        mesh = axes.pcolormesh(np.ma.masked_invalid(placed), cmap="PuOr_r", vmin=0, vmax=1, rasterized=True)
        sure = np.abs(np.nan_to_num(placed, nan=0.5) - 0.5) > 0.3  # dark cells take white marks
        size = max(1.0, 120.0 / n)
        colours = np.where(sure, "#ffffff", "#101010")
        axes.scatter(flips[:, 1] + 0.5, flips[:, 0] + 0.5, s=size**2 / 2, c=colours[tuple(flips.T)], linewidths=0)
        places = np.argwhere(upper > 0)
        if len(places):
            weight = upper[places[:, 0], places[:, 1]]
            axes.scatter(
                places[:, 1] + 0.5, places[:, 0] + 0.5, s=(size * 1.6) ** 2 * weight / weight.max(),
                facecolors="none", edgecolors=colours[tuple(places.T)].tolist(), linewidths=0.7,
            )  # fmt: skip
        axes.invert_yaxis()
        axes.set_aspect("equal")
        axes.grid(visible=False)
        axes.set_xlabel("second shown, best candidate left")
        axes.set_ylabel("first shown, best candidate on top")
        axes.set_title(f"topic {qid}")
        figure.colorbar(mesh, ax=axes, label="P(row beats column)", shrink=0.85)
        return figure

    pairs, triads = n * (n - 1) // 2, round(float(upper.sum()) / 3)
    caption = (
        f"All outcomes of topic {qid}. Dots below the diagonal: {len(flips)} of {pairs} pairs whose verdict flips "
        f"with the order. Rings above it: pairs in cycles, larger for more; {triads} of "
        f"{n * (n - 1) * (n - 2) // 6} triples are cyclic."
    )
    return drawn(name, caption, draw)
