"""Probes are fitted without labels: a planted direction is found, and how well rankings agree."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sparring.train.losses import losses
from sparring.train.probes.fit import agreement, fit, standardised

TOPICS, ITEMS, SIZE = 6, 12, 16


def planted(poles: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Features (Q, n, P, H) with relevance along one direction, what a topic and a pole add, and noise; the mask."""
    generator = torch.Generator().manual_seed(seed)
    truth = torch.randn(TOPICS, ITEMS, generator=generator)
    direction = torch.nn.functional.normalize(torch.randn(SIZE, generator=generator), dim=0)
    sign = torch.tensor([1.0, -1.0])[:poles, None]
    features = 8 * truth[..., None, None] * sign * direction
    features = features + 5 * torch.randn(TOPICS, 1, 1, SIZE, generator=generator)
    features = features + 5 * torch.randn(1, 1, poles, SIZE, generator=generator)
    features = features + torch.randn(TOPICS, ITEMS, poles, SIZE, generator=generator)
    mask = torch.ones(TOPICS, ITEMS, dtype=torch.bool)
    mask[1, 7:] = False
    features[1, 7:] = torch.nan
    return features, mask, truth


@pytest.mark.parametrize(
    ("loss", "poles"), [("ccs", 2), ("ccr_margin", 1), ("ccr_triplet", 1), ("ccr_ordinal", 1)]
)
def test_consistency_finds_the_planted_direction(loss: str, poles: int) -> None:
    features, mask, truth = planted(poles)
    features = standardised(features, mask)
    probe = fit(features, mask, losses.parse(loss), steps=200, restarts=3, learning_rate=0.02)
    logits = probe(features)
    scores = logits[..., 0] - logits[..., 1] if poles == 2 else logits[..., 0]
    within = [np.corrcoef(s[m], t[m])[0, 1] for s, t, m in zip(scores, truth, mask, strict=True)]
    assert abs(np.mean(within)) > 0.9
    assert len(set(np.sign(within))) == 1  # one direction for all topics


def test_what_topics_and_poles_add_is_taken_out() -> None:
    features, mask, _ = planted(2)
    found = standardised(features, mask)
    assert found.isfinite().all() and (found[~mask] == 0).all()
    assert found.sum(1).abs().max() < 1e-4
    assert found[mask].square().mean((0, 1)).sub(1).abs().max() < 1e-4


def test_the_best_of_several_starts_is_kept() -> None:
    features, mask, _ = planted(2)
    features = standardised(features, mask)
    loss = losses.parse("ccs")
    one, many = (fit(features, mask, loss, steps=20, restarts=count, seed=4).value for count in (1, 4))
    assert many <= one
    assert fit(features, mask, loss, steps=20, seed=1).value == fit(features, mask, loss, steps=20, seed=1).value


def test_agreement_is_kendalls_tau() -> None:
    assert agreement([np.array([3.0, 2.0, 1.0])]) == 1
    assert agreement([np.array([1.0, 2.0, 3.0])]) == -1
    assert agreement([np.array([3.0, 2.0, 1.0]), np.array([1.0, 2.0]), np.array([5.0])]) == 0
    assert agreement([np.array([2.0, 3.0, 1.0])]) == pytest.approx(1 / 3)
