"""Index arithmetic on arrays of ragged rows."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.int64]


def ragged(starts: Numbers, lengths: Numbers) -> Numbers:
    """The numbers ``starts[i]``, ..., ``starts[i] + lengths[i] - 1`` of every i, one row after the other."""
    before = np.cumsum(lengths) - lengths
    numbers: Numbers = np.arange(int(lengths.sum())) + np.repeat(starts - before, lengths)
    return numbers
