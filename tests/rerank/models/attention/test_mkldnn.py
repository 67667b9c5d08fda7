"""Packed linear layers of torch equal plain ones; without them the forward pass does the same."""

from __future__ import annotations

import numpy as np
import pytest
import tiny_models
import torch
from relied_on import relied_on
from sparring.rerank.engine.batches import Batch
from sparring.rerank.models.attention import mkldnn
from sparring.rerank.models.attention.post_norm import PostNormEncoder, _Linear
from torch.nn.functional import gelu, linear

ADAPTER = "rerank/models/attention/mkldnn.py"


def operations() -> mkldnn.Operations:
    if not torch.backends.mkldnn.is_available():
        pytest.skip("this torch has no mkldnn")
    with relied_on("torch", ADAPTER):
        found = mkldnn.operations()
        assert found is not None, "an operation of torch.ops.mkldnn is gone"
    return found


def test_packed_layers_equal_plain_ones() -> None:
    ops = operations()
    generator = torch.Generator().manual_seed(0)
    states, residual = torch.randn(2, 40, 64, generator=generator).bfloat16()
    weight, bias = (
        torch.randn(64, 64, generator=generator).bfloat16(),
        torch.randn(64, generator=generator).bfloat16(),
    )
    exact = linear(states.float(), weight.float(), bias.float())
    with relied_on("torch", ADAPTER):
        packed = ops.pack(weight, 512)
        torch.testing.assert_close(ops.linear(states, packed, bias).float(), exact, atol=0.1, rtol=0.02)
        torch.testing.assert_close(ops.gelu(states, packed, bias).float(), gelu(exact), atol=0.1, rtol=0.02)
        plus = ops.plus(states, residual, packed, bias).float()
        torch.testing.assert_close(plus, exact + residual.float(), atol=0.1, rtol=0.02)


def test_a_torch_without_the_operations_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.ops, "mkldnn", object())
    assert mkldnn.operations.__wrapped__() is None
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    assert mkldnn.operations.__wrapped__() is None


@pytest.mark.parametrize("activation", ["gelu", "relu"])
def test_without_the_operations_plain_layers_do_the_work(activation: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import BertConfig, BertModel

    torch.manual_seed(0)
    body = BertModel(
        BertConfig(**tiny_models.SIZES, vocab_size=50, hidden_act=activation), add_pooling_layer=False
    )
    ids, zeros = torch.arange(5, 25, dtype=torch.int32), torch.zeros(20, dtype=torch.int32)
    places = torch.cat([torch.arange(12), torch.arange(8)]).int()
    boundaries, lengths = torch.tensor([0, 12, 20], dtype=torch.int32), np.array([12, 8])
    batch = Batch(ids, places, zeros, boundaries, lengths, np.arange(3), np.arange(2))
    lean = PostNormEncoder(body).to(torch.bfloat16)
    with torch.inference_mode():
        lean.pack()
        packed = lean(batch).float()
        monkeypatch.setattr(mkldnn, "operations", lambda: None)
        lean.pack()
        assert not any(part.packed for part in lean.modules() if isinstance(part, _Linear))
        torch.testing.assert_close(lean(batch).float(), packed, atol=0.05, rtol=0.05)
