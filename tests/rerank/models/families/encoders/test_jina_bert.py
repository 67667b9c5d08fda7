"""JinaBERT's cross-encoders, in both layouts, against a reference in numpy."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy_networks import fixed, jina_bert_logits, slopes
from safetensors.torch import load_file, save_file
from sparring.rerank.engine.engine import Engine
from sparring.rerank.errors import InputError
from sparring.rerank.models.attention import alibi
from sparring.rerank.models.attention.alibi import alibi_slopes
from sparring.rerank.models.loading import load
from tiny_models import everything, tiny_topics, wordpiece
from tiny_remote import jina_bert_config, jina_bert_shapes, packed, save_jina_bert, write


def scores(folder: Path, budget: int = 300) -> np.ndarray:
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
            rows = tokenizer([topic.query], [shown], truncation="only_second", max_length=96)
            ids, types = rows["input_ids"][0], rows["token_type_ids"][0]
            found.append(jina_bert_logits(config, state, ids, types)[-1])
    return np.array(found)


@pytest.mark.parametrize(
    ("later", "more"),
    [
        (True, {}),
        (False, {"feed_forward_type": "reglu"}),
        (True, {"feed_forward_type": "reglu", "num_attention_heads": 2}),
    ],
)
def test_scores_equal_the_published_network(tmp_path: Path, later: bool, more: dict[str, Any]) -> None:
    folder = save_jina_bert(tmp_path / "jina", later, **more)
    expected = reference(folder)
    np.testing.assert_allclose(scores(folder), expected, atol=1e-5, rtol=0)
    np.testing.assert_allclose(scores(folder, budget=97), expected, atol=1e-5, rtol=0)
    assert np.std(expected) > 0.02


def test_queries_of_a_long_row_are_taken_a_few_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = save_jina_bert(tmp_path / "jina")
    whole = scores(folder)
    monkeypatch.setattr(alibi, "SCORES", 1000)
    np.testing.assert_allclose(scores(folder), whole, atol=1e-5, rtol=0)


@pytest.mark.parametrize("heads", [1, 2, 6, 8, 12, 16])
def test_slopes_are_those_of_the_paper(heads: int) -> None:
    np.testing.assert_allclose(alibi_slopes(heads), slopes(heads), rtol=1e-12)


GOLDEN = {True: [-0.94267184, -1.00648375, -0.7577318], False: [-0.71698174, -0.58279998, -0.98993134]}


@pytest.mark.parametrize("later", [True, False])
def test_numbers_derived_apart_for_two_layers(tmp_path: Path, later: bool) -> None:
    """Fixed weights: the numbers were computed by `numpy_networks` in double precision."""
    config = jina_bert_config(wordpiece(), hidden_size=8, num_attention_heads=2, intermediate_size=12)
    state = fixed(jina_bert_shapes(config, later))
    rows, types = [[0, 4, 2, 7, 2], [0, 9, 2], [0]], [[0, 0, 0, 1, 1], [0, 1, 1], [0]]
    found = [jina_bert_logits(config, state, *row)[0] for row in zip(rows, types, strict=True)]
    np.testing.assert_allclose(found, GOLDEN[later], atol=1e-6)
    write(tmp_path, config, {k: torch.from_numpy(v).float() for k, v in state.items()}, wordpiece())
    with torch.inference_mode():
        np.testing.assert_allclose(load(str(tmp_path)).forward(packed(rows, types)), GOLDEN[later], atol=1e-5)


def test_what_the_family_does_not_have_is_refused(tmp_path: Path) -> None:
    for more, message in (
        ({"position_embedding_type": "absolute"}, "position_embedding_type 'absolute'; this family has alibi"),
        ({"feed_forward_type": "original"}, "feed_forward_type 'original'; this family has geglu and reglu"),
    ):
        with pytest.raises(InputError, match=message):
            load(str(save_jina_bert(tmp_path / "m", **more)))  # type: ignore[arg-type]


def test_the_head_of_a_config_without_labels_has_the_rows_of_its_weights(tmp_path: Path) -> None:
    folder = save_jina_bert(tmp_path / "two")
    state = load_file(folder / "model.safetensors")
    state |= {"classifier.weight": torch.randn(2, 32), "classifier.bias": torch.randn(2)}
    save_file(state, folder / "model.safetensors")
    config = json.loads((folder / "config.json").read_text())
    double = {k: v.double().numpy() for k, v in state.items()}
    model = load(str(folder))
    pair = model.tokenizer("a river", "the bread of the market")
    low, high = jina_bert_logits(config, double, pair["input_ids"], pair["token_type_ids"])
    topics = tiny_topics(1, 1)
    topics[0].texts[0] = "the bread of the market"  # type: ignore[index]
    asked = type(topics[0])("q", "a river", ("d",), topics[0].texts, topics[0].scores)
    engine = Engine(model, device="cpu", dtype="float32", progress=False)
    np.testing.assert_allclose(engine([asked], everything([asked]))[0][0, 0], high - low, atol=1e-5)
