"""Inter-passage attention of the Set-Encoder (Schlatt et al., ECIR 2025) over packed sequences.

A token attends to its own sequence and to one *interaction* token of every other sequence of its group. On CUDA in
half precision a kernel call over the own tokens without the interaction token and one over the group's interaction
tokens are merged by their log-sum-exp, so that the own interaction token counts once. On CPUs the lean forward
pass multiplies the queries of a block with the interaction tokens of their group (`SetLayout.shared`). Where
neither serves (windows, training), keys and values of interaction tokens are gathered for every sequence.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch.nn.functional import scaled_dot_product_attention

from ...engine.batches import Batch
from .cpu_blocks import Block, cut
from .interface import use
from .packed import Project
from .products import Shared, attend
from .set_places import SetPlaces
from .varlen import Ends, kernel_fits, varlen_lse

SET = "sparring_set"

Kernel = Callable[..., tuple[torch.Tensor, torch.Tensor]]


class SetLayout(SetPlaces):
    """Attention inside a sequence and to its group; a `sparring.rerank.models.attention.packed.Mixing`.

    The arguments are those of `SetPlaces`.
    """

    def __init__(self, batch: Batch, offset: int = 0, depth: int | None = None) -> None:
        super().__init__(batch, offset, depth)
        self._blocks: list[Block] | None = None

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
        return torch.cat(parts).index_select(0, self.sequence_order)

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
        return values if self.token_order is None else values.index_select(0, self.token_order)

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
        """The same by two calls of a ``kernel`` like `sparring.rerank.models.attention.varlen.varlen_lse`.

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
        foreign, counts = self.others(np.arange(count))
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

    def blocks(self, heads: int, dtype: torch.dtype) -> list[Block]:
        """The batch in the blocks that a CPU computes at a time."""
        if self._blocks is None:
            self._blocks = cut(self.lengths, heads, self.group, dtype)
        return self._blocks

    def shared(self, project: Project) -> dict[int, Shared]:
        """Keys and values of the interaction tokens of every group, and the mean for missing documents."""
        rows = project(torch.from_numpy(self.interaction)).transpose(0, 1)
        found = {}
        bounds = zip(self.groups[:-1].tolist(), self.groups[1:].tolist(), strict=True)
        for number, (low, high) in enumerate(bounds):
            missing = 0 if self.missing is None else int(self.missing[number])
            if high - low > 1 or missing:
                kv = rows[:, low:high]
                if missing:
                    kv = torch.cat([kv, kv.float().mean(1, keepdim=True).to(kv.dtype)], dim=1)
                keys, values = kv.transpose(1, 2).contiguous()
                found[number] = Shared(keys, values, self.offset, missing)
        return found

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


def attach(module: Any) -> None:
    """Makes `set_attention` the attention of a transformers model."""
    use(module, SET, set_attention)
