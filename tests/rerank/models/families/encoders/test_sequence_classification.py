"""Cross-encoders of every architecture: equal to Hugging Face in fp32, at every length; bad heads refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import tiny_models
from safetensors.torch import load_file, save_file
from sparring.rerank.engine.engine import Engine
from sparring.rerank.errors import InputError, UsageError
from sparring.rerank.models.loading import load
from sparring.rerank.vocabulary import Candidates
from tiny_models import everything, hugging_face, tiny_topics

KINDS = tuple(tiny_models.TOKENIZERS)


@pytest.fixture(scope="module", params=KINDS)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp(request.param)
    return tiny_models.save_classifier(path, request.param, labels=1 + KINDS.index(request.param) % 2)


def test_scores_equal_hugging_face_eager(folder: Path) -> None:
    topics = tiny_topics(words=120)  # some beyond the position table: the passage is cut
    model = load(str(folder))
    engine = Engine(model, device="cpu", dtype="float32", token_budget=300, progress=False)
    scores = np.concatenate(engine(topics, everything(topics)))[:, 0]
    expected = hugging_face(folder, topics, model.truncation.max_length)
    np.testing.assert_allclose(scores, expected, atol=1e-5, rtol=0)
    assert np.std(expected) > 0.02
    assert engine.stats.truncated_passages > 0


def test_length_at_the_limit_of_the_position_table_and_one_beyond(folder: Path) -> None:
    limit = load(str(folder)).truncation.max_length
    assert limit in (96, 94)  # RoBERTa's positions start at 2
    topic = Candidates("q", "river", ("d",), ["mountain " * 500], np.zeros(1))
    for length in (limit - 1, limit):
        model = load(str(folder), max_length=length)
        engine = Engine(model, device="cpu", dtype="float32", progress=False)
        score = engine([topic], everything([topic]))[0][0, 0]
        assert engine.stats.tokens == length
        np.testing.assert_allclose(score, hugging_face(folder, [topic], length)[0], atol=1e-5)
    with pytest.raises(UsageError, match=f"max_length {limit + 1} is outside"):
        load(str(folder), max_length=limit + 1)


def test_a_head_that_would_be_random_is_refused(tmp_path: Path) -> None:
    folder = tiny_models.save_classifier(tmp_path / "m", "bert")
    state = load_file(folder / "model.safetensors")
    save_file(
        {k: v for k, v in state.items() if not k.startswith("classifier")}, folder / "model.safetensors",
        metadata={"format": "pt"},
    )  # fmt: skip
    with pytest.raises(InputError, match=r"lacks classifier\.bias, classifier\.weight.*would be random"):
        load(str(folder))


@pytest.mark.parametrize("labels", [3, 5])
def test_a_head_of_many_labels_is_refused(tmp_path: Path, labels: int) -> None:
    folder = tiny_models.save_classifier(tmp_path / "m", "bert", labels=labels)
    with pytest.raises(InputError, match=f"the head has {labels} labels .*; a reranker has 1 or 2: name"):
        load(str(folder))


def test_weights_of_another_shape_are_refused(tmp_path: Path) -> None:
    folder = tiny_models.save_classifier(tmp_path / "m", "bert")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"vocab_size": 77}))
    with pytest.raises(InputError, match="word_embeddings|do not fit"):
        load(str(folder))
