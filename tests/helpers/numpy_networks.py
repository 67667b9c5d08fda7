"""Networks of published rerankers in plain numpy, float64, one sequence at a time: references written from papers."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from scipy.special import erf

State = Mapping[str, np.ndarray]


def linear(state: State, name: str, x: np.ndarray) -> np.ndarray:
    out = x @ state[f"{name}.weight"].T
    return out + state[f"{name}.bias"] if f"{name}.bias" in state else out


def layer_norm(state: State, name: str, x: np.ndarray, eps: float) -> np.ndarray:
    centred = x - x.mean(-1, keepdims=True)
    scale = np.sqrt((centred**2).mean(-1, keepdims=True) + eps)
    return centred / scale * state[f"{name}.weight"] + state[f"{name}.bias"]


def rms_norm(state: State, name: str, x: np.ndarray, eps: float) -> np.ndarray:
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + eps) * state[f"{name}.weight"]


def gelu(x: np.ndarray) -> np.ndarray:
    return 0.5 * x * (1 + erf(x / math.sqrt(2)))


def relu(x: np.ndarray) -> np.ndarray:
    return np.maximum(x, 0)


def silu(x: np.ndarray) -> np.ndarray:
    return x / (1 + np.exp(-x))


def rotate(x: np.ndarray, frequencies: Sequence[float]) -> np.ndarray:
    """Turns the pairs (j, j + d/2) of every token's vector (T, d) by position times frequency."""
    out = x.copy()
    half = x.shape[1] // 2
    for place in range(len(x)):
        for j in range(half):
            a, b, angle = x[place, j], x[place, j + half], place * frequencies[j]
            out[place, j] = a * math.cos(angle) - b * math.sin(angle)
            out[place, j + half] = b * math.cos(angle) + a * math.sin(angle)
    return out


def attend(q: np.ndarray, k: np.ndarray, v: np.ndarray, bias: np.ndarray | float = 0.0) -> np.ndarray:
    scores = q @ k.T / math.sqrt(q.shape[1]) + bias
    weights = np.exp(scores - scores.max(1, keepdims=True))
    return weights / weights.sum(1, keepdims=True) @ v


def heads_of(x: np.ndarray, size: int) -> list[np.ndarray]:
    return [x[:, i : i + size] for i in range(0, x.shape[1], size)]


def ntk_frequencies(size: int, theta: float, factor: float, mixed: float | None) -> list[float]:
    half = size // 2
    if mixed is None:
        return [1 / (theta * factor) ** (2 * j / size) / factor ** (2 / size) for j in range(half)]
    a = math.log(factor) / half**mixed
    return [1 / theta ** (2 * j / size) / math.exp(a * (j + 1) ** mixed) for j in range(half)]


def gte_logits(config: Mapping[str, Any], state: State, ids: Sequence[int], types: Sequence[int]) -> np.ndarray:
    """Logits of ``NewForSequenceClassification``."""
    size, eps = config["hidden_size"] // config["num_attention_heads"], config["layer_norm_eps"]
    norm: Callable[..., np.ndarray] = rms_norm if config.get("layer_norm_type") == "rms_norm" else layer_norm
    scaling = config.get("rope_scaling") or {"factor": 1.0}
    frequencies = ntk_frequencies(size, config["rope_theta"], scaling["factor"], scaling.get("mixed_b"))
    x = state["new.embeddings.word_embeddings.weight"][ids]
    if config["type_vocab_size"]:
        x = x + state["new.embeddings.token_type_embeddings.weight"][types]
    x = norm(state, "new.embeddings.LayerNorm", x, eps)
    for i in range(config["num_hidden_layers"]):
        at = f"new.encoder.layer.{i}."
        if f"{at}attention.qkv_proj.weight" in state:
            q, k, v = np.split(linear(state, f"{at}attention.qkv_proj", x), 3, axis=1)
        else:
            q, k, v = (linear(state, f"{at}attention.{part}_proj", x) for part in "qkv")
        mixed = [
            attend(rotate(a, frequencies), rotate(b, frequencies), c)
            for a, b, c in zip(heads_of(q, size), heads_of(k, size), heads_of(v, size), strict=True)
        ]
        x = norm(state, f"{at}attn_ln", x + linear(state, f"{at}attention.o_proj", np.hstack(mixed)), eps)
        up, gate = np.split(linear(state, f"{at}mlp.up_gate_proj", x), 2, axis=1)
        x = norm(state, f"{at}mlp_ln", x + linear(state, f"{at}mlp.down_proj", gelu(gate) * up), eps)
    pooled = np.tanh(linear(state, "new.pooler.dense", x[0]))
    return linear(state, "classifier", pooled)


def slopes(heads: int) -> list[float]:
    """ALiBi's slopes by its paper: a row from 2^(-8/n) for powers of two, else filled up from the next row."""
    if math.log2(heads).is_integer():
        start = 2 ** (-8 / heads)
        return [start * start**i for i in range(heads)]
    power = 2 ** math.floor(math.log2(heads))
    return slopes(power) + slopes(2 * power)[0::2][: heads - power]


