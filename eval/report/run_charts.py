"""Pictures of runs: topics that gain and lose, and where the top of a ranking came from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .drawing import INK, MUTED, SERIES, Picture, drawn
from .labels import shortened, spaced

Floats = NDArray[np.float64]


def topic_bars(qids: Sequence[str], differences: Floats, measure: str, title: str, name: str) -> Picture:
    """Per-topic differences, sorted: which topics a change helped or hurt."""
    order = np.argsort(-differences, kind="stable")
    values = differences[order]
    mean = float(values.mean())

    def draw(plt: Any) -> Any:
        figure, axes = plt.subplots(figsize=(max(6.4, min(0.16 * len(values), 11)), 2.9), layout="constrained")
        places = np.arange(len(values))
        axes.bar(places, values, color=[SERIES[0] if v > 0 else SERIES[1] for v in values], width=0.8)
        axes.axhline(0, color=INK, lw=0.8)
        axes.axhline(mean, color=INK, lw=1, ls="--")
        axes.annotate(
            f"mean {mean:+.3f}", (0.995 if mean > 0 else 0.005, mean), xycoords=("axes fraction", "data"),
            ha="right" if mean > 0 else "left", va="bottom" if mean > 0 else "top", fontsize=8,
        )  # fmt: skip
        few = len(values) <= 60
        names = [shortened(qids[i], 24) for i in order] if few else []
        axes.set_xticks(places if few else [], names, rotation=90, fontsize=6)
        axes.set_xlabel("topics")
        axes.set_ylabel(f"difference in {measure}")
        axes.set_title(title)
        axes.margins(x=0.01)
        axes.grid(axis="x", visible=False)
        return figure

    better, worse = int((values > 0).sum()), int((values < 0).sum())
    caption = f"{title}: {better} topics gain, {worse} lose, {len(values) - better - worse} are unchanged."
    return drawn(name, caption, draw)


def rank_changes(
    before: Sequence[str],
    after: Sequence[str],
    labels: dict[str, str],
    grades: dict[str, int],
    title: str,
    name: str,
) -> Picture:
    """Where the top of a reranked list came from; ``labels`` are texts, ``grades`` judgements, by docid."""
    origin = {docid: rank for rank, docid in enumerate(before)}
    depth = max([len(after), *(origin[d] + 1 for d in after if d in origin)])

    def draw(plt: Any) -> Any:
        figure, axes = plt.subplots(figsize=(9.2, max(3.0, min(0.1 * depth + 1.6, 5.2))), layout="constrained")
        known = [origin[docid] for docid in after if docid in origin]
        written = dict(zip(known, spaced([start + 0.5 for start in known], depth / 30), strict=True))
        for rank, docid in enumerate(after):
            place = depth * (rank + 0.5) / len(after)
            start = origin.get(docid)
            grade = grades.get(docid)
            good = grade is not None and grade > 0
            colour = SERIES[0] if good else SERIES[1] if grade == 0 else MUTED
            if start is not None:
                axes.plot([0, 1], [start + 0.5, place], color=colour, lw=1.4, ls="-" if good else "--")
                axes.plot([0], [start + 0.5], marker="o", color=colour)
                axes.annotate(f"{start + 1}", (-0.03, written[start]), ha="right", va="center", fontsize=7)
            axes.plot([1], [place], marker="o" if good else "x", color=colour)
            judged = f" [{grade}]" if grade is not None else " [?]"
            text = labels.get(docid, "") or docid
            axes.annotate(f"{rank + 1}{judged}  {shortened(text, 78)}", (1.02, place), va="center", fontsize=7.5)
        axes.set_xlim(-0.1, 3.6)
        axes.set_ylim(depth, 0)
        axes.axis("off")
        axes.set_title(title)
        return figure

    caption = (
        f"{title}: rank before on the left, rank after on the right with [grade]. Solid and round: relevant; "
        "dashed and crossed: judged not relevant or not judged."
    )
    return drawn(name, caption, draw)
