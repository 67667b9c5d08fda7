"""Scores at a chosen layer: MiniCPM by its formulas written out, Gemma 2 by transformers' layers one by one."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from sparring.rerank.engine.engine import Engine
from sparring.rerank.errors import InputError, UsageError
from sparring.rerank.models.families.language_models.layerwise import TASKS
from sparring.rerank.models.loading import load
from sparring.rerank.vocabulary import Candidates
from tiny_layerwise import LAYERS, START, save_layerwise
from tiny_models import everything, tiny_topics

State = dict[str, torch.Tensor]


def topics() -> list[Candidates]:
    odd = ["", "river", "a b c", "river?\n", "mountain " * 40, ""]
    return [*tiny_topics(2, 6), Candidates("odd", "what?", tuple("abcdef"), odd, np.zeros(6))]


def inputs(model: Any, task: str) -> list[tuple[list[int], int, int]]:
    """Of every pair its tokens, and how many belong to the query and to the prompt, as FlagEmbedding lays them out."""

    def ids(text: str) -> list[int]:
        return list(model.tokenizer(text, add_special_tokens=False)["input_ids"])

    rows = []
    for topic in topics():
        for text in topic.texts:
            query = [model.tokenizer.bos_token_id, *ids(f"A: {topic.query}"), *ids("\n")]
            prompt = [*ids("\n"), *ids(task)]
            rows.append(([*query, *ids(f"B: {text}"), *prompt], len(query), len(prompt)))
    return rows


def scores_of(model: Any, budget: int = 1500) -> np.ndarray:
    engine = Engine(model, device="cpu", dtype="float32", token_budget=budget, progress=False)
    asked = topics()
    return np.concatenate(engine(asked, everything(asked)))[:, 0]


def rms(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return weight * x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-5)


def rotated(x: torch.Tensor) -> torch.Tensor:
    """Rotary positions of (T, heads, 8)."""
    angles = torch.arange(len(x))[:, None] * 10000.0 ** (-torch.arange(0, 8, 2) / 8)
    cos, sin = (f(torch.cat([angles, angles], -1))[:, None] for f in (torch.cos, torch.sin))
    return x * cos + torch.cat([-x[..., 4:], x[..., :4]], -1) * sin


def minicpm(state: State, ids: list[int], layer: int) -> float:
    """MiniCPM, formula by formula: scaled embeddings and residuals, the norm, the layer's one-row head."""
    x = state["model.embed_tokens.weight"][ids] * 12
    scale = 1.4 / math.sqrt(LAYERS)
    for i in range(layer):
        own = {name.split(f"layers.{i}.")[1]: w for name, w in state.items() if f"layers.{i}." in name}
        h = rms(x, own["input_layernorm.weight"])
        q, k, v = ((h @ own[f"self_attn.{n}_proj.weight"].T).view(len(ids), -1, 8) for n in "qkv")
        q, k = rotated(q), rotated(k)
        k, v = (y.repeat_interleave(2, dim=1) for y in (k, v))
        weights = torch.einsum("qhd,khd->hqk", q, k) / math.sqrt(8)
        weights = weights.masked_fill(torch.ones(len(ids), len(ids)).triu(1).bool(), -torch.inf).softmax(-1)
        mixed = torch.einsum("hqk,khd->qhd", weights, v).reshape(len(ids), 32)
        x = x + scale * (mixed @ own["self_attn.o_proj.weight"].T)
        h = rms(x, own["post_attention_layernorm.weight"])
        gate = torch.nn.functional.silu(h @ own["mlp.gate_proj.weight"].T) * (h @ own["mlp.up_proj.weight"].T)
        x = x + scale * (gate @ own["mlp.down_proj.weight"].T)
    return float(rms(x[-1], state["model.norm.weight"]) @ state[f"lm_head.{layer - START}.linear_head.weight"][0])


@pytest.mark.parametrize("layer", [None, 2, 3])
def test_minicpm_by_its_formulas(tmp_path: Path, layer: int | None) -> None:
    folder = save_layerwise(tmp_path / "m")
    model = load(str(folder), layer=layer) if layer else load(str(folder))
    assert model.packed and model.truncation.max_length == 512
    state = load_file(folder / "model.safetensors")
    rows = inputs(model, TASKS["LayerWiseMiniCPMForCausalLM"])
    expected = [minicpm(state, ids, layer or LAYERS) for ids, _, _ in rows]
    for budget in (1, 1500):
        np.testing.assert_allclose(scores_of(model, budget), expected, atol=1e-5, rtol=1e-5)
    assert np.std(expected) > 0.01 and len(model.stages[0].layers) == (layer or LAYERS)


