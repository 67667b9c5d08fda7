"""ModernBERT's classifiers (granite and gte rerankers): both poolings and all biases, equal to transformers'."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_models
import torch
from sparring.rerank.engine.engine import Engine
from sparring.rerank.models.loading import load
from tiny_models import SIZES, byte_bpe, everything, hugging_face, tiny_topics


def save(folder: Path, **more: Any) -> Path:
    from transformers import AutoModelForSequenceClassification, ModernBertConfig

    tokenizer = byte_bpe("modernbert")
    config = ModernBertConfig(
        **SIZES, vocab_size=len(tokenizer), num_labels=1, pad_token_id=tokenizer.pad_token_id, cls_token_id=0,
        sep_token_id=2, bos_token_id=0, eos_token_id=2, max_position_embeddings=96, local_attention=16,
        global_attn_every_n_layers=2, **more,
    )  # fmt: skip
    torch.manual_seed(0)
    module = AutoModelForSequenceClassification.from_config(config)
    tiny_models.enlarge(module)
    with torch.no_grad():  # a bias of zero, or a norm of one, would hide that it is left out
        for parameter in module.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.2 * torch.randn_like(parameter))
    module.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("pooling", ["cls", "mean"])
@pytest.mark.parametrize("bias", [False, True])
def test_scores_equal_transformers(tmp_path: Path, pooling: str, bias: bool) -> None:
    biases = {f"{part}_bias": bias for part in ("classifier", "norm", "attention", "mlp")}
    folder = save(tmp_path / "m", classifier_pooling=pooling, **biases)
    topics = tiny_topics(words=60)
    topics[0].texts[3] = ""  # type: ignore[index]
    expected = hugging_face(folder, topics, 96)
    model = load(str(folder))
    for budget in (97, 600):
        engine = Engine(model, device="cpu", dtype="float32", token_budget=budget, progress=False)
        found = np.concatenate(engine(topics, everything(topics)))[:, 0]
        np.testing.assert_allclose(found, expected, atol=1e-5, rtol=0)
    assert np.std(expected) > 0.02
