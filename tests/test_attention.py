"""Packed attention equals attention over each sequence alone, whatever the lengths, causal or in a window."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from sparring.rerank.attention import Layout, packed_attention, packed_kwargs
from sparring.rerank.batching import Batch
from torch.nn.functional import scaled_dot_product_attention


def batch_of(lengths: list[int]) -> Batch:
    boundaries = torch.tensor([0, *np.cumsum(lengths)], dtype=torch.int32)
    empty = torch.zeros(sum(lengths), dtype=torch.int32)
    count = np.arange(len(lengths) + 1)
    return Batch(empty, empty, empty, boundaries, np.array(lengths, np.int64), count, count[:-1])


@pytest.mark.parametrize("lengths", [[5], [7, 7, 7], [9, 4, 4, 1], [3, 40, 8, 33]])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("window", [None, 3])
@pytest.mark.parametrize("key_heads", [4, 2])
def test_equals_each_sequence_alone(lengths: list[int], causal: bool, window: int | None, key_heads: int) -> None:
    torch.manual_seed(0)
    batch = batch_of(lengths)
    q = torch.randn(1, 4, sum(lengths), 8)
    k, v = torch.randn(2, 1, key_heads, sum(lengths), 8)
    module = SimpleNamespace(is_causal=causal)
    out, _ = packed_attention(module, q, k, v, scaling=0.3, sliding_window=window, **packed_kwargs(batch))
    start = 0
    for length in lengths:
        part = slice(start, start + length)
        place = torch.arange(length)
        allowed = torch.ones(length, length, dtype=torch.bool)
        if causal:
            allowed &= place[:, None] >= place[None, :]
        if window is not None:
            allowed &= (place[:, None] - place[None, :]).abs() < window
        alone = scaled_dot_product_attention(
            q[:, :, part], k[:, :, part], v[:, :, part], attn_mask=allowed, scale=0.3, enable_gqa=True
        )
        torch.testing.assert_close(out[:, part], alone.transpose(1, 2), atol=1e-6, rtol=0)
        start += length


def test_buckets_hold_every_token_once_and_join_in_order() -> None:
    batch = batch_of([9, 70, 32, 33, 64, 1])
    layout = Layout(batch)
    assert [bucket.width for bucket in layout.buckets] == [96, 64, 32]
    values = torch.arange(int(batch.lengths.sum()))
    assert layout.join([bucket.flat(bucket.rows(values)) for bucket in layout.buckets]).tolist() == values.tolist()
    numbers = torch.arange(6)
    assert layout.join_sequences([numbers[b.sequences] for b in layout.buckets]).tolist() == numbers.tolist()
    assert all(not bucket.rows(values)[~bucket.mask[:, 0, 0]].any() for bucket in layout.buckets)
