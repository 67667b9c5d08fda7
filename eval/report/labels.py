"""Labels inside pictures: how long they may be, and where they have room."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def spaced(places: Sequence[float], gap: float) -> list[float]:
    """Places for labels, at least ``gap`` apart and otherwise as near as can be to where they belong.

    Neighbours that come too close share the room around their mean (pooled, as in isotonic regression).
    """
    order = np.argsort(places, kind="stable")
    groups: list[list[float]] = []  # positions less what the labels above take up must not fall
    for number, index in enumerate(order.tolist()):
        groups.append([places[index] - number * gap])
        while len(groups) > 1 and np.mean(groups[-2]) > np.mean(groups[-1]):
            groups[-2:] = [groups[-2] + groups[-1]]
    found = [0.0] * len(places)
    level = [float(np.mean(group)) for group in groups for _ in group]
    for number, index in enumerate(order.tolist()):
        found[index] = level[number] + number * gap
    return found


def shortened(text: str, length: int) -> str:
    """One line of at most ``length`` characters."""
    line = " ".join(text.split())
    return line if len(line) <= length else line[: length - 1].rstrip() + "…"