def gemma(
    folder: Path, row: tuple[list[int], int, int], layer: int, head: int, cuts: set[int], ratio: int
) -> float:
    """One sequence through transformers' Gemma 2 layer by layer, its passage averaged where the owner's code does."""
    from transformers import Gemma2Config, Gemma2Model
    from transformers.masking_utils import create_causal_mask, create_sliding_window_causal_mask

    ids, query, prompt = row
    state = load_file(folder / "model.safetensors")
    said = json.loads((folder / "config.json").read_text())
    keys = ("architectures", "model_type", "auto_map", "layer_wise", "layer_sep", "start_layer")
    config = Gemma2Config(**{k: v for k, v in said.items() if k not in keys}, attn_implementation="eager")
    body = Gemma2Model(config).eval()
    body.load_state_dict({k.removeprefix("model."): v for k, v in state.items() if k.startswith("model.")})
    x = body.embed_tokens(torch.tensor([ids]))
    for i in range(layer):
        if i in cuts and ratio > 1:
            parts = x[0, query : x.shape[1] - prompt].split(ratio)
            means = [part.mean(0) for part in parts if len(part)]
            x = torch.cat([x[0, :query], *([torch.stack(means)] if means else []), x[0, -prompt:]])[None]
        places = torch.arange(x.shape[1])[None]
        make = (
            create_causal_mask if config.layer_types[i] == "full_attention" else create_sliding_window_causal_mask
        )
        mask = make(config=config, inputs_embeds=x, attention_mask=None, past_key_values=None, position_ids=places)
        x = body.layers[i](
            x, attention_mask=mask, position_embeddings=body.rotary_emb(x, places), position_ids=places
        )
    score = body.norm(x)[0, -1] @ state[f"lm_head.{head}.linear_head.weight"][0]
    return float(torch.tanh(score / 6.0) * 6.0)


@pytest.mark.parametrize(
    ("options", "layer", "head", "cuts", "ratio"),
    [
        ("", 4, 0, set(), 1),
        ("layer=3, head=layer", 3, 1, set(), 1),
        ("layer=4, compress_ratio=2, compress_layers='1,3'", 4, 0, {1, 3}, 2),
        ("layer=3, compress_ratio=4, compress_layers='2,3,40'", 3, 0, {2}, 4),
    ],
)
@torch.inference_mode()
def test_gemma_layer_by_layer(
    tmp_path: Path, options: str, layer: int, head: int, cuts: set[int], ratio: int
) -> None:
    folder = save_layerwise(tmp_path / "m", "gemma")
    model = load(str(folder), family=f"layerwise({options})")
    rows = inputs(model, TASKS["CostWiseGemmaForCausalLM"])
    expected = [gemma(folder, row, layer, head, cuts, ratio) for row in rows]
    for budget in (1, 1500):
        np.testing.assert_allclose(scores_of(model, budget), expected, atol=1e-5, rtol=1e-5)
    assert np.std(expected) > 0.01


def test_options_change_the_fingerprint_and_the_task_is_an_instruction(tmp_path: Path) -> None:
    folder = save_layerwise(tmp_path / "m", "gemma")
    specs = ("layer=3", "layer=4", "head=layer", "compress_ratio=2, compress_layers='1'", "instruction='same?'")
    prints = {load(str(folder), family=f"layerwise({spec})").fingerprint for spec in specs}
    assert len(prints) == len(specs)
    again = load(str(folder), instruction="same?")
    assert again.tokenizer.decode(again.template.slots[-1].ids) == "\nsame?" and again.fingerprint in prints


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        ("minicpm", {"layer": 1}, "layer 1 has no head; those from 2 to 4 have"),
        ("minicpm", {"compress_ratio": 2}, "only the lightweight model compresses"),
        ("gemma", {"compress_ratio": 3}, "compress_ratio 3 is none of 1, 2, 4 and 8"),
        ("gemma", {"compress_layers": "one"}, "are no numbers with commas"),
        ("gemma", {"head": "last"}, "neither library nor layer"),
    ],
)
def test_wrong_options_are_said(tmp_path: Path, kind: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        load(str(save_layerwise(tmp_path / "m", kind)), **options)


def test_other_heads_are_refused(tmp_path: Path) -> None:
    folder = save_layerwise(tmp_path / "m")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"head_type": "raw"}))
    with pytest.raises(InputError, match="only heads of one row for every layer"):
        load(str(folder))
    (folder / "config.json").write_text(json.dumps(config))
    state = load_file(folder / "model.safetensors")
    del state["lm_head.2.linear_head.weight"]
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match=r"the weights lack lm_head\.2"):
        load(str(folder))


@pytest.mark.parametrize("kind", ["minicpm", "gemma"])
def test_a_tokenizer_without_a_pad_token(tmp_path: Path, kind: str) -> None:
    folder = save_layerwise(tmp_path / "m", kind)
    expected = scores_of(load(str(folder)))
    for name in ("tokenizer_config.json", "config.json"):
        said = {
            k: v
            for k, v in json.loads((folder / name).read_text()).items()
            if k not in ("pad_token", "pad_token_id")
        }
        (folder / name).write_text(json.dumps(said))
    model = load(str(folder))
    assert model.tokenizer.pad_token_id is None
    np.testing.assert_allclose(scores_of(model), expected, atol=1e-5)
