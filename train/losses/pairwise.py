"""Losses over pairs of one list: the better one should score higher."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor
from torch.nn import functional

from . import Input, losses
from .terms import (
    LogBase,
    Reduction,
    both,
    differences,
    hide,
    log_scale,
    preferred,
    ranks,
    reduce,
    zero_padding,
)


@losses.register("ranknet")
@dataclass(frozen=True)
class RankNet:
    """Pairwise logistic loss: log(1 + exp(-(s_i - s_j))) over pairs with y_i > y_j; ties are no pairs.

    sentence-transformers is ``ranknet(log_base='2', reduction=mean)``. Reference: Burges et al., ICML 2005.
    """

    log_base: LogBase = "e"
    temperature: float = 1.0
    reduction: Reduction = "list_mean"

    def __call__(self, scores: Tensor, labels: Tensor, mask: Tensor) -> Tensor:
        gaps = differences(zero_padding(scores, mask)) / self.temperature
        terms = functional.softplus(-gaps) * log_scale(self.log_base)
        return reduce(terms, preferred(labels, mask), self.reduction)


@losses.register("hinge")
@dataclass(frozen=True)
class Hinge:
    """Margin ranking loss: max(0, margin - (s_i - s_j)) over pairs with y_i > y_j; ties are no pairs."""

    margin: float = 1.0
    reduction: Reduction = "list_mean"

    def __call__(self, scores: Tensor, labels: Tensor, mask: Tensor) -> Tensor:
        gaps = differences(zero_padding(scores, mask))
        return reduce((self.margin - gaps).clamp(min=0.0), preferred(labels, mask), self.reduction)


@losses.register("margin_mse")
@dataclass(frozen=True)
class MarginMSE:
    """Squared difference of score gap and teacher gap over all pairs of unequal label.

    Reference: Hofstätter et al., arXiv 2010.02666.
    """

    reduction: Reduction = "list_mean"

    def __call__(self, scores: Tensor, labels: Tensor, mask: Tensor) -> Tensor:
        error = differences(zero_padding(scores, mask)) - differences(zero_padding(labels, mask))
        return reduce(error**2, preferred(labels, mask), self.reduction)


def _gap_to_probability(labels: Tensor, mask: Tensor, temperature: float) -> Tensor:
    return torch.sigmoid(differences(zero_padding(labels, mask)) / temperature)


def _each_pair_once(mask: Tensor) -> Tensor:
    return both(mask).triu(1)


@losses.register("pair_logistic")
@dataclass(frozen=True)
class SoftPairLogistic:
    """Cross-entropy with soft preferences: -(p log σ(s_i - s_j) + (1 - p) log σ(s_j - s_i)), each pair once.

    p is σ((y_i - y_j)/temperature): the labels are teacher logits, such as a duo model's Bradley-Terry strengths.
    Ties are pairs with p = 0.5.
    """

    temperature: float = 1.0
    reduction: Reduction = "list_mean"

    def __call__(self, scores: Tensor, labels: Tensor, mask: Tensor) -> Tensor:
        target = _gap_to_probability(labels, mask, self.temperature)
        gaps = differences(zero_padding(scores, mask))
        terms = functional.binary_cross_entropy_with_logits(gaps, target, reduction="none")
        return reduce(terms, _each_pair_once(mask), self.reduction)


def pair_divergence(gaps: Tensor, target: Tensor) -> Tensor:
    """KL([p, 1-p] || softmax(s_i, s_j)) of every pair, from the gaps s_i - s_j and the probabilities p."""
    cross = functional.binary_cross_entropy_with_logits(gaps, target, reduction="none")
    divergence: Tensor = cross - torch.special.entr(target) - torch.special.entr(1.0 - target)
    return divergence


@losses.register("pair_kl")
@dataclass(frozen=True)
class PairDistillation:
    """KL of the teacher's pair probability [p, 1-p] from softmax(s_i, s_j), each pair once, p = σ((y_i - y_j)/T).

    Zero where the student agrees; the gradient is that of `pair_logistic`. Reference: Huang and Chen, EMNLP 2024.
    """

    temperature: float = 1.0
    reduction: Reduction = "list_mean"

    def __call__(self, scores: Tensor, labels: Tensor, mask: Tensor) -> Tensor:
        target = _gap_to_probability(labels, mask, self.temperature)
        gaps = differences(zero_padding(scores, mask))
        return reduce(pair_divergence(gaps, target), _each_pair_once(mask), self.reduction)


@losses.register("davidson")
@dataclass(frozen=True)
class Davidson:
    """Bradley-Terry with ties: P(i>j) = e^{s_i}/Z, P(tie) = ν e^{(s_i+s_j)/2}/Z, each pair once; equal labels tie.

    ν is ``nu``; 0 forbids ties, so lists with equal labels need nu > 0. Reference: Davidson, JASA 1970.
    """

    nu: float = 1.0
    reduction: Reduction = "list_mean"

    def __post_init__(self) -> None:
        if self.nu <= 0:
            raise ValueError("nu must be above 0: equal labels would have probability 0")

    def __call__(self, scores: Tensor, labels: Tensor, mask: Tensor) -> Tensor:
        half = differences(zero_padding(scores, mask)) / 2  # logits of win, loss and tie, less their mean
        tie = half.new_tensor(self.nu).log().expand_as(half)
        norm = torch.stack([half, -half, tie]).logsumexp(0)
        sign = differences(zero_padding(labels, mask)).sign()
        terms = norm - torch.where(sign == 0, tie, sign * half)
        return reduce(terms, _each_pair_once(mask), self.reduction)


@losses.register("pairrm")
@dataclass(frozen=True)
class PairRM:
    """PairRM's losses for the two scores (left, right) of a pair-input model: scores and labels are (Q, 2).

    logistic: -log σ((l - r) sign(Δq)); bce: (BCE(l, 1[Δq>0]) + BCE(r, 1[Δq<0]))/2; mse: ((l - r) - Δq)². Equal
    labels are left out. Reference: Jiang et al., ACL 2023.
    """

    variant: Literal["logistic", "bce", "mse"] = "logistic"
    reduction: Reduction = "mean"
    takes: ClassVar[Input] = "pairs"

    def __call__(self, scores: Tensor, labels: Tensor, mask: Tensor) -> Tensor:
        if scores.shape[1] != 2:
            raise ValueError(f"pairrm takes pairs: scores (Q, 2), not {tuple(scores.shape)}")
        valid = mask.all(1) & (labels[:, 0] != labels[:, 1])
        left, right = zero_padding(scores, mask).unbind(1)
        quality = zero_padding(labels, mask)
        gap = quality[:, 0] - quality[:, 1]
        if self.variant == "logistic":
            terms = functional.softplus(-(left - right) * gap.sign())
        elif self.variant == "mse":
            terms = (left - right - gap) ** 2
        else:
            better = (gap > 0).to(left.dtype)
            cross = functional.binary_cross_entropy_with_logits
            terms = (cross(left, better, reduction="none") + cross(right, 1 - better, reduction="none")) / 2
        return reduce(terms, valid, self.reduction)


@losses.register("ranklist")
@dataclass(frozen=True)
class RankList:
    """Ordering constraints between neighbours and skips of the label order.

    With ``smooth`` log(1 + Σ_k Σ_i exp(-(s_(i) - s_(i+k))/T)) over the skips k = 1..``skips``; without it the sum
    over k of the mean over i of log(1 + exp(-(s_(i) - s_(i+k))/T)). Equal labels are no constraint. Reference:
    Naini et al., arXiv 2508.09826.
    """

    skips: int = 3
    temperature: float = 1.0
    smooth: bool = True

    def __call__(self, scores: Tensor, labels: Tensor, mask: Tensor) -> Tensor:
        place = ranks(labels, mask)
        distance = place[:, None, :] - place[:, :, None]
        pairs = preferred(labels, mask) & (distance <= self.skips)
        gaps = differences(zero_padding(scores, mask)) / self.temperature
        if self.smooth:
            inner = (-gaps).masked_fill(~pairs, torch.finfo(scores.dtype).min / 4).flatten(1).logsumexp(1)
            return reduce(functional.softplus(inner), pairs.flatten(1).any(1), "mean")
        total = scores.new_zeros(len(scores))
        for skip in range(1, self.skips + 1):
            chosen = pairs & (distance == skip)
            counted = chosen.flatten(1).sum(1).clamp(min=1)
            total = total + (functional.softplus(-gaps) * chosen).flatten(1).sum(1) / counted
        return reduce(total, pairs.flatten(1).any(1), "mean")


@losses.register("duplicate_ranknet")
@dataclass(frozen=True)
class DuplicateAwareRankNet:
    """RankNet for novelty: of near-duplicates only the one scored highest counts, the others are worth zero.

    Labels are (Q, n, 2), grade and the number of the group of near-duplicates, negative for none. The one that
    counts has the best label of its group. Reference: Schlatt et al. (Set-Encoder), ECIR 2025.
    """

    reduction: Reduction = "list_mean"
    takes: ClassVar[Input] = "near_duplicates"

    def __call__(self, scores: Tensor, labels: Tensor, mask: Tensor) -> Tensor:
        if labels.dim() != 3 or labels.shape[2] != 2:
            raise ValueError("duplicate_ranknet takes labels (Q, n, 2): grade and group of duplicates")
        grade, group = labels.unbind(2)
        grade = zero_padding(grade, mask)
        grouped = mask & (group >= 0)
        same = both(grouped) & (group[:, :, None] == group[:, None, :])
        best = torch.where(same, grade[:, None, :], grade.new_tensor(-torch.inf)).amax(2)
        place = ranks(hide(scores.detach(), mask), mask)
        beaten = (same & (place[:, None, :] < place[:, :, None])).any(2)
        target = torch.where(grouped, torch.where(beaten, torch.zeros_like(grade), best), grade)
        return RankNet(reduction=self.reduction)(scores, target, mask)
