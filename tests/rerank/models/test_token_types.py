"""Token types are what the tokenizer says: one that yields none means 0 everywhere, for every architecture."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from sparring.rerank.engine.templates import Text
from sparring.rerank.models.loading import load
from tiny_models import save_classifier, tiny_topics
from tiny_modular import ours, save_head, save_modular, theirs


def untyped(folder: Path) -> Path:
    """The tokenizer of a folder, without token types."""
    path = folder / "tokenizer_config.json"
    config = json.loads(path.read_text()) | {"model_input_names": ["input_ids", "attention_mask"]}
    path.write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize("kind", ["bert", "electra", "deberta-v2"])
def test_a_plain_cross_encoder(tmp_path: Path, kind: str) -> None:
    folder, topics = save_classifier(tmp_path / "m", kind), tiny_topics(2, 8)
    typed = ours(folder, topics)
    np.testing.assert_allclose(typed, theirs(folder, topics), atol=1e-5)
    said = ours(untyped(folder), topics)
    np.testing.assert_allclose(said, theirs(folder, topics), atol=1e-5)
    assert (np.abs(said - typed).max() > 1e-3) == (kind != "deberta-v2")  # this one has a single type
    slots = [slot.segment for slot in load(str(folder)).template.slots if isinstance(slot, Text)]  # type: ignore
    assert slots == [0, 0]


@pytest.mark.parametrize("make", [save_modular, save_head])
def test_a_cross_encoder_of_modules(tmp_path: Path, make: object) -> None:
    folder = untyped(make(tmp_path, "electra"))  # type: ignore[operator]
    topics = tiny_topics(2, 8)
    np.testing.assert_allclose(ours(folder, topics), theirs(folder, topics), atol=1e-5)


@pytest.mark.parametrize("kind", ["bert", "electra"])
def test_what_training_saves_scores_the_same_in_sentence_transformers(tmp_path: Path, kind: str) -> None:
    from sparring.train.data.collator import Collator
    from sparring.train.rankers.kinds import Start, kinds

    start = untyped(save_classifier(tmp_path / "start", kind))
    ranker = kinds.parse("pointwise").start(Start(str(start), 64)).eval()
    ranker.save(tmp_path / "saved")
    topic = tiny_topics(1, 6)[0]
    inputs = Collator(ranker.tokenizer, ranker.layout, 100).inputs([topic], [np.arange(6)[None]])
    with torch.inference_mode():
        trained = ranker(**inputs)[0].numpy()
    np.testing.assert_allclose(trained, theirs(tmp_path / "saved", [topic]), atol=1e-5)
    np.testing.assert_allclose(trained, ours(tmp_path / "saved", [topic]), atol=1e-5)
