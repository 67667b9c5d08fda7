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
from tiny_models import everything, hugging_face, tiny_topics


def save_jina(folder: Path, source: Path) -> Path:
    """A tiny XLM-R cross-encoder in the layout of jina-reranker-v2: names, joined projections, a foreign config."""
    state = load_file(source / "model.safetensors")
    theirs = {"roberta.emb_ln": "roberta.embeddings.LayerNorm"}
    for name in ("word_embeddings", "position_embeddings", "token_type_embeddings"):
        theirs[f"roberta.embeddings.{name}"] = f"roberta.embeddings.{name}"
    for name in ("dense", "out_proj"):
        theirs[f"classifier.{name}"] = f"classifier.{name}"
    for i in range(3):
        ours = f"roberta.encoder.layer.{i}"
        for name, part in (
            ("mixer.out_proj", "attention.output.dense"), ("norm1", "attention.output.LayerNorm"),
            ("mlp.fc1", "intermediate.dense"), ("mlp.fc2", "output.dense"), ("norm2", "output.LayerNorm"),
        ):  # fmt: skip
            theirs[f"roberta.encoder.layers.{i}.{name}"] = f"{ours}.{part}"
    written = {}
    for kind in ("weight", "bias"):
        written |= {f"{n}.{kind}": state[f"{o}.{kind}"] for n, o in theirs.items() if f"{o}.{kind}" in state}
        for i in range(3):
            own = f"roberta.encoder.layer.{i}.attention.self"
            joined = torch.cat([state[f"{own}.{part}.{kind}"] for part in ("query", "key", "value")])
            written[f"roberta.encoder.layers.{i}.mixer.Wqkv.{kind}"] = joined
    folder.mkdir()
    save_file(written, folder / "model.safetensors")
    content = json.loads((source / "config.json").read_text())
    del content["model_type"]
    content |= {
        "auto_map": {
            "AutoConfig": "configuration_xlm_roberta.XLMRobertaFlashConfig",
            "AutoModelForSequenceClassification": "modeling_xlm_roberta.XLMRobertaForSequenceClassification",
        },
        "emb_pooler": None, "use_flash_attn": True, "torch_dtype": "bfloat16", "num_labels": 1,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(content))
    for module in ("configuration_xlm_roberta", "modeling_xlm_roberta"):
        (folder / f"{module}.py").write_text("raise SystemExit('code of a checkpoint was run')")
    tiny_models.unigram().save_pretrained(folder)
    said = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(said | {"tokenizer_class": "XLMRobertaTokenizer"}))
    return folder


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
