"""What every way of scoring long documents promises: windows inside the text, and a score between theirs."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..registry import passages
from .component import check_component, promise


def check_passages(how: Any) -> None:
    """Cuts texts of many lengths; raises ContractError where a promise is broken."""
    check_component(how, passages)
    promise(how.tokens >= 1, how, "a window has at least one token", how.tokens)
    for length in (1, how.tokens, how.tokens + 1, 3 * how.tokens, 10 * how.tokens + 7):
        starts = list(how.starts(length))
        promise(starts[:1] == [0], how, f"of {length} tokens, the first window starts at 0", starts)
        inside = all(0 <= start < length for start in starts) and starts == sorted(set(starts))
        promise(inside, how, f"of {length} tokens, windows start inside the text, in order", starts)
    for scores in (np.array([0.5]), np.array([3.0, -1.0, 2.0])):
        value = how.reduce(scores)
        promise(isinstance(value, float), how, "the score of a text is a float", type(value).__name__)
        between = scores.min() <= value <= scores.max()
        promise(between, how, f"the score of a text lies between those of its windows {scores}", value)
