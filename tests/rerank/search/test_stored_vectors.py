"""Vectors are read out of FAISS indexes as they were put in, from memory and from a mapped file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from relied_on import relied_on
from sparring.rerank.search.index import load_faiss
from sparring.rerank.search.index_types import Layout
from sparring.rerank.search.stored_vectors import stored_vectors

ADAPTER = "rerank/search/stored_vectors.py"


@pytest.mark.parametrize("kind", ["flat", "hnsw"])
@pytest.mark.parametrize("mapped", [False, True])
def test_vectors_come_back_without_a_copy(kind: str, mapped: bool, tmp_path: Path) -> None:
    faiss = load_faiss()
    vectors = np.random.default_rng(0).normal(size=(50, 8)).astype(np.float32)
    with relied_on("faiss-cpu", ADAPTER):
        index = faiss.index_factory(8, Layout(kind).factory(50, 8), faiss.METRIC_INNER_PRODUCT)
        index.add(vectors)
        if mapped:
            faiss.write_index(index, str(tmp_path / "index.faiss"))
            index = faiss.read_index(str(tmp_path / "index.faiss"), faiss.IO_FLAG_MMAP_IFC)
        found = stored_vectors(faiss, index, kind)
        assert found is not None and not found.flags.owndata
        np.testing.assert_array_equal(found, vectors)
        np.testing.assert_array_equal(index.reconstruct_n(0, 50), vectors)


@pytest.mark.parametrize("kind", ["ivf", "ivfpq"])
def test_vectors_in_lists_are_not_given(kind: str) -> None:
    assert stored_vectors(load_faiss(), object(), kind) is None
