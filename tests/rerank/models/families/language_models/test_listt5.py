"""ListT5: decodes as transformers does, and completes what is incomplete."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from sparring.rerank.errors import UsageError
from sparring.rerank.executors.open import open_scorer
from sparring.rerank.models.families.language_models.listt5 import complete
from sparring.rerank.models.loading import load
from sparring.rerank.vocabulary import Candidates
from tiny_families import save_listt5
from tiny_models import tiny_topics, whole


def generated(folder: Path, topic: Candidates, members: list[int]) -> list[int]:
    """What transformers' own greedy search writes for a list, as indices from 0; -1 for other tokens."""
    from transformers import AutoTokenizer, T5Config, T5ForConditionalGeneration
    from transformers.modeling_outputs import BaseModelOutput

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = T5ForConditionalGeneration(T5Config(**json.loads((folder / "config.json").read_text()))).eval()
    model.load_state_dict(load_file(folder / "model.safetensors"), strict=False)
    model.tie_weights()
    with torch.inference_mode():
        states = []
        for place, i in enumerate(members, 1):
            text = f"Query: {topic.query}, Index: {place}, Context: {topic.texts[i]}"
            states.append(model.encoder(**tokenizer(text, return_tensors="pt")).last_hidden_state[0])
        joined = torch.cat(states)[None]
        out = model.generate(
            encoder_outputs=BaseModelOutput(last_hidden_state=joined),
            attention_mask=torch.ones(joined.shape[:2], dtype=torch.long),
            max_new_tokens=len(members) + 2, do_sample=False, num_beams=1,
        )[0, 1:].tolist()  # fmt: skip
    out = out[: out.index(1)] if 1 in out else out
    named = {tokenizer.convert_tokens_to_ids(f"\u2581{i + 1}"): i for i in range(5)}
    return [named.get(token, -1) for token in out]


def test_listt5_decodes_as_transformers_does(tmp_path: Path) -> None:
    plain = save_listt5(tmp_path / "plain", wrapped=False)
    wrapped = save_listt5(tmp_path / "ListT5-base")
    topics = tiny_topics(3, 7, words=12)
    free = open_scorer(load(str(plain), family="listt5(decoding=free)"), device="cpu", dtype="float32")
    groups = [np.array([[0, 1, 2, 3, 4], [6, 5, -1, 2, -1]], np.int32)] * 3
    found = free(topics, groups)
    invalid = 0
    for topic, rows, scores in zip(topics, groups, found, strict=True):
        for row, places in zip(rows, scores, strict=True):
            members = row[row >= 0].tolist()
            order, valid = complete(generated(plain, topic, members), len(members))
            invalid += not valid
            assert np.isnan(places[row < 0]).all()
            assert np.argsort(places[row >= 0]).tolist() == order
    assert free.invalid == invalid > 0  # a random model says much that is no index
    restricted = open_scorer(load(str(wrapped), family="listt5"), device="cpu", dtype="float32", token_budget=1)
    again = restricted(topics, groups)
    for rows, scores in zip(groups, again, strict=True):
        for row, places in zip(rows, scores, strict=True):
            assert sorted(places[row >= 0]) == list(range((row >= 0).sum()))
    assert 0 < restricted.invalid <= 6
    encoded = restricted.stats.sequences
    np.testing.assert_array_equal(np.concatenate(restricted(topics, groups)), np.concatenate(again))
    assert restricted.stats.sequences == encoded  # encoder states are kept by query, index and passage
    with pytest.raises(UsageError, match=r"at most 5, asked for 7: use --schedule 'tournament\(m=5, r=2\)'"):
        restricted(topics, whole(topics))


def test_incomplete_output_is_completed_by_the_input_order() -> None:
    assert complete([2, 0, 1], 3) == ([2, 0, 1], True)
    assert complete([2, 2, 7, -1], 4) == ([3, 1, 0, 2], False)  # the unnamed are worse, the earlier the better
    assert complete([], 3) == ([2, 1, 0], False)
    assert complete([1, 0, 0], 2) == ([1, 0], False)
