"""The parts of transformers' post-norm encoders have the names and the meaning that the lean forward pass relies on."""

from __future__ import annotations

import pytest
import tiny_models
import torch
from relied_on import relied_on
from sparring.rerank.models.attention.layers import POST_NORM, parts_of
from torch import nn
from torch.nn.functional import gelu

ADAPTER = "rerank/models/attention/layers.py"


def body_of(kind: str, **changed: object) -> nn.Module:
    from transformers import AutoConfig, AutoModel

    config = AutoConfig.for_model(kind, **tiny_models.SIZES, vocab_size=50, pad_token_id=1, **changed)
    return AutoModel.from_config(config).eval()


@pytest.mark.parametrize("kind", sorted(POST_NORM))
def test_every_part_is_where_it_was(kind: str) -> None:
    body = body_of(kind)
    with relied_on("transformers", ADAPTER):
        parts = parts_of(body)
        width, inner = body.config.hidden_size, body.config.intermediate_size
        assert len(parts.layers) == body.config.num_hidden_layers
        assert (parts.heads, parts.head_size) == (body.config.num_attention_heads, width // parts.heads)
        assert isinstance(parts.embeddings.norm, nn.LayerNorm)
        for layer in parts.layers:
            shapes = [(x.in_features, x.out_features) for x in (layer.query, layer.key, layer.value)]
            assert shapes == [(width, width)] * 3
            assert (layer.inner.out_features, layer.out.in_features) == (inner, inner)
            assert isinstance(layer.attention_norm, nn.LayerNorm) and isinstance(layer.norm, nn.LayerNorm)


@pytest.mark.parametrize("width", [None, 16])
def test_narrow_embeddings_of_electra_are_projected(width: int | None) -> None:
    body = body_of("electra", embedding_size=width or tiny_models.SIZES["hidden_size"])
    with relied_on("transformers", ADAPTER):
        project = parts_of(body).embeddings.project
        assert (project is None) == (width is None)


@pytest.mark.parametrize("kind", sorted(POST_NORM))
@pytest.mark.parametrize("name,exact", [("gelu", True), ("gelu_new", False), ("relu", False)])
def test_the_config_says_whether_gelu_is_exact(kind: str, name: str, exact: bool) -> None:
    body = body_of(kind, hidden_act=name)
    with relied_on("transformers", ADAPTER):
        parts = parts_of(body)
        assert parts.exact_gelu == exact
        x = torch.linspace(-4, 4, 99)
        assert torch.equal(parts.layers[0].activation(x), gelu(x)) == exact


@pytest.mark.parametrize("kind", sorted(POST_NORM))
def test_a_layer_is_post_norm(kind: str) -> None:
    body = body_of(kind)
    torch.manual_seed(0)
    states = torch.randn(1, 7, body.config.hidden_size)
    with relied_on("transformers", ADAPTER), torch.inference_mode():
        parts = parts_of(body)
        layer, shape = parts.layers[0], (1, 7, parts.heads, parts.head_size)
        q, k, v = (x(states).view(shape).transpose(1, 2) for x in (layer.query, layer.key, layer.value))
        mixed = nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        middle = layer.attention_norm(layer.attention_out(mixed) + states)
        expected = layer.norm(layer.out(layer.activation(layer.inner(middle))) + middle)
        found = body.encoder.layer[0](states)
        found = found[0] if isinstance(found, tuple) else found
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
