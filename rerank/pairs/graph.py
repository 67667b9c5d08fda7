"""The comparison graph: which candidates are linked by comparisons."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..vocabulary import Preferences
from .table import Table


def components(preferences: Preferences) -> NDArray[np.int64]:
    """The connected component of the comparison graph of every candidate, (sum of sizes,), unique over topics."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    starts = np.cumsum(preferences.sizes) - preferences.sizes
    shift = np.repeat(starts, np.diff(preferences.offsets))
    total = int(preferences.sizes.sum())
    played = slice(None) if preferences.weight is None else preferences.weight > 0
    ends = (shift + preferences.first)[played], (shift + preferences.second)[played]
    links = (np.ones(len(ends[0])), ends)
    _, labels = connected_components(coo_array(links, shape=(total, total)), directed=False)
    return labels.astype(np.int64)


def islands(table: Table) -> NDArray[np.int64]:
    """The connected component of every candidate of a batch, numbered from 0 within its topic, (q, n).

    Padding shares one number, n - 1, that no real candidate of its topic has.
    """
    count, n = table.mask.shape
    label = np.full((count, n), n - 1, np.int64)
    label[table.mask] = components(table.preferences)  # numbered on from topic to topic
    start = np.where(table.mask, label, label.max()).min(axis=1, keepdims=True)
    numbers: NDArray[np.int64] = np.where(table.mask, label - start, n - 1)
    return numbers
