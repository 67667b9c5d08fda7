"""Exact search over vectors, in chunks, on a CPU or a GPU, with ties in collection order."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from .bi_encoder import Vectors

CPU_CELLS, CUDA_CELLS = 1 << 25, 1 << 29
"""Scores that are computed at a time: 128 MB on a CPU, 2 GB on a GPU."""
QUERIES = 512


def exact_search(
    queries: Vectors,
    vectors: Vectors,
    depth: int,
    similarity: str = "cosine",
    *,
    allowed: NDArray[np.int64] | None = None,
    device: torch.device | str = "cpu",
) -> tuple[NDArray[np.int64], Vectors]:
    """The ``depth`` nearest vectors of every query.

    Args:
        queries: (q, d); normalised already where similarity is cosine, as ``vectors`` are.
        vectors: (n, d), may be a memory map; it is read once.
        similarity: cosine and dot are the inner product, euclidean is minus the distance.
        allowed: ascending positions that may be found, (m,); all where None.

    Returns:
        positions (q, depth), -1 where there are fewer vectors; scores (q, depth), -inf there. Best first; equal
        scores in the order of ``vectors``, also at the cut.
    """
    size = len(vectors) if allowed is None else len(allowed)
    positions = np.full((len(queries), depth), -1, np.int64)
    scores = np.full((len(queries), depth), -np.inf, np.float32)
    device = torch.device(device)
    rows = max(depth, (CPU_CELLS if device.type == "cpu" else CUDA_CELLS) // max(1, min(QUERIES, len(queries))))
    for start in range(0, size, rows):
        if allowed is None:
            part, place = vectors[start : start + rows], np.arange(start, min(start + rows, size))
        else:
            place = allowed[start : start + rows]
            part = vectors[place]
        chunk = torch.from_numpy(np.asarray(part)).to(device)
        for first in range(0, len(queries), QUERIES):
            batch = slice(first, first + QUERIES)
            found = _scores(torch.from_numpy(queries[batch]).to(device), chunk, similarity)
            _merge(positions[batch], scores[batch], found, place, full=start >= depth)
    return positions, scores


def _scores(queries: torch.Tensor, chunk: torch.Tensor, similarity: str) -> torch.Tensor:
    return -torch.cdist(queries, chunk) if similarity == "euclidean" else queries @ chunk.T


def _merge(
    positions: NDArray[np.int64], scores: Vectors, found: torch.Tensor, place: NDArray[np.int64], full: bool
) -> None:
    """Puts the scores of a later chunk into the best so far, in place.

    Only scores that can enter are looked at: above the last of a full list, else not below the depth-th of the
    chunk. Later documents lose ties, so none is missed.
    """
    depth = scores.shape[1]
    if full:
        enters = found > torch.from_numpy(scores[:, -1:]).to(found.device)
    elif found.shape[1] > depth:
        enters = found >= found.topk(depth, dim=1).values[:, -1:]
    else:
        enters = torch.ones_like(found, dtype=torch.bool)
    rows, columns = enters.nonzero(as_tuple=True)
    values = found[rows, columns].cpu().numpy()
    changed = np.unique(rows.cpu().numpy())
    if not len(changed):
        return
    old_rows, old_columns = np.nonzero(positions[changed] >= 0)
    row = np.concatenate([changed[old_rows], rows.cpu().numpy()])
    value = np.concatenate([scores[changed][old_rows, old_columns], values])
    where = np.concatenate([positions[changed][old_rows, old_columns], place[columns.cpu().numpy()]])
    order = np.lexsort((where, -value, row))
    row, value, where = row[order], value[order], where[order]
    rank = np.arange(len(row)) - np.searchsorted(row, row)
    kept = rank < depth
    positions[row[kept], rank[kept]] = where[kept]
    scores[row[kept], rank[kept]] = value[kept]
