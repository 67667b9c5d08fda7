"""Losses that look at one candidate at a time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from . import Input, losses
from .terms import Reduction, reduce, zero_padding


@losses.register("bce")
@dataclass(frozen=True)
class BinaryCrossEntropy:
    """Binary cross-entropy of sigmoid scores with labels in [0, 1].

    -(w y log σ(s) + (1 - y) log(1 - σ(s))). ``scale`` divides the labels first (3 for grades 0-3);
    ``pos_weight`` w counts positives that many times. Ties: none.
    """

    scale: float = 1.0
    pos_weight: float = 1.0
    reduction: Reduction = "mean"

    def __call__(self, scores: Tensor, labels: Tensor, mask: Tensor) -> Tensor:
        target = zero_padding(labels, mask) / self.scale
        weight = scores.new_tensor(self.pos_weight)
        safe = zero_padding(scores, mask)
        terms = functional.binary_cross_entropy_with_logits(safe, target, reduction="none", pos_weight=weight)
        return reduce(terms, mask, self.reduction)


@losses.register("cross_entropy")
@dataclass(frozen=True)
class CrossEntropy:
    """Cross-entropy over K classes, as monoBERT's two: scores (Q, n, K), labels are class numbers."""

    reduction: Reduction = "mean"
    takes: ClassVar[Input] = "classes"

    def __call__(self, scores: Tensor, labels: Tensor, mask: Tensor) -> Tensor:
        classes = zero_padding(labels, mask).long()
        safe = torch.where(mask[..., None], scores, scores.new_zeros(()))
        terms = -safe.log_softmax(-1).gather(-1, classes[..., None]).squeeze(-1)
        return reduce(terms, mask, self.reduction)


@losses.register("mse")
@dataclass(frozen=True)
class MeanSquaredError:
    """Squared difference of score and teacher score: point distillation."""

    reduction: Reduction = "mean"

    def __call__(self, scores: Tensor, labels: Tensor, mask: Tensor) -> Tensor:
        return reduce((zero_padding(scores, mask) - zero_padding(labels, mask)) ** 2, mask, self.reduction)


@losses.register("ordinal")
@dataclass(frozen=True)
class Ordinal:
    """One threshold per grade: sum over k of BCE(σ(o_k), 1[y >= k]), k = 1..K; scores are (Q, n, K).

    The score to rank by is the sum of the K sigmoids. Reference: Pobrotyn et al., SIGIR eCom 2020.
    """

    reduction: Reduction = "mean"
    takes: ClassVar[Input] = "classes"

    def __call__(self, scores: Tensor, labels: Tensor, mask: Tensor) -> Tensor:
        steps = torch.arange(1, scores.shape[-1] + 1, device=scores.device)
        target = (zero_padding(labels, mask)[..., None] >= steps).to(scores.dtype)
        safe = torch.where(mask[..., None], scores, scores.new_zeros(()))
        terms = functional.binary_cross_entropy_with_logits(safe, target, reduction="none").sum(-1)
        return reduce(terms, mask, self.reduction)
