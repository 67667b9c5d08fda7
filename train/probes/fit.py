"""A linear probe fitted to consistency instead of labels, and the direction that this leaves open."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..losses import Loss
from ..losses.probing import ContrastConsistent, ContrastConsistentOrdinal

WEIGHT_DECAY = 0.01


@dataclass(frozen=True, slots=True)
class Probe:
    """A direction in the space of hidden states; ``value`` is the loss it ended with."""

    weights: Tensor
    bias: Tensor
    value: float

    def __call__(self, features: Tensor) -> Tensor:
        """Logits of features (..., H)."""
        return features @ self.weights + self.bias


def standardised(features: Tensor, mask: Tensor) -> Tensor:
    """Features (Q, n, P, H) centred per topic and pole, of unit variance over everything, zero under the padding.

    Centring takes out what a topic, or the wording of a pole, adds to all its states: a probe that read it would
    be consistent without reading any document.
    """
    real = mask[:, :, None, None]
    kept = torch.where(real, features, features.new_zeros(()))
    mean = kept.sum(1, keepdim=True) / mask.sum(1).clamp(min=1)[:, None, None, None]
    centred = torch.where(real, kept - mean, features.new_zeros(()))
    variance = centred.square().sum((0, 1, 2)) / (mask.sum() * features.shape[2]).clamp(min=1)
    return centred / variance.sqrt().clamp(min=1e-6)


def fit(
    features: Tensor,
    mask: Tensor,
    loss: Loss,
    *,
    steps: int = 300,
    learning_rate: float = 0.01,
    restarts: int = 5,
    thresholds: int = 4,
    seed: int = 0,
) -> Probe:
    """The best of several probes from random starts, by Adam over all of the data at once.

    Margins and thresholds could be met by long weights alone, so these have length 1 there; CCS has a bias and
    weight decay, as in its paper.

    Args:
        features: standardised, (Q, n, P, H): with one pole P the loss sees lists of n, with two it sees the poles.
        thresholds: of ccr_ordinal.
    """
    generator = torch.Generator().manual_seed(seed)
    poles = features.shape[2] == 2
    inputs = features.flatten(0, 1) if poles else features[:, :, 0]
    real = mask.flatten()[:, None].expand(-1, 2) if poles else mask
    nothing = torch.zeros(real.shape)
    free = isinstance(loss, ContrastConsistent)
    best: Probe | None = None
    for _ in range(restarts):
        weights = torch.randn(features.shape[3], generator=generator) / features.shape[3] ** 0.5
        share = torch.arange(1, thresholds + 1) / (thresholds + 1)
        cuts = torch.special.ndtri(share) * features.std()
        parameters = [weights, torch.zeros(()), cuts]
        for parameter in parameters:
            parameter.requires_grad_(True)
        optimizer = torch.optim.AdamW(parameters, learning_rate, weight_decay=WEIGHT_DECAY if free else 0.0)
        for step in range(steps + 1):
            value = loss(_scores(inputs, parameters, loss), nothing, real)
            if step < steps:
                gradients = torch.autograd.grad(value, parameters, allow_unused=True)
                for parameter, gradient in zip(parameters, gradients, strict=True):
                    parameter.grad = gradient
                optimizer.step()
        if best is None or float(value.detach()) < best.value:
            direction = weights.detach()
            direction = direction if free else direction / direction.norm()
            best = Probe(direction, parameters[1].detach(), float(value.detach()))
    if best is None:
        raise ValueError(f"at least one start is needed, not {restarts}")
    return best


def _scores(inputs: Tensor, parameters: Sequence[Tensor], loss: Loss) -> Tensor:
    weights, bias, cuts = parameters
    free = isinstance(loss, ContrastConsistent)
    scores: Tensor = inputs @ weights + bias if free else inputs @ (weights / weights.norm())
    if isinstance(loss, ContrastConsistentOrdinal):
        scores = scores[..., None] - cuts
    return scores


def agreement(scores: Sequence[NDArray[np.float64]]) -> float:
    """The mean Kendall correlation of scores with the order they stand in (best first), over all topics."""
    found = []
    for values in scores:
        first, second = np.triu_indices(len(values), 1)
        if len(first):
            found.append(float(np.sign(values[first] - values[second]).mean()))
    return float(np.mean(found)) if found else 0.0
