"""ListConRanker: equal to its formulas, and equal texts keep their own scores."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from sparring.rerank.errors import InputError
from sparring.rerank.executors.open import open_scorer
from sparring.rerank.models.families.encoders.list_con_ranker import in_rounds
from sparring.rerank.models.loading import load
from sparring.rerank.vocabulary import Candidates
from tiny_families import save_list_con_ranker
from tiny_models import tiny_topics, whole


def list_con_ranker_by_hand(folder: Path, topic: Candidates) -> np.ndarray:
    """The published formulas, passage by passage, with transformers and torch's own transformer."""
    from transformers import AutoTokenizer, BertConfig, BertModel

    state = load_file(folder / "model.safetensors")
    body = BertModel(
        BertConfig(**json.loads((folder / "config.json").read_text())), add_pooling_layer=False
    ).eval()
    body.load_state_dict({k.removeprefix("hf_model."): v for k, v in state.items() if k.startswith("hf_model.")})
    tokenizer = AutoTokenizer.from_pretrained(folder)
    with torch.inference_mode():
        rows = [
            body(**tokenizer(text, return_tensors="pt")).last_hidden_state[0].mean(0)
            for text in [topic.query, *topic.texts]
        ]
        x = torch.stack(rows) @ state["linear_in_embedding.weight"].T + state["linear_in_embedding.bias"]
        part = {k.removeprefix("list_transformer."): v for k, v in state.items()}
        tags = part["query_embedding.query_embedding.weight"][[1] + [0] * len(topic)]
        y = torch.nn.functional.layer_norm(x + tags, (24,))
        layer = torch.nn.TransformerEncoderLayer(24, 4, 40, activation="gelu", batch_first=True)
        transformer = torch.nn.TransformerEncoder(layer, 2, enable_nested_tensor=False).eval()
        names = {
            k.removeprefix("list_transformer."): v for k, v in part.items() if k.startswith("list_transformer.")
        }
        transformer.load_state_dict(names)
        hidden = torch.zeros(len(y), len(y), dtype=torch.bool)
        hidden[0, 1:] = True
        y = transformer(y[None], mask=hidden)[0]
        scores = []
        for i in range(1, len(x)):
            one, two = (
                torch.relu(
                    part[f"linear_score{n}.weight"] @ torch.cat([z[0], z[i]]) + part[f"linear_score{n}.bias"]
                )
                for n, z in ((2, x), (3, y))
            )
            scores.append(part["linear_score1.weight"][0] @ torch.cat([one, two]) + part["linear_score1.bias"][0])
    return torch.stack(scores).numpy()


def test_list_con_ranker_equals_its_formulas(tmp_path: Path) -> None:
    folder = save_list_con_ranker(tmp_path / "one")
    model = load(str(folder), family="list_con_ranker(iterative=False)")
    scorer = open_scorer(model, device="cpu", dtype="float32", progress=False)
    topics = tiny_topics(2, 9)
    found = scorer(topics, whole(topics))
    for topic, scores in zip(topics, found, strict=True):
        np.testing.assert_allclose(scores[0], list_con_ranker_by_hand(folder, topic), atol=1e-4, rtol=1e-5)
    apart = open_scorer(
        load(str(save_list_con_ranker(tmp_path / "apart", apart=True))), device="cpu", dtype="float32"
    )
    short = apart(topics, whole(topics))  # lists of up to 20 take one round
    np.testing.assert_allclose(short[0], 1 / (1 + np.exp(-found[0])), atol=1e-5)
    encoded = scorer.stats.sequences
    order = np.random.default_rng(0).permutation(9).astype(np.int32)
    padded = np.concatenate([[-1], order]).astype(np.int32)[None]
    again = scorer(topics, [padded, padded])
    np.testing.assert_allclose(again[0][0, 1:], found[0][0, order], atol=1e-4)
    assert np.isnan(again[0][0, 0])
    assert scorer.stats.sequences == encoded  # every text is encoded once, however many lists it is in


def test_equal_texts_keep_their_own_scores() -> None:
    """Iterative inference is keyed by position: 50 members, some with equal texts, all scored."""
    rng = np.random.default_rng(0)
    logits = rng.normal(size=50)
    logits[10:14] = logits[3]
    seen = []

    def score(left: np.ndarray) -> np.ndarray:
        seen.append(len(left))
        return logits[left]

    scores = in_rounds(score, np.arange(50))
    assert seen[0] == 50 and all(a - b >= 10 for a, b in pairwise(seen))
    assert len(set(scores[[3, 10, 11, 12, 13]])) == 1
    np.testing.assert_array_equal(np.argsort(-scores, kind="stable"), np.argsort(-logits, kind="stable"))
    assert np.isfinite(in_rounds(lambda left: np.zeros(len(left)), np.arange(30))).all()


def test_pickled_parts_are_refused(tmp_path: Path) -> None:
    folder = save_list_con_ranker(tmp_path, apart=True)
    (folder / "list_transformer.safetensors").rename(folder / "list_transformer.pt")
    with pytest.raises(InputError, match=r"no list_transformer; list_transformer.pt is pickled and refused"):
        load(str(folder))
