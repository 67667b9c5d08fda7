"""Made-up comparisons, and what an aggregator says of them."""

from __future__ import annotations

import numpy as np
from scipy.special import expit
from sparring.rerank.registry import aggregators
from sparring.rerank.vocabulary import Preferences


def single(size, first, second, probability, weight=None, prior=None, source=None) -> Preferences:
    return Preferences(
        np.array([size]),
        np.array([0, len(first)]),
        np.asarray(first, np.int32),
        np.asarray(second, np.int32),
        np.asarray(probability, float),
        weight,
        prior,
        source,
    )


def duels(seed: int, size: int = 8, games: int = 120, ties: float = 0.0) -> Preferences:
    """Hard outcomes, with ties at the rate asked for, dense enough that maximum likelihood exists."""
    rng = np.random.default_rng(seed)
    skill = rng.normal(size=size) * 0.7
    first = rng.integers(size, size=games)
    second = (first + rng.integers(1, size, size=games)) % size
    said = (rng.random(games) < expit(skill[first] - skill[second])).astype(float)
    said[rng.random(games) < ties] = 0.5
    return single(size, first, second, said)


def run(spec: str, preferences: Preferences) -> np.ndarray:
    return aggregators.parse(spec)(preferences)


def centred(values) -> np.ndarray:
    return np.asarray(values) - np.mean(values)


def for_choix(said: Preferences) -> list[tuple[int, int]]:
    rows = zip(said.first.tolist(), said.second.tolist(), said.probability, strict=True)
    return [(a, b) if p > 0.5 else (b, a) for a, b, p in rows]


def soft(seed: int, size: int = 9, games: int = 40, sources: int = 0) -> Preferences:
    rng = np.random.default_rng(seed)
    first = rng.integers(size, size=games)
    second = (first + rng.integers(1, size, size=games)) % size
    return single(
        size,
        first,
        second,
        rng.random(games),
        rng.uniform(0.5, 2, games),
        np.sort(rng.normal(size=size))[::-1],
        rng.integers(sources, size=games).astype(np.int32) if sources else None,
    )
