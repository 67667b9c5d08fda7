"""The layout of Jina's rerankers: equal to the transformers model that it came from."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import tiny_models
import torch
from safetensors.torch import load_file, save_file
from sparring.rerank.engine.engine import Engine
from sparring.rerank.errors import InputError
from sparring.rerank.models.loading import load
from tiny_families import save_jina
from tiny_models import everything, hugging_face, tiny_topics


def test_jina_layout_scores_equal_the_transformers_model_it_came_from(tmp_path: Path) -> None:
    source = tiny_models.save_classifier(tmp_path / "xlm", "xlm-roberta")
    folder = save_jina(tmp_path / "jina", source)
    topics = tiny_topics(words=120)
    model = load(str(folder))
    assert model.truncation.max_length == 94  # positions start at 2
    engine = Engine(model, device="cpu", dtype="float32", token_budget=300, progress=False)
    scores = np.concatenate(engine(topics, everything(topics)))[:, 0]
    expected = hugging_face(source, topics, 94)
    np.testing.assert_allclose(scores, expected, atol=1e-5, rtol=0)
    assert np.std(expected) > 0.02 and engine.stats.truncated_passages > 0


def test_jina_layout_names_missing_unexpected_and_misshapen_weights(tmp_path: Path) -> None:
    folder = save_jina(tmp_path / "jina", tiny_models.save_classifier(tmp_path / "xlm", "xlm-roberta"))
    state = load_file(folder / "model.safetensors")
    joined, out = "roberta.encoder.layers.1.mixer.Wqkv.bias", "classifier.out_proj.weight"
    for changed, message in (
        ({k: v for k, v in state.items() if k not in (joined, out)},
         rf"missing {out}, {joined}; unexpected nothing"),
        (state | {"roberta.pooler.dense.weight": torch.zeros(2)}, r"missing nothing; unexpected roberta\.pooler"),
        (state | {joined: torch.zeros(97)}, r"do not fit the config(.|\n)*layer\.1\.attention\.self\.value\.bias"),
    ):  # fmt: skip
        save_file(changed, folder / "model.safetensors")
        with pytest.raises(InputError, match=message):
            load(str(folder))
    config = json.loads((folder / "config.json").read_text())
    for entry, message in (
        ({"position_embedding_type": "rotary"}, "position_embedding_type 'rotary'"),
        ({"lora_adaptations": ["retrieval.query"]}, "lora_adaptations are those of an embedding model"),
    ):
        (folder / "config.json").write_text(json.dumps(config | entry))
        with pytest.raises(InputError, match=message):
            load(str(folder))
