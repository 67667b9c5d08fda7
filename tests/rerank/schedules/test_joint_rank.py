"""JointRank's synthetic study: a ranker without noise on blocks of each design, 150 seeded collections."""

from __future__ import annotations

import numpy as np
import pytest
from sparring.rerank.registry import aggregators, schedules
from sparring.rerank.vocabulary import Preferences

TRIALS = 150


def implied(n: int, spec: str, seed: int) -> tuple[Preferences, np.ndarray]:
    """All pairs inside the blocks, the better always preferred, and the ranks (n is the best) of the items."""
    rank = np.random.default_rng([seed, n]).permutation(n) + 1
    blocks = next(schedules.parse(spec).rounds(np.zeros(n), np.random.default_rng(seed)))
    left, right = np.triu_indices(blocks.shape[1], 1)
    first, second = blocks[:, left].ravel(), blocks[:, right].ravel()
    real = (first >= 0) & (second >= 0)
    first, second = first[real], second[real]
    won = (rank[first] > rank[second]).astype(float)
    return Preferences(np.array([n]), np.array([0, len(first)]), first, second, won), rank


def ndcg(scores: np.ndarray, rank: np.ndarray) -> float:
    """nDCG@10 with the gain 2^rank of the study."""
    discount = 1 / np.log2(np.arange(10) + 2)
    gain = np.exp2(rank - float(len(rank)))
    best = np.sort(gain)[::-1][:10]
    return float(gain[np.argsort(-scores, kind="stable")[:10]] @ discount / (best @ discount))


@pytest.mark.parametrize(
    ("n", "design", "map_", "pagerank", "win_rate"),
    [
        (55, "blocks(size=10)", 87, 88, 82),
        (100, "blocks(size=10, design=latin)", 77, 75, 69),
        (100, "blocks(size=20)", 88, 87, 83),
        (100, "blocks(size=10, design=random)", 69, 63, 61),
    ],
)
def test_synthetic_designs(n: int, design: str, map_: int, pagerank: int, win_rate: int) -> None:
    parts = [implied(n, design, seed) for seed in range(TRIALS)]
    said = Preferences.join(part for part, _ in parts)
    specs = {"bradley_terry(mean=0.0)": map_, "pagerank(edges=wins)": pagerank, "win_rate": win_rate}
    for spec, published in specs.items():
        scores = np.split(aggregators.parse(spec)(said), TRIALS)
        found = np.array([ndcg(s, rank) for s, (_, rank) in zip(scores, parts, strict=True)])
        error = found.std() / np.sqrt(TRIALS)
        assert abs(100 * found.mean() - published) < 3 + 300 * error, (spec, found.mean(), error)
