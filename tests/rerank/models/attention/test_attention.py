"""Packed attention equals attention over each sequence alone, whatever the lengths, causal or in a window."""

from __future__ import annotations

import numpy as np
import pytest
import tiny_models
import torch
from sparring.rerank.engine.batches import Batch
from sparring.rerank.models.attention import cpu_blocks as blocks
from sparring.rerank.models.attention import products
from sparring.rerank.models.attention.packed import Layout, attach, packed_attention, packed_kwargs
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
    asked = packed_kwargs(batch, causal=causal)
    out, _ = packed_attention(None, q, k, v, scaling=0.3, sliding_window=window, **asked)
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


@pytest.mark.parametrize("kind", ["qwen3", "bert", "electra", "xlm-roberta", "roberta", "modernbert"])
def test_packed_models_equal_padded_ones(kind: str) -> None:
    from transformers import AutoModel, Qwen3Config

    torch.manual_seed(0)
    if kind == "qwen3":
        config = Qwen3Config(**tiny_models.SIZES, vocab_size=90, num_key_value_heads=2, head_dim=8)
    else:
        config = tiny_models.classifier_config(kind, 90, pad=1)
    model = AutoModel.from_config(config, attn_implementation="sdpa").eval()
    tiny_models.enlarge(model, 4.0)
    lengths = [40, 33, 33, 21, 2]
    first = 2 if "roberta" in kind else 0
    ids = torch.randint(5, 90, (sum(lengths),))
    positions = torch.cat([torch.arange(first, first + n) for n in lengths])
    parts = ids.split(lengths)
    padded = torch.nn.utils.rnn.pad_sequence(parts, batch_first=True, padding_value=1)
    mask = torch.nn.utils.rnn.pad_sequence([torch.ones_like(p) for p in parts], batch_first=True)
    options = {"use_cache": False} if kind == "qwen3" else {}
    with torch.inference_mode():
        expected = model(input_ids=padded, attention_mask=mask, **options).last_hidden_state[mask.bool()]
        attach(model)
        kwargs = packed_kwargs(batch_of(lengths), causal=kind == "qwen3")
        found = model(input_ids=ids[None], position_ids=positions[None], **options, **kwargs).last_hidden_state
    torch.testing.assert_close(found[0], expected, atol=1e-5, rtol=0)


def test_products_equal_torchs_attention(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    q, k, v = torch.randn(3, 5, 4, 32, 8, generator=generator)
    mask = torch.arange(32) < torch.tensor([32, 30, 7, 1, 31])[:, None, None, None]
    monkeypatch.setattr(products, "SCORES", 3 * 32 * 32)  # several parts, the last one shorter
    for hidden in (mask, None):
        expected = scaled_dot_product_attention(q, k, v, attn_mask=hidden, scale=0.3)
        torch.testing.assert_close(products._in_parts(q, k, v, hidden, 0.3), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("lengths", [[5], [33, 33, 33], [9, 70, 32, 33, 64, 1], list(range(40, 1, -1))])
@pytest.mark.parametrize("size", [0.5, 30.0, -30.0])  # of the scores: the largest leave the range of the sums
def test_blocks_equal_each_sequence_alone(
    lengths: list[int], size: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blocks, "TOKENS", 100)
    monkeypatch.setattr(blocks, "SCORES", 5 * 4 * 32 * 32)
    generator = torch.Generator().manual_seed(0)
    qkv = torch.randn(sum(lengths), 3, 4, 8, generator=generator)
    qkv[:, 0] *= abs(size)
    if size < 0:  # every score of a row is far below zero
        qkv[:, 0], qkv[:, 1] = -abs(qkv[:, 0]), abs(qkv[:, 1])
    parts = blocks.cut(np.array(lengths), 4, np.zeros(len(lengths), np.int64), torch.float32)
    assert parts[-1].sequences.stop == len(lengths)
    assert parts[-1].tokens.stop == sum(lengths)
    found = torch.cat([block.mix(qkv[block.tokens], 0.9, {}) for block in parts])
    starts = np.cumsum(lengths) - lengths
    first = [block.mix_first(qkv[starts[block.sequences], 0], qkv[block.tokens, 1:], 0.9, {}) for block in parts]
    for low, length, own in zip(starts, lengths, torch.cat(first), strict=True):
        q, k, v = qkv[low : low + length].permute(1, 2, 0, 3)
        alone = scaled_dot_product_attention(q, k, v, scale=0.9).transpose(0, 1)
        torch.testing.assert_close(found[low : low + length], alone, atol=2e-5, rtol=1e-4)
        torch.testing.assert_close(own, alone[0], atol=2e-5, rtol=1e-4)
