"""The layout of webis' pointwise models."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from sparring.rerank.engine.engine import Engine
from sparring.rerank.errors import InputError
from sparring.rerank.models.loading import load
from tiny_families import save_webis
from tiny_models import everything, tiny_topics


@pytest.mark.parametrize(("prefix", "bias"), [("", False), ("electra.", True)])
def test_webis_layout(tmp_path: Path, prefix: str, bias: bool) -> None:
    from transformers import ElectraConfig, ElectraModel

    folder = save_webis(tmp_path / "webis", prefix, bias)
    state = load_file(folder / "model.safetensors")
    model = load(str(folder))
    topics = tiny_topics(2, 8, words=40)
    engine = Engine(model, device="cpu", dtype="float32", progress=False)
    scores = np.concatenate(engine(topics, everything(topics)))[:, 0]
    config = json.loads((folder / "config.json").read_text())
    body = ElectraModel(ElectraConfig(**{k: v for k, v in config.items() if k != "model_type"})).eval()
    body.load_state_dict({k.removeprefix(prefix): v for k, v in state.items() if not k.startswith("linear")})
    expected = []
    for topic in topics:
        for text in topic.texts:
            q, d = (model.tokenizer(t, add_special_tokens=False)["input_ids"] for t in (topic.query, text))
            ids, types = [2, *q[:6], 3, *d[:20], 3], [0] * (len(q[:6]) + 2) + [1] * (len(d[:20]) + 1)
            with torch.inference_mode():
                cls = body(torch.tensor([ids]), token_type_ids=torch.tensor([types])).last_hidden_state[0, 0]
                expected.append(float(state["linear.weight"] @ cls + (state["linear.bias"] if bias else 0)))
    np.testing.assert_allclose(scores, expected, atol=1e-5)


def test_webis_without_a_head_is_refused(tmp_path: Path) -> None:
    folder = save_webis(tmp_path / "webis")
    state = load_file(folder / "model.safetensors")
    save_file({k: v for k, v in state.items() if k != "linear.weight"}, folder / "model.safetensors")
    with pytest.raises(InputError, match=r"no linear\.weight: the head would be random"):
        load(str(folder))
