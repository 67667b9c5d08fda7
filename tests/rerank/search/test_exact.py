"""Exact search: equal to brute force, ties in order, the same on every device."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sparring.rerank.search.exact import exact_search


def brute_force(queries: np.ndarray, vectors: np.ndarray, depth: int, allowed: list[int]) -> list[list[int]]:
    scores = queries.astype(np.float64) @ vectors.astype(np.float64).T
    return [sorted(allowed, key=lambda i: (-row[i], i))[:depth] for row in scores]


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 200), st.integers(1, 30), st.integers(1, 64), st.integers(0, 2**32 - 1), st.booleans())
def test_exact_search_is_exact_also_in_ties(n: int, depth: int, cells: int, seed: int, filtered: bool) -> None:
    rng = np.random.default_rng(seed)
    vectors = rng.integers(-2, 3, (n, 3)).astype(np.float32)  # small integers: many ties, no rounding
    queries = rng.integers(-2, 3, (4, 3)).astype(np.float32)
    allowed = np.flatnonzero(rng.random(n) < 0.5) if filtered else np.arange(n)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sparring.rerank.search.exact.CPU_CELLS", cells)  # many small chunks
        found, scores = exact_search(queries, vectors, depth, "dot", allowed=allowed if filtered else None)
    expected = brute_force(queries, vectors, depth, allowed.tolist())
    assert [row[row >= 0].tolist() for row in found] == expected
    assert (scores[:, 1:] <= scores[:, :-1]).all()
    assert np.isneginf(scores[found < 0]).all()


def test_euclidean_scores_are_minus_distances() -> None:
    vectors = np.array([[0, 0], [3, 4], [1, 0]], np.float32)
    positions, scores = exact_search(np.zeros((1, 2), np.float32), vectors, 3, "euclidean")
    assert positions.tolist() == [[0, 2, 1]] and np.allclose(scores, [[0, -1, -5]], atol=1e-6)


@pytest.mark.gpu
def test_exact_search_on_a_gpu_is_that_on_a_cpu() -> None:
    rng = np.random.default_rng(0)
    vectors = rng.integers(-3, 4, (20000, 16)).astype(np.float32)
    here = exact_search(vectors[:50], vectors, 100, "dot")
    there = exact_search(vectors[:50], vectors, 100, "dot", device="cuda")
    assert (here[0] == there[0]).all() and (here[1] == there[1]).all()
