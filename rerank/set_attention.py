"""Inter-passage attention of the Set-Encoder (Schlatt et al., ECIR 2025) over packed sequences.

A token attends to its own sequence and to one *interaction* token of every other sequence of its group. Keys and
values of interaction tokens are projected once, as those of all tokens, and gathered. On CUDA in half precision
nothing is gathered per sequence: a kernel call over the own tokens without the interaction token and one over the
group's interaction tokens are merged by their log-sum-exp, so that the own interaction token counts once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import scaled_dot_product_attention

from .attention import STEP, Bucket, attend
from .batching import Batch
from .varlen import Ends, kernel_fits, varlen_lse

SET = "sparring_set"
CHUNK = {"cpu": 1 << 13, "cuda": 1 << 18}  # keys gathered at a time: on CPUs they should stay in the cache

Kernel = Callable[..., tuple[torch.Tensor, torch.Tensor]]


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


class SetLayout:
    """Where sequences, groups and interaction tokens lie; a `sparring.rerank.attention.Mixing`.

    Args:
        batch: packed sequences, groups whole.
        place: of the interaction token in its sequence, 0 for the first.
        depth: groups smaller than this are filled up with the mean of their interaction tokens' keys and values,
            as a model trained with sampled missing documents expects; None invents nothing.
    """

    def __init__(self, batch: Batch, place: int = 0, depth: int | None = None) -> None:
        self.boundaries = batch.boundaries
        self.lengths = batch.lengths
        self.longest = int(batch.lengths.max())
        self.starts: NDArray[np.int64] = np.cumsum(batch.lengths) - batch.lengths
        self.interaction: NDArray[np.int64] = self.starts + np.minimum(place, batch.lengths - 1)
        self.groups = batch.groups
        self.sizes: NDArray[np.int64] = np.diff(batch.groups)
        self.group: NDArray[np.int64] = np.repeat(np.arange(len(self.sizes)), self.sizes)
        self.missing = None if depth is None else np.maximum(depth - self.sizes, 0)

    def mix(self, qkv: torch.Tensor, scaling: float, fixed_splits: bool) -> torch.Tensor:
        """Attention of all tokens: queries, keys and values (T, 3, heads, d) to values (T, heads, d)."""
        return self.attend(qkv[:, 0], qkv[:, 1:], scaling, None, fixed_splits)

    def mix_first(self, query: torch.Tensor, kv: torch.Tensor, scaling: float, fixed_splits: bool) -> torch.Tensor:
        """Attention of the first tokens: queries (S, heads, d), keys and values (T, 2, heads, d)."""
        if kernel_fits(kv) and self.missing is None:
            return self.merged(varlen_lse, query, kv, scaling, None, fixed_splits, first=True)
        kv = self._filled(kv)
        parts = []
        for bucket in self.buckets:
            k, v = bucket.keys.rows(kv).permute(2, 0, 3, 1, 4)
            asked = query.index_select(0, bucket.own.sequences)[:, :, None]
            mask = bucket.mask(query.dtype, None)
            parts.append(scaled_dot_product_attention(asked, k, v, attn_mask=mask, scale=scaling)[:, :, 0])
        return torch.cat(parts).index_select(0, self._sequence_order)

    def attend(
        self, query: torch.Tensor, kv: torch.Tensor, scaling: float | None, window: int | None, fixed_splits: bool
    ) -> torch.Tensor:
        """Attention of all tokens: queries (T, heads, d), keys and values (T, 2, heads, d) to (T, heads, d).

        A ``window`` w lets token i see token j of its own sequence where |i - j| < w; other sequences' interaction
        tokens are seen from everywhere.
        """
        if kernel_fits(query, window) and self.missing is None:
            return self.merged(varlen_lse, query, kv, scaling, window, fixed_splits)
        kv = self._filled(kv)
        parts = []
        for bucket in self.buckets:
            q = bucket.own.rows(query).transpose(1, 2)
            k, v = bucket.keys.rows(kv).permute(2, 0, 3, 1, 4)
            mask = bucket.mask(query.dtype, window)
            found = attend(q, k, v, mask, scaling)
            parts.append(bucket.own.flat(found.transpose(1, 2)))
        values = parts[0] if len(parts) == 1 else torch.cat(parts)
        return values if self._token_order is None else values.index_select(0, self._token_order)

    def merged(
        self,
        kernel: Kernel,
        query: torch.Tensor,
        kv: torch.Tensor,
        scaling: float | None,
        window: int | None,
        fixed_splits: bool,
        first: bool = False,
    ) -> torch.Tensor:
        """The same by two calls of a ``kernel`` like `sparring.rerank.varlen.varlen_lse`.

        With ``first``, queries are those of the first tokens alone, (S, heads, d).
        """
        device, dtype = query.device, torch.int32
        count = len(self.lengths)
        each = torch.arange(count + 1, dtype=dtype, device=device)
        asks: Ends = (each, 1) if first else (self.boundaries, self.longest)
        k, v = kv.unbind(1)
        if window is None:
            rest = self._rest
            ends = self.boundaries - each, self.longest - 1
            own, own_lse = kernel(
                query, k[rest], v[rest], asks, ends, scaling, window=None, fixed_splits=fixed_splits
            )
            groups = torch.from_numpy(self.groups.astype(np.int32)).to(device)
            starts = groups if first else self.boundaries[groups.long()]
            span = np.diff(self.groups if first else np.concatenate([self.starts, [len(query)]])[self.groups])
            by_group: Ends = (starts, int(span.max()))
            shared = torch.from_numpy(self.interaction).to(device)
            keys: Ends = (groups, int(self.sizes.max()))
            others, others_lse = kernel(
                query, k[shared], v[shared], by_group, keys, scaling, window=None, fixed_splits=fixed_splits
            )
            return _merge(own, own_lse, others, others_lse)
        # a window may hide the own interaction token, so that the others' are gathered for every sequence
        ends = self.boundaries, self.longest
        own, own_lse = kernel(query, k, v, asks, ends, scaling, window=window, fixed_splits=fixed_splits)
        foreign, counts = self._others(np.arange(count))
        if not len(foreign):
            return own
        gathered = torch.from_numpy(foreign).to(device)
        cumulative = torch.from_numpy(np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)).to(device)
        keys = (cumulative, int(counts.max()))
        others, others_lse = kernel(
            query, k[gathered], v[gathered], asks, keys, scaling, window=None, fixed_splits=fixed_splits
        )
        alone = torch.from_numpy(np.repeat(counts == 0, self.lengths)).to(device)[:, None]
        return _merge(own, own_lse, others.nan_to_num(), others_lse.masked_fill(alone, -torch.inf))

    @cached_property
    def buckets(self) -> list[SetBucket]:
        """The sequences by rounded length and number of keys, so that a row does not depend on its neighbours."""
        filled = np.zeros_like(self.sizes) if self.missing is None else (self.missing > 0).astype(np.int64)
        keys = self.lengths + (self.sizes - 1 + filled)[self.group]
        widths = np.stack([-(-self.lengths // STEP) * STEP, -(-keys // STEP) * STEP], axis=1)
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
        foreign, others = self._others(chosen)
        table = np.zeros((len(chosen), key_width), np.int64)
        bias = np.full((len(chosen), key_width), -np.inf, np.float32)
        place = np.arange(key_width)
        bias[place < counts[:, None]] = 0
        table[place < lengths[:, None]] = tokens[own]
        table[(place >= lengths[:, None]) & (place < (lengths + others)[:, None])] = foreign
        if self.missing is not None:  # one key that counts as often as documents are missing
            group = self.group[chosen]
            rows = np.flatnonzero(self.missing[group] > 0)
            table[rows, counts[rows] - 1] = int(self.lengths.sum()) + group[rows]
            bias[rows, counts[rows] - 1] = np.log(self.missing[group[rows]])
        place_on = self.boundaries.device
        sequences, own_index, key_index, own_lengths, key_lengths = (
            torch.from_numpy(x).to(place_on) for x in (chosen, tokens.ravel(), table.ravel(), lengths, counts)
        )
        places = None if own.all() else torch.from_numpy(np.flatnonzero(own)).to(place_on)
        mask = torch.from_numpy(bias[:, None, None]).to(place_on) if bias.any() else None
        return SetBucket(
            own=Bucket(sequences, own_index, None, places, own_width),
            keys=Bucket(sequences, key_index, None, None, key_width),
            bias=mask,
            own_lengths=own_lengths,
            key_lengths=key_lengths,
        )

    def _others(self, chosen: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Interaction tokens of the other members of each sequence's group; how many, (n,)."""
        counts = self.sizes[self.group[chosen]] - 1
        first = self.groups[self.group[chosen]]
        ends = np.cumsum(counts)
        turn = np.arange(int(counts.sum())) - np.repeat(ends - counts, counts)
        member = np.repeat(first, counts) + turn
        member += turn >= np.repeat(chosen - first, counts)  # skips the sequence itself
        return self.interaction[member], counts

    def _filled(self, kv: torch.Tensor) -> torch.Tensor:
        """Keys and values; where documents are missing, behind them the means of the interaction tokens."""
        if self.missing is None:
            return kv
        device = kv.device
        rows = kv.index_select(0, torch.from_numpy(self.interaction).to(device)).float()
        group = torch.from_numpy(self.group).to(device)
        sums = rows.new_zeros(len(self.sizes), *rows.shape[1:]).index_add_(0, group, rows)
        sizes = torch.from_numpy(self.sizes).to(device)[:, None, None, None]
        return torch.cat([kv, (sums / sizes).to(kv.dtype)])

    @cached_property
    def _rest(self) -> torch.Tensor:
        """All tokens but the interaction tokens."""
        kept = np.delete(np.arange(int(self.lengths.sum())), self.interaction)
        return torch.from_numpy(kept).to(self.boundaries.device)

    @cached_property
    def _sequence_order(self) -> torch.Tensor:
        return torch.cat([bucket.own.sequences for bucket in self.buckets]).argsort()

    @cached_property
    def _token_order(self) -> torch.Tensor | None:
        sequences = torch.cat([bucket.own.sequences for bucket in self.buckets]).cpu().numpy()
        if (np.diff(sequences) > 0).all():
            return None
        lengths = self.lengths[sequences]
        ends = np.cumsum(lengths)
        moved = np.arange(int(ends[-1])) + np.repeat(self.starts[sequences] - (ends - lengths), lengths)
        return torch.from_numpy(np.argsort(moved)).to(self.boundaries.device)


def _merge(one: torch.Tensor, one_lse: torch.Tensor, other: torch.Tensor, other_lse: torch.Tensor) -> torch.Tensor:
    """Attention to the union of two disjoint sets of keys, from the values (T, heads, d) and scores of each."""
    share = torch.sigmoid(other_lse.float() - one_lse.float())[..., None]
    return torch.lerp(one, other, share.to(one.dtype))


def set_attention(
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
    """`SetLayout.attend` as transformers calls it: (1, heads, T, d) to (1, T, heads, d)."""
    layout: SetLayout = kwargs["layout"]
    kv = torch.stack([key[0].transpose(0, 1), value[0].transpose(0, 1)], dim=1)
    out = layout.attend(query[0].transpose(0, 1), kv, scaling, sliding_window, bool(kwargs.get("fixed_splits")))
    return out[None], None


def register() -> None:
    """Makes `SET` known to transformers."""
    from transformers import AttentionInterface

    AttentionInterface.register(SET, set_attention)
