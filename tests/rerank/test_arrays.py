"""Ragged ranges."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from sparring.rerank.arrays import ragged


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 6))))
def test_they_are_the_ranges_one_after_the_other(rows: list[tuple[int, int]]) -> None:
    table = np.array(rows, np.int64).reshape(-1, 2)
    expected = [number for start, length in rows for number in range(start, start + length)]
    found = ragged(table[:, 0], table[:, 1])
    assert found.tolist() == expected and found.dtype == np.int64
