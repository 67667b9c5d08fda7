"""Attention with a bias that grows with distance, in both directions (ALiBi, as JinaBERT has it).

The score of tokens i and j of a sequence loses ``slope * |i - j|``, by a slope of each head (Press et al., ICLR
2022; Günther et al., arXiv 2310.19923). torch's packed kernel takes no bias, so that sequences of about the same
length become rows, and the bias of all heads is made for so many queries at a time as fit the limit.
"""

from __future__ import annotations

import math

import torch
from torch.nn.functional import scaled_dot_product_attention

from ...engine.batches import Batch
from .buckets import Bucket
from .packed import Layout

SCORES = 1 << 24  # attention scores at a time: 64 MB of biases in fp32


def alibi_slopes(heads: int) -> list[float]:
    """The slope of each head: a geometric row from 2^(-8/n), where n, the heads, is a power of two.

    Else the row of the power below, and then every second slope of the row of the power above.
    """
    power = 1 << (heads.bit_length() - 1)
    row = [2.0 ** (-8.0 * (i + 1) / power) for i in range(power)]
    between = [2.0 ** (-4.0 * (i + 1) / power) for i in range(0, 2 * power, 2)]
    return row + between[: heads - power]


class AlibiLayout(Layout):
    """Where the sequences of a batch lie, for layers whose scores lose by distance; ``slopes`` (heads,)."""

    def __init__(self, batch: Batch, slopes: torch.Tensor) -> None:
        super().__init__(batch)
        self.slopes = slopes

    def mix(self, qkv: torch.Tensor, scaling: float, fixed_splits: bool) -> torch.Tensor:
        """Attention of all tokens: queries, keys and values (T, 3, heads, d) to values (T, heads, d)."""
        parts = []
        for bucket in self.buckets:
            q, k, v = bucket.rows(qkv).permute(2, 0, 3, 1, 4)
            parts.append(bucket.flat(self._attend(bucket, q, k, v, scaling).transpose(1, 2)))
        return self.join(parts)

    def mix_first(self, query: torch.Tensor, kv: torch.Tensor, scaling: float, fixed_splits: bool) -> torch.Tensor:
        """Attention of the first tokens: queries (S, heads, d), keys and values (T, 2, heads, d)."""
        parts = []
        for bucket in self.buckets:
            k, v = bucket.rows(kv).permute(2, 0, 3, 1, 4)
            asked = query.index_select(0, bucket.sequences)[:, :, None]
            parts.append(self._attend(bucket, asked, k, v, scaling)[:, :, 0])
        return self.join_sequences(parts)

    def _attend(
        self, bucket: Bucket, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scaling: float
    ) -> torch.Tensor:
        """Queries (n, heads, a, d), the first of each row, to values (n, heads, a, d)."""
        count, heads, asked, _ = q.shape
        padded = 1 if bucket.mask is None else count  # the bias is the same for all rows without padding
        step = max(1, SCORES // (padded * heads * bucket.width))
        place = torch.arange(bucket.width, device=q.device)
        hidden = None if bucket.mask is None else ~bucket.mask
        found = []
        for start in range(0, asked, step):
            own = place[start : min(start + step, asked)]
            distance = (own[:, None] - place).abs().to(self.slopes.dtype)
            bias = (-self.slopes[:, None, None] * distance)[None]
            if hidden is not None:
                bias = bias.masked_fill(hidden, -math.inf)
            part = q[:, :, start : start + step]
            found.append(
                scaled_dot_product_attention(
                    part, k, v, attn_mask=bias.to(q.dtype).expand(count, -1, -1, -1), scale=scaling
                )
            )
        return found[0] if len(found) == 1 else torch.cat(found, dim=2)
