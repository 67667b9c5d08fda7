"""Attention over packed sequences: every token sees its own sequence only, and no other layer sees padding.

`attach` makes it the attention of a transformers model; `packed_kwargs` makes the keyword arguments that carry the
lengths from the model's call to the attention function. CUDA in half precision uses ``varlen_attn`` of torch.
Elsewhere sequences of about the same length become rows of a `Bucket`; the lean forward pass (`post_norm`) on CPUs
goes through a batch by blocks (`cpu_blocks`) instead.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import torch
from torch.nn.functional import scaled_dot_product_attention

from ...engine.batches import Batch
from .buckets import Bucket, as_rows, rounded, token_order
from .cpu_blocks import Block, cut
from .interface import use
from .products import Shared, attend
from .varlen import kernel_fits, varlen

PACKED = "sparring_packed"


Project = Callable[[torch.Tensor], torch.Tensor]
"""Keys and values (n, 2, heads, d) of the tokens at some places (n,)."""


class Mixing(Protocol):
    """Who attends to whom in a batch: a `Layout`, or the layout of a model that looks across sequences."""

    boundaries: torch.Tensor

    def blocks(self, heads: int, dtype: torch.dtype) -> list[Block]: ...

    def shared(self, project: Project) -> dict[int, Shared]: ...

    def mix(self, qkv: torch.Tensor, scaling: float, fixed_splits: bool) -> torch.Tensor: ...

    def mix_first(
        self, query: torch.Tensor, kv: torch.Tensor, scaling: float, fixed_splits: bool
    ) -> torch.Tensor: ...


class Layout:
    """Where the sequences of a batch lie, for every attention layer of one forward pass."""

    def __init__(self, batch: Batch) -> None:
        self.boundaries = batch.boundaries
        self.lengths = batch.lengths
        self.longest = int(batch.lengths.max())
        self._blocks: list[Block] | None = None

    @cached_property
    def buckets(self) -> list[Bucket]:
        """The sequences by rounded length; few buckets where a batch is sorted by length."""
        starts, widths = np.cumsum(self.lengths) - self.lengths, rounded(self.lengths)
        return [
            as_rows(np.flatnonzero(widths == width), starts, self.lengths, width, self.boundaries.device)
            for width in np.unique(widths)[::-1].tolist()
        ]

    def blocks(self, heads: int, dtype: torch.dtype) -> list[Block]:
        """The batch in the blocks that a CPU computes at a time."""
        if self._blocks is None:
            self._blocks = cut(self.lengths, heads, np.zeros_like(self.lengths), dtype)
        return self._blocks

    def shared(self, project: Project) -> dict[int, Shared]:
        """Nothing: a token sees its own sequence only."""
        return {}

    def join(self, parts: list[torch.Tensor]) -> torch.Tensor:
        """Values of the tokens bucket by bucket, back in the order of the batch."""
        values = parts[0] if len(parts) == 1 else torch.cat(parts)
        return values if self._token_order is None else values.index_select(0, self._token_order)

    def join_sequences(self, parts: list[torch.Tensor]) -> torch.Tensor:
        """One value per sequence, bucket by bucket, back in the order of the batch."""
        values = parts[0] if len(parts) == 1 else torch.cat(parts)
        order = torch.cat([bucket.sequences for bucket in self.buckets]).argsort()
        return values.index_select(0, order)

    def mix(self, qkv: torch.Tensor, scaling: float, fixed_splits: bool) -> torch.Tensor:
        """Attention of all tokens: queries, keys and values (T, 3, heads, d) to values (T, heads, d)."""
        if kernel_fits(qkv):
            ends = self.boundaries, self.longest
            q, k, v = qkv.unbind(1)
            return varlen(q, k, v, ends, ends, scaling, fixed_splits=fixed_splits)
        parts = []
        for bucket in self.buckets:
            q, k, v = bucket.rows(qkv).permute(2, 0, 3, 1, 4)
            found = attend(q, k, v, bucket.mask, scaling)
            parts.append(bucket.flat(found.transpose(1, 2)))
        return self.join(parts)

    def mix_first(self, query: torch.Tensor, kv: torch.Tensor, scaling: float, fixed_splits: bool) -> torch.Tensor:
        """Attention of the first tokens: queries (S, heads, d), keys and values (T, 2, heads, d)."""
        if kernel_fits(kv):
            each = torch.arange(len(query) + 1, dtype=torch.int32, device=query.device)
            k, v = kv.unbind(1)
            ends = self.boundaries, self.longest
            return varlen(query, k, v, (each, 1), ends, scaling, fixed_splits=fixed_splits)
        parts = []
        for bucket in self.buckets:
            k, v = bucket.rows(kv).permute(2, 0, 3, 1, 4)
            asked = query.index_select(0, bucket.sequences)[:, :, None]
            found = scaled_dot_product_attention(asked, k, v, attn_mask=bucket.mask, scale=scaling)
            parts.append(found[:, :, 0])
        return self.join_sequences(parts)

    @cached_property
    def _token_order(self) -> torch.Tensor | None:
        sequences = torch.cat([bucket.sequences for bucket in self.buckets]).cpu().numpy()
        order = token_order(sequences, self.lengths)
        return None if order is None else order.to(self.boundaries.device)


def packed_kwargs(batch: Batch, deterministic: bool = False, causal: bool = False) -> dict[str, Any]:
    """Keyword arguments for a transformers model whose attention is `PACKED`; ``causal`` is for decoders."""
    layout = Layout(batch)
    return {
        "attention_mask": None,
        "cu_seq_lens_q": batch.boundaries,
        "cu_seq_lens_k": batch.boundaries,
        "max_length_q": layout.longest,
        "max_length_k": layout.longest,
        "layout": layout,
        "fixed_splits": deterministic,
        "causal": causal,
    }


def packed_attention(
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
    """Attention inside each sequence; query, key and value are (1, heads, T, d), the result is (1, T, heads, d).

    With ``causal`` no later token is seen; ``sliding_window`` w lets i see j where |i - j| < w.
    """
    causal = bool(kwargs.get("causal"))
    q, k, v = (x[0].transpose(0, 1) for x in (query, key, value))
    layout: Layout = kwargs["layout"]
    if kernel_fits(q, sliding_window):
        ends = layout.boundaries, layout.longest
        fixed = bool(kwargs.get("fixed_splits"))
        out = varlen(q, k, v, ends, ends, scaling, causal, sliding_window, fixed)
    else:
        grouped = q.shape[1] != k.shape[1]
        parts = []
        for bucket in layout.buckets:
            queries, keys, values = (bucket.rows(x).transpose(1, 2) for x in (q, k, v))
            mask = _window(bucket, sliding_window, causal)
            # padding lies behind the tokens, where a causal mask hides it
            mask = mask if mask is not None or causal else bucket.mask
            if causal or grouped or mask is not bucket.mask:
                found = scaled_dot_product_attention(
                    queries,
                    keys,
                    values,
                    attn_mask=mask,
                    is_causal=causal and mask is None,
                    scale=scaling,
                    enable_gqa=grouped,
                )
            else:
                found = attend(queries, keys, values, mask, scaling)
            parts.append(bucket.flat(found.transpose(1, 2)))
        out = layout.join(parts)
    return out[None], None


def _window(bucket: Bucket, window: int | None, causal: bool) -> torch.Tensor | None:
    """The mask of a sliding window, padding hidden; None where the window is wider than the rows."""
    if window is None or bucket.width <= window:
        return None
    column = torch.arange(bucket.width, device=bucket.sequences.device)
    distance = column[:, None] - column[None, :]
    mask = (distance < window) & ((distance >= 0) if causal else (distance > -window))
    if bucket.mask is None:
        return mask
    return mask & (bucket.mask | ~bucket.mask.transpose(2, 3))  # padded rows see themselves: no row is all masked


def attach(module: Any) -> None:
    """Makes `packed_attention` the attention of a transformers model."""
    use(module, PACKED, packed_attention)
