"""Losses: pure functions ``(scores, labels, mask) -> loss``, as frozen dataclasses whose fields are the options.

Scores are raw model scores (Q, n), labels grades or teacher scores (Q, n), and the mask is True on real
candidates: what lies under the padding never changes a value. Every loss is minimised and returns a scalar. Where
a loss sums over terms (candidates, pairs, positions), ``reduction`` says how they become one number:

- ``list_mean``: the mean of each list's terms, then the mean over lists: every query weighs the same;
- ``mean``: the mean over all terms of the batch: long lists weigh more (as in sentence-transformers);
- ``sum``: the sum of all terms of the batch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal, Protocol, runtime_checkable

from ...rerank.registry import Registry

if TYPE_CHECKING:
    from torch import Tensor

losses = Registry("loss", "sparring.train.losses")


class Loss(Protocol):
    """A loss: scores (Q, n) or (Q, n, K), labels (Q, n), mask (Q, n) of bool, to a scalar to minimise."""

    def __call__(self, scores: Tensor, labels: Tensor, mask: Tensor) -> Tensor: ...


Input = Literal["lists", "pairs", "successors", "classes", "near_duplicates"]
"""What a loss takes: lists of scores (Q, n); pairs, which are lists of two; successor scores (Q, n, n); a score
per class (Q, n, K); or lists whose labels (Q, n, 2) hold a passage's group of near-duplicates too."""


@runtime_checkable
class Special(Protocol):
    """A loss that takes something else than lists, and says what."""

    takes: ClassVar[Input]


def input_of(loss: object) -> Input:
    """What a loss takes."""
    return loss.takes if isinstance(loss, Special) else "lists"
