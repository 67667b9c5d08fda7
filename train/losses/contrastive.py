"""Losses of metric learning: similarities of positives against those of negatives."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from . import losses
from .terms import hide, lowest, reduce, zero_padding


def _sides(labels: Tensor, mask: Tensor, positive: float) -> tuple[Tensor, Tensor]:
    """Which candidates are positives and which negatives, (Q, n) each."""
    above = labels >= positive
    return mask & above, mask & ~above


def _log_sum_exp(values: Tensor, chosen: Tensor) -> Tensor:
    return values.masked_fill(~chosen, lowest(values)).logsumexp(1)


@losses.register("infonce")
@dataclass(frozen=True)
class InfoNCE:
    """-log softmax(s/T) of each positive among all candidates of the list, other positives included.

    For encoders the list of a query is the whole batch (in-batch negatives) and s a cosine, T = 0.05.
    """

    temperature: float = 1.0
    positive: float = 1.0

    def __call__(self, scores: Tensor, labels: Tensor, mask: Tensor) -> Tensor:
        positives, _ = _sides(labels, mask, self.positive)
        logs = hide(zero_padding(scores, mask) / self.temperature, mask).log_softmax(1)
        return reduce(-logs, positives, "list_mean")


@losses.register("circle")
@dataclass(frozen=True)
class Circle:
    """Circle loss: log(1 + Σ_neg e^{γ a_j (s_j - m)} Σ_pos e^{-γ a_i (s_i - 1 + m)}), each similarity self-paced.

    a_i = [1 + m - s_i]+ and a_j = [s_j + m]+ have no gradient. Scores are similarities in [0, 1]; ``sigmoid``
    makes them so. Lists without positives or without negatives count nothing. Reference: Sun et al., CVPR 2020.
    """

    margin: float = 0.25
    gamma: float = 32.0
    positive: float = 1.0
    sigmoid: bool = True

    def __call__(self, scores: Tensor, labels: Tensor, mask: Tensor) -> Tensor:
        positives, negatives = _sides(labels, mask, self.positive)
        safe = zero_padding(scores, mask)
        similarity = torch.sigmoid(safe) if self.sigmoid else safe
        fixed = similarity.detach()
        high = -self.gamma * (1.0 + self.margin - fixed).clamp(min=0.0) * (similarity - (1.0 - self.margin))
        low = self.gamma * (fixed + self.margin).clamp(min=0.0) * (similarity - self.margin)
        terms = functional.softplus(_log_sum_exp(high, positives) + _log_sum_exp(low, negatives))
        return reduce(terms, positives.any(1) & negatives.any(1), "mean")


@losses.register("multi_similarity")
@dataclass(frozen=True)
class MultiSimilarity:
    """(1/α) log(1 + Σ_pos e^{-α(S-λ)}) + (1/β) log(1 + Σ_neg e^{β(S-λ)}).

    With a ``margin`` only informative members count: negatives above the lowest positive less the margin, and
    positives below the highest negative plus the margin. ``sigmoid`` turns raw scores into similarities.
    Reference: Wang et al., CVPR 2019.
    """

    alpha: float = 2.0
    beta: float = 50.0
    base: float = 0.5
    margin: float | None = None
    positive: float = 1.0
    sigmoid: bool = False

    def __call__(self, scores: Tensor, labels: Tensor, mask: Tensor) -> Tensor:
        positives, negatives = _sides(labels, mask, self.positive)
        safe = zero_padding(scores, mask)
        similarity = torch.sigmoid(safe) if self.sigmoid else safe
        if self.margin is not None:
            fixed = similarity.detach()
            least = fixed.masked_fill(~positives, math.inf).amin(1, keepdim=True)
            most = fixed.masked_fill(~negatives, -math.inf).amax(1, keepdim=True)
            positives, negatives = (
                positives & (fixed < most + self.margin),
                negatives & (fixed > least - self.margin),
            )
        pull = functional.softplus(_log_sum_exp(-self.alpha * (similarity - self.base), positives)) / self.alpha
        push = functional.softplus(_log_sum_exp(self.beta * (similarity - self.base), negatives)) / self.beta
        return reduce(pull + push, mask.any(1), "mean")


@losses.register("nce")
@dataclass(frozen=True)
class NoiseContrastive:
    """NCE matching: is a candidate the match or noise? -log σ(s - log k) and -log σ(log k - s), k negatives.

    The sum over a list, mean over lists; the shift by log k makes e^s an odds against one noise sample. Lists
    without positives or without negatives count nothing. Reference: Gutmann and Hyvärinen, AISTATS 2010.
    """

    positive: float = 1.0

    def __call__(self, scores: Tensor, labels: Tensor, mask: Tensor) -> Tensor:
        positives, negatives = _sides(labels, mask, self.positive)
        shift = negatives.sum(1, keepdim=True).clamp(min=1).to(scores.dtype).log()
        logits = zero_padding(scores, mask) - shift
        terms = functional.softplus(torch.where(positives, -logits, logits))
        total = zero_padding(terms, mask).sum(1)
        return reduce(total, positives.any(1) & negatives.any(1), "mean")
