"""Losses over whole lists: softmax cross-entropies and likelihoods of permutations."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from . import Input, input_of, losses
from .terms import descending, hide, log_softmax, reduce, zero_padding


def _mean_over_lists(terms: Tensor, mask: Tensor) -> Tensor:
    """The mean over lists with a candidate of a value per list, (Q,)."""
    return reduce(terms, mask.any(dim=1), "mean")


@losses.register("listnet")
@dataclass(frozen=True)
class ListNet:
    """Cross-entropy of two softmaxes over the list: -Σ softmax(y)_i log softmax(s)_i.

    Labels go through the softmax as they are: scale teacher scores first. Reference: Cao et al., ICML 2007.
    """

    def __call__(self, scores: Tensor, labels: Tensor, mask: Tensor) -> Tensor:
        target = zero_padding(log_softmax(labels, mask).exp(), mask)
        return _mean_over_lists(-(target * log_softmax(scores, mask)).sum(1), mask)


@losses.register("kl")
@dataclass(frozen=True)
class KullbackLeibler:
    """Distillation of a teacher's list: T² KL(softmax(y/T) || softmax(s/T)).

    It is ListNet less the teacher's entropy: zero where the student agrees. Labels are teacher logits.
    """

    temperature: float = 1.0

    def __call__(self, scores: Tensor, labels: Tensor, mask: Tensor) -> Tensor:
        teacher = log_softmax(labels / self.temperature, mask)
        student = log_softmax(scores / self.temperature, mask)
        terms = zero_padding(teacher.exp() * (teacher - student), mask).sum(1)
        return self.temperature**2 * _mean_over_lists(terms, mask)


@losses.register("lce")
@dataclass(frozen=True)
class LocalizedContrastive:
    """InfoNCE over one list: -log softmax(s) of the positive among hard negatives, the mean over its positives.

    Positives are candidates with a label of at least ``positive``; several do not compete with one another. Lists
    without one count nothing. ``scale`` multiplies the scores (20 for cosines). Reference: Gao et al., ECIR 2021.
    """

    positive: float = 1.0
    scale: float = 1.0

    def __call__(self, scores: Tensor, labels: Tensor, mask: Tensor) -> Tensor:
        positives = mask & (labels >= self.positive)
        scaled = self.scale * zero_padding(scores, mask)
        negatives = hide(scaled, mask & ~positives).logsumexp(1, keepdim=True)
        return reduce(torch.logaddexp(scaled, negatives) - scaled, positives, "list_mean")


def likelihood_terms(scores: Tensor, labels: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """log Σ_{l>=k} exp(s_(l)) - s_(k) with (k) in descending label order, and which k are real, (Q, n) each."""
    order = descending(labels, mask)
    real = mask.gather(1, order)
    ordered = hide(scores.gather(1, order), real)
    tails = ordered.flip(1).logcumsumexp(1).flip(1)
    return zero_padding(tails - ordered, real), real


@losses.register("listmle")
@dataclass(frozen=True)
class ListMLE:
    """Negative log-likelihood of the label order under Plackett-Luce; ties keep the order of the list.

    The data shuffles lists, so that ties are broken at random. Reference: Xia et al., ICML 2008.
    """

    def __call__(self, scores: Tensor, labels: Tensor, mask: Tensor) -> Tensor:
        terms, _ = likelihood_terms(scores, labels, mask)
        return _mean_over_lists(terms.sum(1), mask)


@losses.register("plistmle")
@dataclass(frozen=True)
class PositionAwareListMLE:
    """ListMLE with position k weighted by (2^(n-k) - 1) / Σ (2^(n-k) - 1). Reference: Lan et al., UAI 2014."""

    def __call__(self, scores: Tensor, labels: Tensor, mask: Tensor) -> Tensor:
        terms, real = likelihood_terms(scores, labels, mask)
        size = mask.sum(1, keepdim=True)
        place = torch.arange(1, scores.shape[1] + 1, device=scores.device)
        # 2^-k - 2^-n instead of 2^(n-k) - 1: the same after normalisation, and long lists do not overflow
        weight = torch.exp2(-place.to(scores.dtype)) - torch.exp2(-size.to(scores.dtype))
        weight = zero_padding(weight.clamp(min=0.0), real)
        total = weight.sum(1, keepdim=True).clamp(min=torch.finfo(scores.dtype).tiny)
        return _mean_over_lists((weight / total * terms).sum(1), mask)


@losses.register("pro")
@dataclass(frozen=True)
class PreferenceRanking:
    """PRO: Σ_k log Σ_{i>=k} exp(s_(i)/T_ki) - s_(k)/T_kk over k = 1..n-1, labels giving the order.

    With ``dynamic`` T_ki = 1/(y_(k) - y_(i)) and T_kk is the least T_ki, as in Song et al., AAAI 2024; without it
    every T is 1, which is ListMLE. Ties keep the order of the list (a gap of zero is a weight of zero).
    """

    dynamic: bool = False

    def __call__(self, scores: Tensor, labels: Tensor, mask: Tensor) -> Tensor:
        if not self.dynamic:
            terms, _ = likelihood_terms(scores, labels, mask)
            return _mean_over_lists(terms.sum(1), mask)
        order = descending(labels, mask)
        real = mask.gather(1, order)
        ordered = zero_padding(scores, mask).gather(1, order)
        graded = zero_padding(labels, mask).gather(1, order)
        later = torch.ones(2 * (scores.shape[1],), dtype=torch.bool, device=scores.device).triu(1)
        pairs = later & real[:, :, None] & real[:, None, :]
        gap = (graded[:, :, None] - graded[:, None, :]) * pairs
        own = ordered * gap.amax(2)
        others = (ordered[:, None, :] * gap).masked_fill(~pairs, torch.finfo(scores.dtype).min / 4)
        terms = torch.logaddexp(own, others.logsumexp(2)) - own
        return _mean_over_lists(zero_padding(terms, pairs.any(2)).sum(1), mask)


@losses.register("mix")
@dataclass(frozen=True)
class Mix:
    """The first loss plus ``weight`` times the second: ``mix(kl, margin_mse, weight=0.05)``."""

    first: object
    second: object
    weight: float = 1.0

    def __post_init__(self) -> None:
        if not callable(self.first) or not callable(self.second):
            raise ValueError("first and second must be losses, as in mix(kl, margin_mse, weight=0.05)")
        if len({input_of(self.first), input_of(self.second)} - {"lists"}) > 1 or (
            self.takes not in ("lists", "pairs") and "lists" in (input_of(self.first), input_of(self.second))
        ):
            raise ValueError(f"{self.first} and {self.second} do not take the same scores and labels")

    @property
    def takes(self) -> Input:
        """What both take; a list of two is a pair."""
        first, second = input_of(self.first), input_of(self.second)
        return second if first == "lists" else first

    def __call__(self, scores: Tensor, labels: Tensor, mask: Tensor) -> Tensor:
        parts = [loss(scores, labels, mask) for loss in (self.first, self.second) if callable(loss)]
        total: Tensor = parts[0] + self.weight * parts[1]
        return total
