"""Losses that bound or smooth nDCG; gains are 2^y - 1, discounts log2(1 + rank)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from . import losses
from .terms import (
    LogBase,
    Reduction,
    both,
    differences,
    discount,
    gains,
    hide,
    ideal_dcg,
    log_scale,
    preferred,
    ranks,
    reduce,
    zero_padding,
)


@losses.register("lambdaloss")
@dataclass(frozen=True)
class LambdaLoss:
    """Pairwise logistic loss weighted by what a swap does to nDCG: -Σ w_ij log σ(sigma (s_i - s_j)), y_i > y_j.

    Ranks π come from the current scores, without gradient; G = gain / ideal DCG; D(r) = log2(1 + r).
    lambdarank: |1/D(π_i) - 1/D(π_j)| |G_i - G_j|; ndcgloss2: |1/D(δ) - 1/D(δ+1)| |G_i - G_j| with
    δ = |π_i - π_j|; ndcgloss2pp: mu times ndcgloss2 plus lambdarank; ndcgloss1: G_i/D(π_i) over all ordered pairs,
    ties and i = j too; none: 1, which is RankNet.

    Args:
        k: count pairs in the top k by score only (and the ideal DCG at k); ``cut`` says whether ``either`` member
            must be there (sentence-transformers) or ``both`` (allRank).
        log_base: "2" as in sentence-transformers and allRank, or "e".
        reduction: sentence-transformers takes mean, allRank sum.

    Reference: Wang et al., CIKM 2018.
    """

    weighting: Literal["ndcgloss2pp", "ndcgloss2", "ndcgloss1", "lambdarank", "none"] = "ndcgloss2pp"
    k: int | None = None
    cut: Literal["either", "both"] = "either"
    sigma: float = 1.0
    mu: float = 10.0
    log_base: LogBase = "2"
    reduction: Reduction = "mean"

    def __post_init__(self) -> None:
        if self.k is not None and self.k < 1:
            raise ValueError(f"k must be at least 1, not {self.k}")

    def __call__(self, scores: Tensor, labels: Tensor, mask: Tensor) -> Tensor:
        pairs = both(mask) if self.weighting == "ndcgloss1" else preferred(labels, mask)
        place = ranks(scores.detach(), mask)
        if self.k is not None:
            top = place <= self.k
            one, other = top[:, :, None], top[:, None, :]
            pairs = pairs & (one & other if self.cut == "both" else one | other)
        terms = functional.softplus(-self.sigma * differences(zero_padding(scores, mask)))
        weight = self._weights(place.to(scores.dtype), labels, mask)
        return reduce(weight * terms * log_scale(self.log_base), pairs, self.reduction)

    def _weights(self, place: Tensor, labels: Tensor, mask: Tensor) -> Tensor:
        gain = gains(labels, mask).to(place.dtype) / ideal_dcg(labels, mask, self.k)[:, None]
        inverse = 1.0 / discount(place)
        if self.weighting == "none":
            return torch.ones_like(gain)[:, :, None]
        if self.weighting == "ndcgloss1":
            return (gain * inverse)[:, :, None]
        gap = differences(gain).abs()
        lambdarank = differences(inverse).abs() * gap
        if self.weighting == "lambdarank":
            return lambdarank
        distance = differences(place).abs().clamp(min=1.0)  # the diagonal has no gap
        second = (1.0 / discount(distance) - 1.0 / discount(distance + 1.0)).abs() * gap
        return second if self.weighting == "ndcgloss2" else self.mu * second + lambdarank


def soft_ranks(scores: Tensor, mask: Tensor, alpha: float) -> Tensor:
    """1 + Σ_{j≠i} σ(alpha (s_j - s_i)), (Q, n)."""
    above = torch.sigmoid(-alpha * differences(zero_padding(scores, mask)))
    others = both(mask) & ~torch.eye(scores.shape[1], dtype=torch.bool, device=scores.device)
    return 1.0 + (above * others).sum(2)


@losses.register("approx_ndcg")
@dataclass(frozen=True)
class ApproxNDCG:
    """Minus nDCG with ranks made smooth by sigmoids of steepness ``alpha``; lists without gain count nothing.

    Reference: Qin, Liu and Li, Information Retrieval 2010. alpha is 1 in allRank, 10 elsewhere.
    """

    alpha: float = 10.0

    def __call__(self, scores: Tensor, labels: Tensor, mask: Tensor) -> Tensor:
        gain = gains(labels, mask)
        value = (gain / discount(soft_ranks(scores, mask, self.alpha))).sum(1) / ideal_dcg(labels, mask)
        return -reduce(value, gain.sum(1) > 0, "mean")


@losses.register("adr_mse")
@dataclass(frozen=True)
class DiscountedRankMSE:
    """ADR-MSE: mean of (r_i - p_i)² / log2(1 + r_i), r the label ranks and p smooth score ranks.

    Tied labels share their mean rank. Reference: Schlatt et al. (Rank-DistiLLM), ECIR 2025.
    """

    alpha: float = 1.0
    reduction: Reduction = "list_mean"

    def __call__(self, scores: Tensor, labels: Tensor, mask: Tensor) -> Tensor:
        higher = preferred(labels, mask).sum(1).to(scores.dtype)
        equal = (both(mask) & (labels[:, :, None] == labels[:, None, :])).sum(1).to(scores.dtype)
        rank = 1.0 + higher + (equal - 1.0) / 2.0
        rank = torch.where(mask, rank, torch.ones_like(rank))
        terms = (rank - soft_ranks(scores, mask, self.alpha)) ** 2 / discount(rank)
        return reduce(terms, mask, self.reduction)


def neural_sort(scores: Tensor, mask: Tensor, tau: float) -> Tensor:
    """A row-stochastic relaxation of the permutation that sorts descending, (Q, n, n): a row per rank."""
    safe = zero_padding(scores, mask)
    size = mask.sum(1)[:, None, None]
    spread = (differences(safe).abs() * both(mask)).sum(2)[:, None, :]
    row = torch.arange(1, scores.shape[1] + 1, device=scores.device)[None, :, None]
    logits = ((size + 1 - 2 * row) * safe[:, None, :] - spread) / tau
    columns = mask[:, None, :]
    return torch.where(columns & (row <= size), hide(logits, columns).softmax(2), scores.new_zeros(()))


def sinkhorn(matrix: Tensor, iterations: int = 50, tolerance: float = 1e-6) -> Tensor:
    """Normalises columns and rows in turn; each matrix stops by itself once both sum to 1 within the tolerance."""
    busy = torch.ones(len(matrix), dtype=torch.bool, device=matrix.device)
    for _ in range(iterations):
        new = matrix / _sums(matrix, 1)
        new = new / _sums(new, 2)
        matrix = torch.where(busy[:, None, None], new, matrix)
        busy = busy & ((_sums(matrix, 1) - 1.0).abs().amax((1, 2)) > tolerance)  # rows sum to 1 already
        if not busy.any():
            break
    return matrix


def _sums(matrix: Tensor, dim: int) -> Tensor:
    """Sums along a dimension, 1 where it is all padding: dividing by it leaves the zeros, and their gradients."""
    total = matrix.sum(dim, keepdim=True)
    return torch.where(total > 1e-10, total, torch.ones_like(total))


@losses.register("neural_ndcg")
@dataclass(frozen=True)
class NeuralNDCG:
    """Minus nDCG under NeuralSort's relaxed permutation P, made doubly stochastic by Sinkhorn's iterations.

    Gains are sorted by P, or with ``transposed`` discounts are expected for each item: the same where Sinkhorn
    has converged. ``k`` cuts the discounts. Lists without gain count nothing. Reference: Pobrotyn and
    Białobrzeski, SIGIR eCom 2021; Grover et al. (NeuralSort), ICLR 2019.
    """

    tau: float = 1.0
    transposed: bool = False
    k: int | None = None
    iterations: int = 50

    def __post_init__(self) -> None:
        if self.tau <= 0:
            raise ValueError(f"tau must be above 0, not {self.tau}")

    def __call__(self, scores: Tensor, labels: Tensor, mask: Tensor) -> Tensor:
        matrix = neural_sort(scores, mask, self.tau)
        if self.transposed:
            matrix = sinkhorn(matrix.transpose(1, 2), self.iterations).transpose(1, 2)
        else:
            matrix = sinkhorn(matrix, self.iterations)
        gain = gains(labels, mask)
        place = torch.arange(1, scores.shape[1] + 1, device=scores.device)
        weight = 1.0 / discount(place.to(scores.dtype))
        if self.k is not None:
            weight = weight * (place <= self.k)
        if self.transposed:
            value = (gain * (matrix * weight[None, :, None]).sum(1)).sum(1)
        else:
            value = ((matrix * gain[:, None, :]).sum(2) * weight).sum(1)
        return -reduce(value / ideal_dcg(labels, mask, self.k), gain.sum(1) > 0, "mean")
