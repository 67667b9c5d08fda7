"""Whether a loss can be trained into a model: refused before any work, in one line."""

from __future__ import annotations

from ...rerank.errors import UsageError
from ..data.collator import Layout
from ..losses import Loss, input_of


def check_loss(loss: Loss, kind: str, layout: Layout, list_size: int) -> None:
    """UsageError where what a kind of ranker says of a list is not what the loss takes."""
    taken = input_of(loss)
    pairs = layout.width == 2
    if taken == "classes":
        raise UsageError(f"--loss {loss} takes a score per class or threshold: {kind} gives one per passage")
    if taken == "pairs" and not pairs and (list_size != 2 or layout.twins):
        raise UsageError(f"--loss {loss} takes pairs: {kind} scores lists; with --list-size 2 a list is a pair")
    if taken == "successors" and not pairs:
        raise UsageError(f"--loss {loss} takes who comes right before whom: {kind} compares no pairs")
    if taken == "near_duplicates" and (pairs or layout.twins):
        raise UsageError(f"--loss {loss} is about the passages of whole lists: {kind} does not give it these")
