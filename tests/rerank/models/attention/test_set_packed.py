"""Attention over sets, packed: equal to the form with a mask, and to one call over gathered keys."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_models
import torch
from sparring.rerank.engine.batches import Batch
from sparring.rerank.models.attention import cpu_blocks as blocks
from sparring.rerank.models.attention.set_packed import SetLayout
from sparring.rerank.models.loading import load
from tiny_models import batch_of, tiny_topics

KINDS = ("bert", "electra", "roberta", "xlm-roberta", "modernbert")


@pytest.fixture(scope="module", params=KINDS)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_models.save_classifier(tmp_path_factory.mktemp(request.param), request.param)


def mask_form(folder: Path, model: Any, batch: Batch) -> np.ndarray:
    """The scores by one dense mask over all tokens of the batch and transformers' own eager attention."""
    from transformers import AutoModelForSequenceClassification

    reference = AutoModelForSequenceClassification.from_pretrained(folder, attn_implementation="eager").eval()
    total, count = len(batch.input_ids), len(batch.lengths)
    sequence = np.repeat(np.arange(count), batch.lengths)
    group = np.repeat(np.arange(len(batch.groups) - 1), np.diff(batch.groups))[sequence]
    interaction = np.zeros(total, bool)
    interaction[np.cumsum(batch.lengths) - batch.lengths + model.interaction] = True
    same = sequence[:, None] == sequence
    foreign = ~same & (group[:, None] == group) & interaction
    masks = {"full_attention": same | foreign}
    config = reference.config
    if config.model_type == "modernbert":
        place = batch.positions.numpy()
        near = np.abs(place[:, None] - place) <= config.local_attention // 2
        masks["sliding_attention"] = (same & near) | foreign
    bias = {
        k: torch.zeros(total, total).masked_fill(~torch.from_numpy(m), -1e30)[None, None] for k, m in masks.items()
    }
    typed = {"token_type_ids": batch.segments[None]} if config.model_type in ("bert", "electra") else {}
    with torch.inference_mode():
        hidden = reference.base_model(
            input_ids=batch.input_ids[None],
            position_ids=batch.positions[None],
            attention_mask=bias if len(bias) > 1 else bias["full_attention"],
            **typed,
        ).last_hidden_state[0]
        return model.head(hidden[batch.boundaries[:-1].long()])[:, 0].numpy()


def test_packed_form_equals_the_mask_form(folder: Path) -> None:
    topics = tiny_topics(size=7)
    groups = [
        np.array([[0, 1, 2, 3, 4, 5, 6], [4, 2, -1, -1, -1, -1, -1], [5, -1, -1, -1, -1, -1, -1]], np.int32)
    ] * 3
    model = load(str(folder), family="set_encoder")
    model.place(torch.device("cpu"), torch.float32)
    batch = batch_of(model, topics, groups)
    with torch.inference_mode():
        packed = model.forward(batch).numpy()
    np.testing.assert_allclose(packed, mask_form(folder, model, batch), atol=1e-5, rtol=0)
    assert np.std(packed) > 0.01


def reference_kernel(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, query_ends: Any, key_ends: Any,
    scaling: float, window: int | None, fixed_splits: bool,
) -> tuple[torch.Tensor, torch.Tensor]:  # fmt: skip
    """What CUDA's kernel computes, segment by segment; an empty segment gives zeros and +inf, as the kernel does."""
    out, lse = torch.zeros_like(query), torch.full(query.shape[:2], torch.inf)
    assert query_ends[0].diff().max() <= query_ends[1] and key_ends[0].diff().max() <= key_ends[1]
    for q0, q1, k0, k1 in zip(
        query_ends[0][:-1], query_ends[0][1:], key_ends[0][:-1], key_ends[0][1:], strict=True
    ):
        if k1 > k0:
            scores = torch.einsum("qhd,khd->qhk", query[q0:q1], key[k0:k1]) * scaling
            if window is not None:
                far = (torch.arange(q1 - q0)[:, None] - torch.arange(k1 - k0)).abs() >= window
                scores = scores.masked_fill(far[:, None], -torch.inf)
            lse[q0:q1] = scores.logsumexp(-1)
            out[q0:q1] = torch.einsum("qhk,khd->qhd", scores.softmax(-1), value[k0:k1])
    return out, lse


def ragged(sizes: list[int]) -> Batch:
    """Groups of so many sequences, of 3 to 39 tokens."""
    count = sum(sizes)
    lengths = np.random.default_rng(3).integers(3, 40, count)
    boundaries = torch.from_numpy(np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32))
    empty = torch.zeros(int(lengths.sum()), dtype=torch.int32)
    groups = np.concatenate([[0], np.cumsum(sizes)])
    return Batch(empty, empty, empty, boundaries, lengths, groups, np.zeros(count, np.int64))


@pytest.mark.parametrize("window", [None, 5])
@pytest.mark.parametrize("place", [0, 1])
def test_two_merged_calls_equal_one_over_gathered_keys(window: int | None, place: int) -> None:
    batch = ragged([4, 1, 6])
    total, boundaries = len(batch.input_ids), batch.boundaries
    torch.manual_seed(0)
    query, kv = torch.randn(total, 2, 8), torch.randn(total, 2, 2, 8)
    layout = SetLayout(batch, place)
    expected = layout.attend(query, kv, 0.3, window, False)
    merged = layout.merged(reference_kernel, query, kv, 0.3, window, False)
    torch.testing.assert_close(merged, expected, atol=1e-5, rtol=0)
    if window is None:
        first = query[boundaries[:-1].long()]
        shorter = layout.merged(reference_kernel, first, kv, 0.3, None, False, first=True)
        torch.testing.assert_close(shorter, expected[boundaries[:-1].long()], atol=1e-5, rtol=0)


@pytest.mark.parametrize("size", [0.5, 40.0])  # of the queries: the larger scores leave the range of the sums
@pytest.mark.parametrize("depth", [None, 5])
@pytest.mark.parametrize("place", [0, 1])
def test_blocks_with_shared_keys_equal_gathered_keys(
    place: int, depth: int | None, size: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blocks, "TOKENS", 60)
    batch = ragged([4, 1, 7])
    total, boundaries = len(batch.input_ids), batch.boundaries
    torch.manual_seed(0)
    qkv = torch.randn(total, 3, 2, 8)
    qkv[:, 0] *= size
    layout = SetLayout(batch, place, depth)
    shared = layout.shared(lambda places: qkv[places, 1:])
    assert set(shared) == ({0, 2} if depth is None else {0, 1, 2})
    parts = layout.blocks(2, torch.float32)
    found = torch.cat([block.mix(qkv[block.tokens], 0.9, shared) for block in parts])
    torch.testing.assert_close(found, layout.mix(qkv, 0.9, False), atol=2e-5, rtol=1e-4)
    query = qkv[boundaries[:-1].long(), 0]
    first = [block.mix_first(query[block.sequences], qkv[block.tokens, 1:], 0.9, shared) for block in parts]
    expected = layout.mix_first(query, qkv[:, 1:], 0.9, False)
    torch.testing.assert_close(torch.cat(first), expected, atol=2e-5, rtol=1e-4)
