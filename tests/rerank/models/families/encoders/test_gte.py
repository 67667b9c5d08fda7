"""gte's cross-encoders against a reference in numpy, and against transformers where it has the network."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_models
import torch
from numpy_networks import fixed, gte_logits
from safetensors.torch import load_file, save_file
from sparring.rerank.engine.engine import Engine
from sparring.rerank.errors import InputError
from sparring.rerank.models.checkpoints import find
from sparring.rerank.models.families.encoders.glu_classifier import GluClassifier
from sparring.rerank.models.families.encoders.gte import shape_of, weights_of
from sparring.rerank.models.loading import load
from tiny_models import everything, hugging_face, tiny_topics
from tiny_remote import gte_config, gte_shapes, packed, save_gte, write

NTK: dict[str, Any] = {"factor": 8.0, "type": "ntk"}


def scores(folder: Path, budget: int = 300) -> np.ndarray:
    """All passages of the topics, in batches of mixed lengths."""
    topics = tiny_topics(words=60)
    topics[0].texts[3] = ""  # type: ignore[index]
    engine = Engine(load(str(folder)), device="cpu", dtype="float32", token_budget=budget, progress=False)
    return np.concatenate(engine(topics, everything(topics)))[:, 0]


def reference(folder: Path) -> np.ndarray:
    config = json.loads((folder / "config.json").read_text())
    state = {k: v.double().numpy() for k, v in load_file(folder / "model.safetensors").items()}
    tokenizer = load(str(folder)).tokenizer
    found = []
    for topic in tiny_topics(words=60):
        for i, text in enumerate(topic.texts):
            shown = "" if topic.qid == "q0" and i == 3 else text
            rows = tokenizer(
                [topic.query], [shown], truncation="only_second", max_length=96, return_token_type_ids=True
            )
            ids, types = rows["input_ids"][0], rows["token_type_ids"][0]
            types = types if config["type_vocab_size"] > 1 else [0] * len(ids)
            found.append(gte_logits(config, state, ids, types)[-1])
    return np.array(found)


@pytest.mark.parametrize(
    ("joined", "more"),
    [
        (True, {"rope_scaling": NTK}),
        (False, {"rope_scaling": None, "type_vocab_size": 2}),
        (True, {"rope_scaling": NTK | {"mixed_b": 0.6}, "type_vocab_size": 0}),
        (True, {"rope_scaling": NTK, "layer_norm_type": "rms_norm"}),
    ],
)
def test_scores_equal_the_published_network(tmp_path: Path, joined: bool, more: dict[str, Any]) -> None:
    folder = save_gte(tmp_path / "gte", joined, **more)
    expected = reference(folder)
    np.testing.assert_allclose(scores(folder), expected, atol=1e-5, rtol=0)
    np.testing.assert_allclose(scores(folder, budget=97), expected, atol=1e-5, rtol=0)
    assert np.std(expected) > 0.02


def test_scores_equal_transformers_gte_without_scaling_in_either_layout(tmp_path: Path) -> None:
    from transformers import AutoModelForSequenceClassification, GteConfig

    tokenizer = tiny_models.unigram()
    config = GteConfig(
        vocab_size=len(tokenizer), num_labels=1, max_position_embeddings=96, pad_token_id=1,
        hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48,
        rope_parameters={"rope_type": "default", "rope_theta": 20000.0},
    )  # fmt: skip
    torch.manual_seed(0)
    module = AutoModelForSequenceClassification.from_config(config)
    tiny_models.enlarge(module)
    native = tmp_path / "native"
    module.save_pretrained(native)
    tokenizer.save_pretrained(native)
    expected = hugging_face(native, tiny_topics(), 96)
    topics = tiny_topics()
    engine = Engine(load(str(native)), device="cpu", dtype="float32", token_budget=300, progress=False)
    np.testing.assert_allclose(np.concatenate(engine(topics, everything(topics)))[:, 0], expected, atol=1e-5)
    assert np.std(expected) > 0.02


GOLDEN = [0.4818385, 0.51498251, 0.52764878]


def test_numbers_derived_apart_for_two_layers(tmp_path: Path) -> None:
    """Fixed weights: the numbers were computed by `numpy_networks` in double precision."""
    sizes = {"hidden_size": 8, "num_attention_heads": 2, "intermediate_size": 12, "rope_theta": 500.0}
    config = gte_config(tiny_models.unigram(), **sizes, rope_scaling={"factor": 4.0, "type": "ntk"})
    state = fixed(gte_shapes(config))
    rows = [[0, 4, 2, 7, 2], [0, 9, 2], [0]]
    found = [gte_logits(config, state, ids, [0] * len(ids))[0] for ids in rows]
    np.testing.assert_allclose(found, GOLDEN, atol=1e-6)
    write(tmp_path, config, {k: torch.from_numpy(v).float() for k, v in state.items()}, tiny_models.unigram())
    with torch.inference_mode():
        np.testing.assert_allclose(load(str(tmp_path)).forward(packed(rows)), GOLDEN, atol=1e-5)


def test_weights_in_half_precision_are_computed_in_fp32(tmp_path: Path) -> None:
    folder = save_gte(tmp_path / "gte")
    state = load_file(folder / "model.safetensors")
    save_file({k: v.half() for k, v in state.items()}, folder / "model.safetensors")
    model = load(str(folder))
    assert isinstance(model, GluClassifier)
    assert {p.dtype for p in model.network.parameters()} == {torch.float32}
    np.testing.assert_allclose(scores(folder), reference(folder), atol=1e-5, rtol=0)


def test_what_the_family_does_not_have_is_refused(tmp_path: Path) -> None:
    for more, message in (
        ({"position_embedding_type": "absolute"}, "position_embedding_type 'absolute'; this family has rope"),
        (
            {"rope_scaling": {"factor": 2.0, "type": "dynamic"}},
            "rope_scaling of type 'dynamic'; this family has ntk",
        ),
        ({"logn_attention_scale": True}, "logn_attention_scale True"),
    ):
        folder = save_gte(tmp_path / "m", **more)  # type: ignore[arg-type]
        with pytest.raises(InputError, match=message):
            load(str(folder))
    folder = save_gte(tmp_path / "m")
    state = load_file(folder / "model.safetensors")
    lost = state.pop("new.encoder.layer.1.mlp_ln.bias")
    save_file(state | {"new.extra.weight": lost}, folder / "model.safetensors")
    with pytest.raises(InputError, match=r"missing body.layers.1.norm.bias; unexpected new.extra.weight"):
        load(str(folder))


def test_derived_buffers_in_the_file_are_ignored(tmp_path: Path) -> None:
    tokenizer = tiny_models.unigram()
    config = gte_config(tokenizer)
    folder = save_gte(tmp_path / "gte")
    state = load_file(folder / "model.safetensors")
    state["new.embeddings.rotary_emb.inv_freq"] = torch.zeros(4)
    state["new.embeddings.position_ids"] = torch.arange(96)
    write(folder, config, state, tokenizer)
    checkpoint = find(str(folder))
    assert not any("rotary" in name for name in weights_of(checkpoint, shape_of(checkpoint).layers))
    load(str(folder))
