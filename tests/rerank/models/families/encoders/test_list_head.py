"""List heads: equal to allRank's formulas, every pair read once, no order read."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import tiny_models
import torch
from safetensors.torch import save_file
from sparring.rerank.errors import InputError
from sparring.rerank.executors.open import open_scorer
from sparring.rerank.models.loading import load
from tiny_families import allrank_state
from tiny_models import tiny_topics, whole


@pytest.mark.parametrize("outputs", [1, 4])
def test_list_head_reads_every_pair_once_and_no_order(tmp_path: Path, outputs: int) -> None:
    folder = tiny_models.save_classifier(tmp_path, "electra")
    config = json.loads((folder / "config.json").read_text())
    stated = config | {"sparring_family": "list_head", "list_head": {"heads": 3}}
    (folder / "config.json").write_text(json.dumps(stated))
    with pytest.raises(InputError, match=r"no list_head\.safetensors"):
        load(str(folder))
    save_file(allrank_state(32, outputs=outputs), folder / "list_head.safetensors")
    topics = tiny_topics(2, 9)
    scorer = open_scorer(load(str(folder)), device="cpu", dtype="float32", progress=False)
    found = scorer(topics, whole(topics))
    assert scorer.stats.sequences == 18 and np.std(found[0]) > 1e-3
    rng = np.random.default_rng(0)
    order = rng.permutation(9).astype(np.int32)
    again = scorer(topics, [order[None]] * 2)
    np.testing.assert_allclose(again[1][0], found[1][0, order], atol=1e-5)
    parts = scorer(topics, [np.array([[0, 1, 2], [2, 3, -1]], np.int32)] * 2)
    assert np.isnan(parts[0][1, 2]) and abs(parts[0][0, 2] - parts[0][1, 0]) > 1e-5  # the list matters
    assert scorer.stats.sequences == 18
    with pytest.raises(InputError, match="does not divide into 5 heads"):
        load(str(folder), family="list_head(heads=5)")


def allrank_by_hand(state: dict[str, torch.Tensor], vectors: np.ndarray, heads: int) -> np.ndarray:
    """allRank's forward pass in NumPy."""
    w = {name: value.double().numpy() for name, value in state.items()}

    def linear(name: str, x: np.ndarray) -> np.ndarray:
        return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    def norm(name: str, x: np.ndarray) -> np.ndarray:
        spread = x.std(1, ddof=1, keepdims=True) + 1e-6
        return w[f"{name}.a_2"] * (x - x.mean(1, keepdims=True)) / spread + w[f"{name}.b_2"]

    x = linear("input_layer.layers.0", vectors)
    for layer in ("encoder.layers.0", "encoder.layers.1"):
        q, k, v = (linear(f"{layer}.self_attn.linears.{i}", norm(f"{layer}.sublayer.0.norm", x)) for i in range(3))
        mixed = []
        for columns in np.split(np.arange(x.shape[1]), heads):
            scores = np.exp(q[:, columns] @ k[:, columns].T / np.sqrt(len(columns)))
            mixed.append(scores / scores.sum(1, keepdims=True) @ v[:, columns])
        x = x + linear(f"{layer}.self_attn.linears.3", np.concatenate(mixed, axis=1))
        inner = np.maximum(linear(f"{layer}.feed_forward.w_1", norm(f"{layer}.sublayer.1.norm", x)), 0)
        x = x + linear(f"{layer}.feed_forward.w_2", inner)
    return linear("output_layer.w_1", norm("encoder.norm", x))[:, 0]


def test_list_head_equals_allranks_formulas() -> None:
    from sparring.rerank.models.families.encoders.list_head import ContextHead

    state = allrank_state(16)
    head = ContextHead(16, 12, 20, 2, 3, 1)
    head.load_state_dict(state)
    vectors = np.random.default_rng(0).normal(size=(7, 16))
    found = head(torch.from_numpy(vectors).float()).detach().numpy()
    np.testing.assert_allclose(found, allrank_by_hand(state, vectors, 3), atol=1e-4)
