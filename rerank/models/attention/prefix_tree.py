"""Causal attention that computes a common beginning once: a prompt and its query are read once for all passages.

The distinct tokens of a batch are laid out as beginnings followed by tails; a tail's queries attend to the keys of
its beginning and its own. Exact, because in a causal model a beginning does not depend on what follows it.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import scaled_dot_product_attention

from ...engine.batches import Batch
from .buckets import rounded
from .interface import use
from .varlen import kernel_fits, varlen

SHARED = "sparring_shared_prefix"
Numbers = NDArray[np.int64]


class Tree:
    """Where the distinct tokens of a batch lie, and which keys each part of them sees.

    Args:
        batch: its ``beginnings`` are shared where at least two sequences have them.

    Attributes:
        tokens: rows of the batch to compute, (T,).
        last: the last token of each sequence among those, (S,).
    """

    def __init__(self, batch: Batch) -> None:
        self.device = batch.input_ids.device
        lengths, starts = batch.lengths, np.cumsum(batch.lengths) - batch.lengths
        owner, common, first = self._common(batch)
        tails = lengths - common[owner]
        kept = np.flatnonzero(common)  # parts are these beginnings, then one tail per sequence
        self.queries = np.concatenate([common[kept], tails])
        offsets = np.cumsum(self.queries) - self.queries
        self.tokens = self._tensor(
            ragged(np.concatenate([starts[first[kept]], starts + common[owner]]), self.queries)
        )
        place = np.zeros(len(common), np.int64)
        place[kept] = offsets[: len(kept)]
        self.last = self._tensor(offsets[len(kept) :] + tails - 1)
        seen = np.column_stack([common[owner], tails])  # keys of a sequence's tail: the beginning's, then its own
        where = np.column_stack([place[owner], offsets[len(kept) :]])
        self.key_counts = np.concatenate([common[kept], lengths])
        self._keys = np.concatenate(
            [ragged(place[kept], common[kept]), ragged(where.ravel(), seen.ravel())], dtype=np.int64
        )

    @staticmethod
    def _common(batch: Batch) -> tuple[Numbers, Numbers, Numbers]:
        """Of each sequence its group; of each group the shared length (0: not shared) and its first sequence."""
        if batch.beginnings is None:
            every = np.arange(len(batch.lengths))
            return every, np.zeros(len(every), np.int64), every
        _, first, owner, count = np.unique(
            batch.beginnings.group, return_index=True, return_inverse=True, return_counts=True
        )
        return owner, np.where(count > 1, batch.beginnings.lengths[first], 0), first

    def _tensor(self, values: NDArray[Any]) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(values)).to(self.device)

    @cached_property
    def keys(self) -> torch.Tensor:
        """For every part the tokens whose keys it sees, part after part."""
        return self._tensor(self._keys)

    @cached_property
    def ends(self) -> tuple[tuple[torch.Tensor, int], tuple[torch.Tensor, int]]:
        """Boundaries and longest part, of queries and of keys, for the variable-length kernel."""
        query, key = (
            (self._tensor(np.concatenate([[0], np.cumsum(n)]).astype(np.int32)), int(n.max()))
            for n in (self.queries, self.key_counts)
        )
        return query, key

    @cached_property
    def buckets(self) -> list[tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]]:
        """Parts of about the same size: rows of query tokens (n, w), of key tokens (n, m), what lies behind which
        (n, w, m), and the places in the rows that hold query tokens."""
        shape = rounded(np.column_stack([self.queries, self.key_counts]))
        query_starts = np.cumsum(self.queries) - self.queries
        key_starts = np.cumsum(self.key_counts) - self.key_counts
        found = []
        for width, many in np.unique(shape, axis=0).tolist():
            chosen = np.flatnonzero((shape == (width, many)).all(axis=1))
            n, m = self.queries[chosen, None], self.key_counts[chosen, None]
            column, key_column = np.arange(width), np.arange(many)
            real = column < n
            rows = np.where(real, query_starts[chosen, None] + column, 0)
            keys = np.where(
                key_column < m,
                self._keys[np.minimum(key_starts[chosen, None] + key_column, len(self._keys) - 1)],
                0,
            )
            distance = (m - n + column)[:, :, None] - key_column[None, None, :]
            found.append(
                (
                    self._tensor(rows),
                    self._tensor(keys),
                    self._tensor(distance),
                    self._tensor(np.flatnonzero(real)),
                )
            )
        return found


def ragged(starts: Numbers, lengths: Numbers) -> Numbers:
    """The numbers ``starts[i] .. starts[i] + lengths[i] - 1`` for each i, one after the other."""
    ends = np.cumsum(lengths)
    total = int(ends[-1]) if len(ends) else 0
    numbers: Numbers = np.arange(total) + np.repeat(starts - (ends - lengths), lengths)
    return numbers


def shared_attention(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None = None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Causal attention along the `Tree` of a batch; query, key and value are (1, heads, T, d)."""
    tree: Tree = kwargs["tree"]
    q, k, v = (x[0].transpose(0, 1) for x in (query, key, value))
    if kernel_fits(q, sliding_window):
        k, v = (x.index_select(0, tree.keys) for x in (k, v))
        fixed = bool(kwargs.get("fixed_splits"))
        return varlen(q, k, v, *tree.ends, scaling, True, sliding_window, fixed)[None], None
    out = torch.empty_like(q)
    for rows, keys, distance, places in tree.buckets:
        mask = distance >= 0 if sliding_window is None else (distance >= 0) & (distance < sliding_window)
        part = scaled_dot_product_attention(
            q[rows].transpose(1, 2),
            k[keys].transpose(1, 2),
            v[keys].transpose(1, 2),
            attn_mask=mask[:, None],
            scale=scaling,
            enable_gqa=q.shape[1] != k.shape[1],
        )
        values = part.transpose(1, 2).flatten(0, 1)[places]
        out[rows.flatten()[places]] = values
    return out[None], None


def attach(module: Any) -> None:
    """Makes `shared_attention` the attention of a transformers model."""
    use(module, SHARED, shared_attention)
