"""Where sequences, groups and interaction tokens of a Set-Encoder's batch lie; what each attends to, as rows."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray

from ...engine.batches import Batch
from .buckets import Bucket, rounded, token_order

CHUNK = {"cpu": 1 << 13, "cuda": 1 << 18}  # keys gathered at a time: on CPUs they should stay in the cache


@dataclass(frozen=True, slots=True)
class SetBucket:
    """Sequences of about the same length in groups of about the same size.

    Args:
        own: their tokens as rows, which ask.
        keys: what they attend to as rows: their own tokens, then the interaction tokens of the others.
        bias: added to the attention scores, (n, 1, 1, keys.width), 0 on keys and -inf on padding; None without.
        own_lengths, key_lengths: tokens and keys of each row, (n,).
    """

    own: Bucket
    keys: Bucket
    bias: torch.Tensor | None
    own_lengths: torch.Tensor
    key_lengths: torch.Tensor

    def mask(self, dtype: torch.dtype, window: int | None) -> torch.Tensor | None:
        """What is added to the scores; a window hides distant tokens of the own sequence and nothing else."""
        bias = None if self.bias is None else self.bias.to(dtype)
        if window is None or self.own.width <= window:
            return bias
        device = self.key_lengths.device
        row = torch.arange(self.own.width, device=device)[:, None]
        column = torch.arange(self.keys.width, device=device)
        length = self.own_lengths[:, None, None, None]
        near = ((row - column).abs() < window) | (column >= length)
        near = near | ((column == 0) & (row >= length))  # padded rows see something: no row is all masked
        hidden = torch.zeros((), dtype=dtype, device=device).masked_fill(~near, -torch.inf)
        return hidden if bias is None else hidden + bias


class SetPlaces:
    """Where sequences, groups and interaction tokens lie.

    Args:
        batch: packed sequences, groups whole.
        offset: of the interaction token in its sequence, 0 for the first.
        depth: groups smaller than this are filled up with the mean of their interaction tokens' keys and values,
            as a model trained with sampled missing documents expects; None invents nothing.
    """

    def __init__(self, batch: Batch, offset: int = 0, depth: int | None = None) -> None:
        self.boundaries = batch.boundaries
        self.lengths = batch.lengths
        self.longest = int(batch.lengths.max())
        self.starts: NDArray[np.int64] = np.cumsum(batch.lengths) - batch.lengths
        self.interaction: NDArray[np.int64] = self.starts + np.minimum(offset, batch.lengths - 1)
        self.groups = batch.groups
        self.sizes: NDArray[np.int64] = np.diff(batch.groups)
        self.group: NDArray[np.int64] = np.repeat(np.arange(len(self.sizes)), self.sizes)
        self.missing = None if depth is None else np.maximum(depth - self.sizes, 0)
        self.offset = offset

    @cached_property
    def buckets(self) -> list[SetBucket]:
        """The sequences by rounded length and number of keys, so that a row does not depend on its neighbours."""
        filled = np.zeros_like(self.sizes) if self.missing is None else (self.missing > 0).astype(np.int64)
        keys = self.lengths + (self.sizes - 1 + filled)[self.group]
        widths = np.stack([rounded(self.lengths), rounded(keys)], axis=1)
        kinds, kind = np.unique(-widths, axis=0, return_inverse=True)
        limit = CHUNK.get(self.boundaries.device.type, CHUNK["cuda"])
        buckets = []
        for number, (own_width, key_width) in enumerate((-kinds).tolist()):
            chosen = np.flatnonzero(kind.reshape(-1) == number)
            step = max(1, limit // key_width)
            for low in range(0, len(chosen), step):
                buckets.append(self._bucket(chosen[low : low + step], own_width, key_width, keys))
        return buckets

    def _bucket(
        self, chosen: NDArray[np.int64], own_width: int, key_width: int, keys: NDArray[np.int64]
    ) -> SetBucket:
        lengths, counts = self.lengths[chosen], keys[chosen]
        column = np.arange(own_width)
        own = column < lengths[:, None]
        tokens = np.where(own, self.starts[chosen, None] + column, 0)
        foreign, others = self.others(chosen)
        table = np.zeros((len(chosen), key_width), np.int64)
        bias = np.full((len(chosen), key_width), -np.inf, np.float32)
        column = np.arange(key_width)
        bias[column < counts[:, None]] = 0
        table[column < lengths[:, None]] = tokens[own]
        table[(column >= lengths[:, None]) & (column < (lengths + others)[:, None])] = foreign
        if self.missing is not None:  # one key that counts as often as documents are missing
            group = self.group[chosen]
            rows = np.flatnonzero(self.missing[group] > 0)
            table[rows, counts[rows] - 1] = int(self.lengths.sum()) + group[rows]
            bias[rows, counts[rows] - 1] = np.log(self.missing[group[rows]])
        device = self.boundaries.device
        sequences, own_index, key_index, own_lengths, key_lengths = (
            torch.from_numpy(x).to(device) for x in (chosen, tokens.ravel(), table.ravel(), lengths, counts)
        )
        places = None if own.all() else torch.from_numpy(np.flatnonzero(own)).to(device)
        mask = torch.from_numpy(bias[:, None, None]).to(device) if bias.any() else None
        return SetBucket(
            own=Bucket(sequences, own_index, None, places, own_width),
            keys=Bucket(sequences, key_index, None, None, key_width),
            bias=mask,
            own_lengths=own_lengths,
            key_lengths=key_lengths,
        )

    def others(self, chosen: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Interaction tokens of the other members of each sequence's group; how many, (n,)."""
        counts = self.sizes[self.group[chosen]] - 1
        first = self.groups[self.group[chosen]]
        ends = np.cumsum(counts)
        turn = np.arange(int(counts.sum())) - np.repeat(ends - counts, counts)
        member = np.repeat(first, counts) + turn
        member += turn >= np.repeat(chosen - first, counts)  # skips the sequence itself
        return self.interaction[member], counts

    @cached_property
    def sequence_order(self) -> torch.Tensor:
        return torch.cat([bucket.own.sequences for bucket in self.buckets]).argsort()

    @cached_property
    def token_order(self) -> torch.Tensor | None:
        sequences = torch.cat([bucket.own.sequences for bucket in self.buckets]).cpu().numpy()
        order = token_order(sequences, self.lengths)
        return None if order is None else order.to(self.boundaries.device)
