"""Losses of probes without labels: consistency where a truth would be, so the direction is undetermined.

C. Burns, H. Ye, D. Klein, J. Steinhardt: Discovering Latent Knowledge in Language Models Without Supervision. ICLR
2023 (CCS). N. Stoehr, P. Cheng, J. Wang, D. Preotiuc-Pietro, R. Bhowmik: Unsupervised Contrast-Consistent Ranking
with Language Models. EACL 2024 (CCR). Labels are never read.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from . import Input, losses
from .terms import both, differences, reduce, zero_padding


@losses.register("ccs")
@dataclass(frozen=True)
class ContrastConsistent:
    """A statement and its negation: (p+ - (1 - p-))² + min(p+, p-)², p the sigmoids of scores (Q, 2)."""

    takes: ClassVar[Input] = "pairs"

    def __call__(self, scores: Tensor, labels: Tensor, mask: Tensor) -> Tensor:
        if scores.shape[1] != 2:
            raise ValueError(f"ccs takes a statement and its negation: scores (Q, 2), not {tuple(scores.shape)}")
        yes, no = torch.sigmoid(zero_padding(scores, mask)).unbind(1)
        return reduce((yes + no - 1.0) ** 2 + torch.minimum(yes, no) ** 2, mask.all(1), "mean")


@losses.register("ccr_margin")
@dataclass(frozen=True)
class ContrastConsistentMargin:
    """MarginCCR: every pair of items is apart by the margin, whichever way: [m - |s_i - s_j|]+."""

    margin: float = 1.0

    def __call__(self, scores: Tensor, labels: Tensor, mask: Tensor) -> Tensor:
        gap = differences(zero_padding(scores, mask)).abs()
        return reduce((self.margin - gap).clamp(min=0.0), both(mask).triu(1), "list_mean")


@losses.register("ccr_triplet")
@dataclass(frozen=True)
class ContrastConsistentTriplet:
    """TripletCCR: of two others every item is clearly nearer to one, whichever: [m - | |s_i-s_j| - |s_i-s_k| |]+.

    Which of the two is the positive follows from the scores, as in MarginCCR. The cost grows with n³.
    """

    margin: float = 1.0

    def __call__(self, scores: Tensor, labels: Tensor, mask: Tensor) -> Tensor:
        distance = differences(zero_padding(scores, mask)).abs()
        gap = (distance[:, :, :, None] - distance[:, :, None, :]).abs()
        size = scores.shape[1]
        others = ~torch.eye(size, dtype=torch.bool, device=scores.device)
        once = others[:, :, None] & others[:, None, :] & others.triu(1)
        triples = once & mask[:, :, None, None] & both(mask)[:, None]
        return reduce((self.margin - gap).clamp(min=0.0), triples, "list_mean")


@losses.register("ccr_ordinal")
@dataclass(frozen=True)
class ContrastConsistentOrdinal:
    """OrdRegCCR: thresholds cut the list into equal parts, and every item is clearly on one side of each.

    Scores (Q, n, K) are logits of "above the k-th of K thresholds"; per threshold, with p their sigmoids:
    (mean p - (1 - k/(K+1)))² + mean min(p, 1-p)². Both terms are those of CCS, with n items in place of two poles.
    """

    takes: ClassVar[Input] = "classes"

    def __call__(self, scores: Tensor, labels: Tensor, mask: Tensor) -> Tensor:
        if scores.dim() != 3:
            raise ValueError(f"ccr_ordinal takes logits of thresholds (Q, n, K), not {tuple(scores.shape)}")
        real, count = mask[..., None], mask.sum(1, keepdim=True).clamp(min=1)
        above = torch.sigmoid(torch.where(real, scores, scores.new_zeros(())))
        steps = torch.arange(1, scores.shape[2] + 1, device=scores.device, dtype=scores.dtype)
        share = 1.0 - steps / (scores.shape[2] + 1)
        consistency = (zero_padding(above, real).sum(1) / count - share) ** 2
        confidence = zero_padding(torch.minimum(above, 1.0 - above) ** 2, real).sum(1) / count
        return reduce((consistency + confidence).mean(1), mask.any(1), "mean")
