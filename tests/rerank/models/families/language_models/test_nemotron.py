"""NVIDIA's bidirectional Llama against a reference in numpy and transformers' Llama without a causal mask."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy_networks import decoder_states, fixed
from safetensors.torch import load_file
from sparring.rerank.engine.engine import Engine
from sparring.rerank.errors import InputError
from sparring.rerank.models.loading import load
from sparring.rerank.vocabulary import Candidates
from tiny_generators import byte_level
from tiny_models import everything, tiny_topics
from tiny_remote import beginning, decoder_shapes, module, nemotron_config, packed, save_nemotron, write

LLAMA3 = {
    "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}  # fmt: skip


def topics() -> list[Candidates]:
    found = tiny_topics(words=40)
    found[0].texts[3] = ""  # type: ignore[index]
    found[1].texts[0] = "\n\n (a) river?\n"  # type: ignore[index]
    odd = Candidates("odd", "what, where?  \n", ("a", "b"), ["bread", " bread"], np.array([2.0, 1.0]))
    return [*found, odd]


def scores(folder: Path, budget: int = 400) -> np.ndarray:
    asked = topics()
    engine = Engine(load(str(folder)), device="cpu", dtype="float32", token_budget=budget, progress=False)
    return np.concatenate(engine(asked, everything(asked)))[:, 0]


def inputs(folder: Path) -> list[list[int]]:
    """The ids of every line, tokenised as a whole."""
    tokenizer = load(str(folder)).tokenizer
    lines = [f"question:{t.query} \n \n passage:{text}" for t in topics() for text in t.texts]
    return [tokenizer(line)["input_ids"] for line in lines]


def reference(folder: Path) -> np.ndarray:
    config = json.loads((folder / "config.json").read_text())
    state = {k: v.double().numpy() for k, v in load_file(folder / "model.safetensors").items()}
    pool = {"avg": lambda x: x.mean(0), "cls": lambda x: x[0], "last": lambda x: x[-1]}[config["pooling"]]
    states = [pool(decoder_states(config, state, ids, causal=False)) for ids in inputs(folder)]
    return np.array([state["score.weight"][-1] @ x / config["temperature"] for x in states])


@pytest.mark.parametrize("more", [{}, {"pooling": "last", "temperature": 0.2}, {"pooling": "cls"}])
def test_scores_equal_the_published_network(tmp_path: Path, more: dict[str, Any]) -> None:
    folder = save_nemotron(tmp_path / "m", **more)
    expected = reference(folder)
    np.testing.assert_allclose(scores(folder), expected, atol=2e-5 if more else 1e-5, rtol=0)
    assert np.std(expected) > 0.02


def test_scores_equal_transformers_llama_without_a_causal_mask(tmp_path: Path) -> None:
    from transformers import LlamaConfig, LlamaModel

    folder = save_nemotron(tmp_path / "m", rope_scaling=LLAMA3)
    config = json.loads((folder / "config.json").read_text())
    own = {k: v for k, v in config.items() if k not in ("model_type", "architectures", "auto_map", "torch_dtype")}
    state = load_file(folder / "model.safetensors")
    llama = LlamaModel(LlamaConfig(**own, attn_implementation="eager")).eval()
    llama.load_state_dict({k.removeprefix("model."): v for k, v in state.items() if k.startswith("model.")})
    rows = inputs(folder)
    width = max(map(len, rows))
    ids = torch.tensor([row + [0] * (width - len(row)) for row in rows])
    seen = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows])
    mask = torch.where(seen.bool()[:, None, None, :], 0.0, -torch.inf).expand(-1, 1, width, -1)
    with torch.inference_mode():
        states = llama(input_ids=ids, attention_mask=mask).last_hidden_state
    means = (states * seen[..., None]).sum(1) / seen.sum(1, keepdim=True)
    expected = (means @ state["score.weight"][0]).numpy()
    np.testing.assert_allclose(scores(folder), expected, atol=1e-5, rtol=0)


GOLDEN = [0.45782803, -0.37655679, -0.22274036]


def test_numbers_derived_apart_for_two_layers(tmp_path: Path) -> None:
    """Fixed weights: the numbers were computed by `numpy_networks` in double precision."""
    tokenizer = beginning(byte_level())
    sizes = {"hidden_size": 8, "intermediate_size": 12, "num_attention_heads": 2, "num_key_value_heads": 1}
    config = nemotron_config(tokenizer, **sizes, head_dim=4)
    state = fixed(decoder_shapes(config, False) | module("score", 1, 8, bias=False))
    rows = [[0, 4, 2, 7, 2], [0, 9, 2], [0]]
    found = [
        float(decoder_states(config, state, ids, causal=False).mean(0) @ state["score.weight"][0]) for ids in rows
    ]
    np.testing.assert_allclose(found, GOLDEN, atol=1e-6)
    write(tmp_path, config, {k: torch.from_numpy(v).float() for k, v in state.items()}, tokenizer)
    with torch.inference_mode():
        np.testing.assert_allclose(load(str(tmp_path)).forward(packed(rows)), GOLDEN, atol=1e-5)


def test_what_the_family_does_not_have_is_refused(tmp_path: Path) -> None:
    for more, message in (
        ({"pooling": "weighted_avg"}, "pooling 'weighted_avg'; this family has avg, cls, last"),
        ({"temperature": 0}, "temperature 0 must be above 0"),
    ):
        with pytest.raises(InputError, match=message):
            load(str(save_nemotron(tmp_path / "m", **more)))  # type: ignore[arg-type]
