"""Rank fusion by the published formulas."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from sparring.rerank.search.fusion import borda, fuse, rrf

RANKS = np.array([[1.0, 2.0, 3.0, np.nan], [2.0, 1.0, np.nan, np.nan]])


def test_reciprocal_ranks_add_up_and_absence_adds_nothing():
    expected = [1 / 61 + 1 / 62, 1 / 62 + 1 / 61, 1 / 63, 0.0]
    np.testing.assert_allclose(rrf(RANKS), expected)
    np.testing.assert_allclose(rrf(RANKS[:1], k=0.0), [1, 1 / 2, 1 / 3, 0])


def test_borda_shares_the_points_of_free_places():
    np.testing.assert_allclose(borda(RANKS), [4 + 3, 3 + 4, 2 + 1.5, 1 + 1.5])
    assert borda(RANKS).sum() == 2 * (4 + 3 + 2 + 1)


def test_weights_multiply_rankings():
    np.testing.assert_allclose(borda(RANKS, [2, 0]), 2 * borda(RANKS[:1]))
    np.testing.assert_allclose(rrf(RANKS, [0, 3]), 3 * rrf(RANKS[1:]))


@pytest.mark.parametrize("method", ["rrf", "borda"])
def test_fusing_one_ranking_keeps_it_and_agreement_wins(method):
    assert [docid for docid, _ in fuse([["b", "a", "c"]], method)] == ["b", "a", "c"]
    fused = fuse([["a", "b", "c"], ["b", "a", "c"], ["b", "c", "a"]], method)
    assert [docid for docid, _ in fused] == ["b", "a", "c"]
    assert all(high[1] >= low[1] for high, low in itertools.pairwise(fused))


def test_level_documents_follow_the_first_ranking():
    assert [docid for docid, _ in fuse([["a", "b"], ["b", "a"]])] == ["a", "b"]
    assert [docid for docid, _ in fuse([["b", "a"], ["a", "b"]])] == ["b", "a"]


def test_wrong_input_is_named():
    with pytest.raises(ValueError, match="lists a document twice"):
        fuse([["a", "a"]])
    with pytest.raises(ValueError, match="unknown fusion"):
        fuse([["a"]], "mean")
    with pytest.raises(ValueError, match="2 weights for 1 rankings"):
        fuse([["a"]], weights=[1, 2])
    with pytest.raises(ValueError, match="ranks start at 1"):
        borda(np.array([[0.0, 1.0]]))
