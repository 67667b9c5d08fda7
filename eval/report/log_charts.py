"""Pictures of what was logged: the course of trainings, and the speed of scorers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .drawing import DASHES, MARKERS, MUTED, SERIES, Picture, drawn
from .labels import shortened

Floats = NDArray[np.float64]


def training_curves(logs: Sequence[tuple[str, dict[str, Floats]]], name: str = "training") -> Picture:
    """Loss against steps (with what a constant prediction would have) and the development measure, per log."""

    def draw(plt: Any) -> Any:
        figure, (left, right) = plt.subplots(1, 2, figsize=(9.2, 3.2), layout="constrained")
        for number, (label, log) in enumerate(logs):
            looks = {"color": SERIES[number % len(SERIES)], "ls": DASHES[number % len(DASHES)]}
            left.plot(log["step"], log["loss"], label=label, **looks)
            left.plot(log["step"], log["constant_loss"], color=MUTED, lw=0.8, ls=":")
            right.plot(
                log["value_step"], log["value"], marker=MARKERS[number % len(MARKERS)], label=label, **looks
            )
        left.set_ylabel("loss (dotted: constant prediction)")
        right.set_ylabel("development measure")
        for axes in (left, right):
            axes.set_xlabel("step")
        right.legend()
        return figure

    return drawn(name, "Training loss and development measure by step.", draw)


def rates(rows: Sequence[dict[str, Any]], title: str, name: str) -> Picture:
    """Pairs per second of every system of a throughput benchmark."""

    def draw(plt: Any) -> Any:
        figure, axes = plt.subplots(figsize=(7.6, 0.42 * len(rows) + 1.1), layout="constrained")
        labels = [shortened(f"{row['name']} ({row['settings']})", 50) for row in rows][::-1]
        values = [row["pairs_per_second"] for row in rows][::-1]
        ours = [SERIES[0] if row["name"].startswith("sparring") else MUTED for row in rows][::-1]
        axes.bar_label(axes.barh(labels, values, color=ours, height=0.7), fmt=" {:,.0f}", fontsize=8)
        axes.set_xlabel("pairs per second, tokenisation included")
        axes.set_title(shortened(title, 90))
        axes.grid(axis="y", visible=False)
        axes.margins(x=0.12)
        return figure

    return drawn(name, title, draw)
