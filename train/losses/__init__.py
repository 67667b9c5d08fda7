"""Losses: pure functions ``(scores, labels, mask) -> loss``, as frozen dataclasses whose fields are the options.

Scores are raw model scores (Q, n), labels grades or teacher scores (Q, n), and the mask is True on real
candidates: what lies under the padding never changes a value. Every loss is minimised and returns a scalar. Where
a loss sums over terms (candidates, pairs, positions), ``reduction`` says how they become one number:

- ``list_mean``: the mean of each list's terms, then the mean over lists: every query weighs the same;
- ``mean``: the mean over all terms of the batch: long lists weigh more (as in sentence-transformers);
- ``sum``: the sum of all terms of the batch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from ...rerank.registry import Registry

if TYPE_CHECKING:
    from torch import Tensor

losses = Registry("loss", "sparring.train.losses")


class Loss(Protocol):
    """A loss: scores (Q, n) or (Q, n, K), labels (Q, n), mask (Q, n) of bool, to a scalar to minimise."""

    def __call__(self, scores: Tensor, labels: Tensor, mask: Tensor) -> Tensor: ...