def jina_bert_logits(
    config: Mapping[str, Any], state: State, ids: Sequence[int], types: Sequence[int]
) -> np.ndarray:
    """Logits of ``JinaBertForSequenceClassification``, of either layout."""
    heads, eps = config["num_attention_heads"], config["layer_norm_eps"]
    size = config["hidden_size"] // heads
    act = {"geglu": gelu, "reglu": relu}[config["feed_forward_type"]]
    place = np.arange(len(ids))
    distance = np.abs(place[:, None] - place)
    x = state["bert.embeddings.word_embeddings.weight"][ids]
    x = x + state["bert.embeddings.token_type_embeddings.weight"][types]
    x = layer_norm(state, "bert.embeddings.LayerNorm", x, eps)
    for i in range(config["num_hidden_layers"]):
        at = f"bert.encoder.layer.{i}."
        q, k, v = (linear(state, f"{at}attention.self.{part}", x) for part in ("query", "key", "value"))
        if f"{at}attention.self.layer_norm_q.weight" in state:
            q = layer_norm(state, f"{at}attention.self.layer_norm_q", q, eps)
            k = layer_norm(state, f"{at}attention.self.layer_norm_k", k, eps)
        mixed = [
            attend(a, b, c, -slope * distance)
            for a, b, c, slope in zip(
                heads_of(q, size), heads_of(k, size), heads_of(v, size), slopes(heads), strict=True
            )
        ]
        out = linear(state, f"{at}attention.output.dense", np.hstack(mixed))
        y = layer_norm(state, f"{at}attention.output.LayerNorm", out + x, eps)
        if f"{at}mlp.gated_layers.weight" in state:
            gate, up = np.split(linear(state, f"{at}mlp.gated_layers", y), 2, axis=1)
            x = layer_norm(state, f"{at}mlp.layernorm", linear(state, f"{at}mlp.wo", act(gate) * up) + y, eps)
            continue
        y = layer_norm(state, f"{at}layer_norm_1", x + y, eps)
        up, gate = np.split(linear(state, f"{at}mlp.up_gated_layer", y), 2, axis=1)
        x = layer_norm(state, f"{at}layer_norm_2", y + linear(state, f"{at}mlp.down_layer", up * act(gate)), eps)
    pooled = np.tanh(linear(state, "bert.pooler.dense", x[0]))
    return linear(state, "classifier", pooled)


def decoder_states(config: Mapping[str, Any], state: State, ids: Sequence[int], causal: bool) -> np.ndarray:
    """Last states (T, H) of a Llama or (with norms of queries and keys) a Qwen3."""
    size, eps = config["head_dim"], config["rms_norm_eps"]
    shared = config["num_attention_heads"] // config["num_key_value_heads"]
    frequencies = ntk_frequencies(size, config["rope_theta"], 1.0, None)
    later = np.triu(np.full((len(ids), len(ids)), -np.inf), 1) if causal else 0.0
    x = state["model.embed_tokens.weight"][ids]
    for i in range(config["num_hidden_layers"]):
        at = f"model.layers.{i}."
        y = rms_norm(state, f"{at}input_layernorm", x, eps)
        q, k, v = (heads_of(linear(state, f"{at}self_attn.{part}_proj", y), size) for part in "qkv")
        if f"{at}self_attn.q_norm.weight" in state:
            q = [rms_norm(state, f"{at}self_attn.q_norm", one, eps) for one in q]
            k = [rms_norm(state, f"{at}self_attn.k_norm", one, eps) for one in k]
        mixed = [
            attend(rotate(one, frequencies), rotate(k[h // shared], frequencies), v[h // shared], later)
            for h, one in enumerate(q)
        ]
        x = x + linear(state, f"{at}self_attn.o_proj", np.hstack(mixed))
        y = rms_norm(state, f"{at}post_attention_layernorm", x, eps)
        fed = silu(linear(state, f"{at}mlp.gate_proj", y)) * linear(state, f"{at}mlp.up_proj", y)
        x = x + linear(state, f"{at}mlp.down_proj", fed)
    return rms_norm(state, "model.norm", x, eps)


def fixed(shapes: Mapping[str, Sequence[int]], scale: float = 0.6) -> dict[str, np.ndarray]:
    """Weights that need no random numbers: sines of a running count; norms lie around 1."""
    state: dict[str, np.ndarray] = {}
    count = 0
    for name, shape in shapes.items():
        size = int(np.prod(shape))
        values = scale * np.sin(1.7 * np.arange(count, count + size) + 0.3)
        count += size
        norm = name.endswith(".weight") and len(shape) == 1
        state[name] = (
            ((1 + 0.3 * values) if norm else values).reshape(tuple(shape)).astype(np.float32).astype(np.float64)
        )
    return state
