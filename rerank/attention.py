"""Attention over packed sequences: every token sees its own sequence only, and no other layer sees padding.

Registered with transformers under `PACKED`; `packed_kwargs` makes the keyword arguments that carry the lengths
from the model's call to the attention function. CUDA in half precision uses ``varlen_attn`` of torch. Elsewhere
sequences of about the same length become rows of a `Bucket` for one ``scaled_dot_product_attention``.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import torch
from torch.nn.functional import scaled_dot_product_attention

from .batching import Batch
from .varlen import kernel_fits, varlen

PACKED = "sparring_packed"
SCORES = 1 << 20  # attention scores at a time: more would not stay in the cache
STEP = 32  # rows of a whole number of bf16 vectors: the CPU's softmax is 2.5 times slower on 93 keys than on 96


@dataclass(frozen=True, slots=True)
class Bucket:
    """Sequences whose lengths round up to the same ``width``.

    Args:
        sequences: which, (n,).
        tokens: the token at each place of the (n * width) rows; the first token of all where a row is padded.
        mask: True on tokens, (n, 1, 1, width); None where nothing is padded.
        places: the places that hold tokens; None where all do.
    """

    sequences: torch.Tensor
    tokens: torch.Tensor
    mask: torch.Tensor | None
    places: torch.Tensor | None
    width: int

    def rows(self, values: torch.Tensor) -> torch.Tensor:
        """Values of tokens (T, ...) as rows (n, width, ...)."""
        return values.index_select(0, self.tokens).unflatten(0, (-1, self.width))  # type: ignore[no-untyped-call, no-any-return]

    def flat(self, rows: torch.Tensor) -> torch.Tensor:
        """Rows (n, width, ...) as values of the bucket's tokens."""
        values = rows.flatten(0, 1)
        return values if self.places is None else values.index_select(0, self.places)


class Mixing(Protocol):
    """Who attends to whom in a batch: a `Layout`, or the layout of a model that looks across sequences."""

    boundaries: torch.Tensor

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

    @cached_property
    def buckets(self) -> list[Bucket]:
        """The sequences by rounded length; few buckets where a batch is sorted by length."""
        device, starts = self.boundaries.device, np.cumsum(self.lengths) - self.lengths
        widths = -(-self.lengths // STEP) * STEP
        buckets = []
        for width in np.unique(widths)[::-1].tolist():
            chosen = np.flatnonzero(widths == width)
            column = np.arange(width)
            real = column < self.lengths[chosen, None]
            tokens = np.where(real, starts[chosen, None] + column, 0).ravel()
            mask = None if real.all() else torch.from_numpy(real[:, None, None, :]).to(device)
            places = None if real.all() else torch.from_numpy(np.flatnonzero(real)).to(device)
            sequences, index = (torch.from_numpy(x).to(device) for x in (chosen, tokens))
            buckets.append(Bucket(sequences, index, mask, places, width))
        return buckets

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
        widths = -(-self.lengths // STEP)
        if (np.diff(widths) <= 0).all():
            return None
        by_bucket = np.argsort(-widths, kind="stable")
        starts = np.cumsum(self.lengths) - self.lengths
        moved = np.concatenate([np.arange(starts[s], starts[s] + self.lengths[s]) for s in by_bucket])
        return torch.from_numpy(np.argsort(moved)).to(self.boundaries.device)


def attend(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor | None, scale: float | None
) -> torch.Tensor:
    """Attention of rows (n, heads, w, d) to keys (n, heads, k, d) by what is fastest there.

    Args:
        mask: True on keys that are seen, or what is added to the scores; it broadcasts to (n, 1, w, k).
    """
    if query.dtype == torch.bfloat16 and not query.is_cuda:
        return products(query, key, value, mask, query.shape[-1] ** -0.5 if scale is None else scale)
    return scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=scale)


def products(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor | None, scale: float
) -> torch.Tensor:
    """`attend` by two batched products, `SCORES` attention scores at a time.

    On CPUs in bf16 this takes two thirds of the time of torch's fused kernel, whose exponentials are slow, and a
    third of it with gradients.
    """
    n, heads, width, _ = query.shape
    q, k, v = (x.flatten(0, 1) for x in (query, key, value))
    if mask is None or mask.dtype == torch.bool:
        bias = q.new_zeros(n, 1, 1, k.shape[1])
        if mask is not None:
            bias = bias.masked_fill(~mask, -torch.inf)
    else:
        bias = mask
    biases = bias.expand(n, heads, -1, -1).flatten(0, 1)
    kept = None if torch.is_grad_enabled() and q.requires_grad else torch.empty_like(q)
    found = []
    step = max(1, SCORES // (width * k.shape[1]))
    for low in range(0, n * heads, step):
        part = slice(low, low + step)
        scores = torch.baddbmm(biases[part], q[part], k[part].transpose(1, 2), alpha=scale)
        if kept is None:  # gradients do not go through a place that is written to
            found.append(torch.bmm(scores.softmax(-1), v[part]))
        else:
            torch.bmm(scores.softmax(-1), v[part], out=kept[part])
    out = torch.cat(found) if kept is None else kept
    return out.unflatten(0, (n, heads))  # type: ignore[no-untyped-call, no-any-return]


def packed_kwargs(batch: Batch, deterministic: bool = False) -> dict[str, Any]:
    """Keyword arguments for a transformers model whose attention is `PACKED`."""
    layout = Layout(batch)
    return {
        "attention_mask": None,
        "cu_seq_lens_q": batch.boundaries,
        "cu_seq_lens_k": batch.boundaries,
        "max_length_q": layout.longest,
        "max_length_k": layout.longest,
        "layout": layout,
        "fixed_splits": deterministic,
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

    A module with ``is_causal`` sees no later token; ``sliding_window`` w lets i see j where |i - j| < w.
    """
    causal = bool(getattr(module, "is_causal", False))
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
    place = torch.arange(bucket.width, device=bucket.tokens.device)
    distance = place[:, None] - place[None, :]
    mask = (distance < window) & ((distance >= 0) if causal else (distance > -window))
    if bucket.mask is None:
        return mask
    return mask & (bucket.mask | ~bucket.mask.transpose(2, 3))  # padded rows see themselves: no row is all masked


def register() -> None:
    """Makes `PACKED` known to transformers."""
    from transformers import AttentionInterface

    AttentionInterface.register(PACKED, packed_attention)
