"""What several losses share: reductions, pairs, ranks and discounted gains, all blind to padding."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

Reduction = Literal["list_mean", "mean", "sum"]
LogBase = Literal["e", "2"]


def log_scale(base: str) -> float:
    """What a natural logarithm is multiplied by to be one of the given base."""
    return 1.0 if base == "e" else 1.0 / math.log(2.0)


def reduce(terms: Tensor, valid: Tensor, reduction: str) -> Tensor:
    """One number from terms (Q, ...), counting those that are valid; lists without terms count nothing."""
    kept = torch.where(valid, terms, terms.new_zeros(()))
    if reduction == "sum":
        return kept.sum()
    if reduction == "mean":
        return kept.sum() / valid.sum().clamp(min=1)
    inner = tuple(range(1, terms.dim()))
    counts = valid.sum(inner) if inner else valid.long()
    totals = kept.sum(inner) if inner else kept
    return (totals / counts.clamp(min=1)).sum() / (counts > 0).sum().clamp(min=1)


def lowest(scores: Tensor) -> float:
    """A finite stand-in for minus infinity: gradients through it are zero, never NaN."""
    return torch.finfo(scores.dtype).min / 4


def hide(scores: Tensor, mask: Tensor) -> Tensor:
    """Scores with the padding sunk below everything."""
    return scores.masked_fill(~mask, lowest(scores))


def zero_padding(values: Tensor, mask: Tensor) -> Tensor:
    """Values with zeros under the padding, whatever stood there (NaN too)."""
    return torch.where(mask, values, values.new_zeros(()))


def both(mask: Tensor) -> Tensor:
    """Pairs of two real candidates, (Q, n, n)."""
    return mask[:, :, None] & mask[:, None, :]


def preferred(labels: Tensor, mask: Tensor) -> Tensor:
    """Pairs (i, j) of real candidates with label i above label j, (Q, n, n)."""
    return both(mask) & (labels[:, :, None] > labels[:, None, :])


def differences(values: Tensor) -> Tensor:
    """values_i - values_j, (Q, n, n)."""
    return values[:, :, None] - values[:, None, :]


def descending(values: Tensor, mask: Tensor) -> Tensor:
    """Positions by value, best first and padding last; ties keep their order, (Q, n)."""
    return hide(values, mask).argsort(dim=1, descending=True, stable=True)


def ranks(values: Tensor, mask: Tensor) -> Tensor:
    """The 1-based rank of every candidate by value, (Q, n); ties keep their order, padding comes last."""
    order = descending(values, mask)
    place = torch.arange(1, values.shape[1] + 1, device=values.device).expand_as(order)
    return torch.empty_like(order).scatter_(1, order, place)


def discount(rank: Tensor) -> Tensor:
    """log2(1 + rank)."""
    return torch.log2(1.0 + rank)


def gains(labels: Tensor, mask: Tensor) -> Tensor:
    """Exponential gains 2^y - 1, zero under the padding, (Q, n)."""
    return zero_padding(torch.exp2(zero_padding(labels, mask)) - 1.0, mask)


def ideal_dcg(labels: Tensor, mask: Tensor, k: int | None = None) -> Tensor:
    """The DCG of the best order, at cutoff k, (Q,); tiny instead of zero where nothing is relevant."""
    best = gains(labels, mask).sort(dim=1, descending=True).values
    place = torch.arange(1, labels.shape[1] + 1, device=labels.device, dtype=best.dtype)
    best = best / discount(place)
    return best[:, :k].sum(1).clamp(min=1e-10)


def log_softmax(scores: Tensor, mask: Tensor) -> Tensor:
    """Log-probabilities over the real candidates, zero under the padding, (Q, n)."""
    return zero_padding(hide(scores, mask).log_softmax(dim=1), mask)
