"""duoBERT: equal to Hugging Face on the same ids, with segments and limits of every architecture."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_models
import torch
from sparring.rerank.engine.engine import Engine
from sparring.rerank.errors import UsageError
from sparring.rerank.models.loading import load
from tiny_models import tiny_topics
from tiny_pairs import PAIRS, logit, save_duo, state_family

KINDS = tuple(tiny_models.TOKENIZERS)


@pytest.fixture(
    scope="module", params=[*((kind, 3) for kind in ("bert", "electra")), *((kind, 2) for kind in KINDS)], ids=str
)
def duo(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    kind, segments = request.param
    return save_duo(tmp_path_factory.mktemp("duo") / kind, kind, segments, labels=1 + KINDS.index(kind) % 2)


def joined(tokenizer: Any, query: str, first: str, second: str, types: int) -> tuple[list[int], list[int]]:
    """Ids and types of ``[CLS] q [SEP] a [SEP] b [SEP]`` from the tokenizer's own pairs (q, a) and (a, b)."""
    left = tokenizer(query, first, return_token_type_ids=True)
    right = tokenizer(first, second, return_token_type_ids=True)
    whose = right.sequence_ids(0)
    start = len(whose) - whose[::-1].index(0)  # what follows the first text: separators, the second text, the end
    owners = left.sequence_ids(0)
    end = len(owners) - owners[::-1].index(1)
    ids = left["input_ids"][:end] + right["input_ids"][start:]
    boundary = next(i for i, owner in enumerate(owners) if owner == 1)
    between = next(i for i, owner in enumerate(whose) if owner == 1) - start
    counts = [boundary, end - boundary + between, len(right["input_ids"]) - start - between]
    return ids, [kind for index, n in enumerate(counts) for kind in [min(index, types - 1)] * n]


def test_duo_equals_hugging_face_on_the_same_ids(duo: Path) -> None:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    topic = tiny_topics(1, 5)[0]
    engine = Engine(load(str(duo)), device="cpu", dtype="float32", token_budget=200, progress=False)
    assert engine.width == 2
    found = engine([topic], [PAIRS])[0]
    module = AutoModelForSequenceClassification.from_pretrained(duo, attn_implementation="eager").eval()
    tokenizer = AutoTokenizer.from_pretrained(duo)
    types = max(1, getattr(module.config, "type_vocab_size", 0))
    expected = []
    for i, j in PAIRS:
        ids, kinds = joined(tokenizer, topic.query, topic.texts[i], topic.texts[j], types)
        extra = {"token_type_ids": torch.tensor([kinds])} if types > 1 else {}
        with torch.inference_mode():
            logits = module(input_ids=torch.tensor([ids]), **extra).logits[0]
        expected.append(float(logits[-1] - (logits[0] if len(logits) == 2 else 0)))
    np.testing.assert_allclose(logit(found), expected, atol=1e-5, rtol=1e-5)
    assert np.std(expected) > 0.05


def test_duo_segments_and_limits(tmp_path: Path) -> None:
    three, two = save_duo(tmp_path / "three", "bert", 3), save_duo(tmp_path / "two", "bert", 2)
    layout = [(getattr(s, "role", "-"), s.segment) for s in load(str(three)).template.slots]
    assert layout == [("-", 0), ("query", 0), ("-", 0), ("passage", 1), ("-", 1), ("passage", 2), ("-", 2)]
    assert [s.segment for s in load(str(two)).template.slots] == [0, 0, 0, 1, 1, 1, 1]
    assert [s.segment for s in load(str(three), family="duo(segments=2)").template.slots] == [0, 0, 0, 1, 1, 1, 1]
    with pytest.raises(UsageError, match="segments=3, but the checkpoint has 2 token types"):
        load(str(two), family="duo(segments=3)")
    with pytest.raises(UsageError, match="there are 1 to 3"):
        load(str(two), family="duo(segments=4)")
    limits = load(str(two), query_length=5, doc_length=9).truncation
    assert (limits.query_limit, limits.passage_limit) == (5, 9)


def test_three_token_types_mean_pairs_and_the_config_can_say_so(tmp_path: Path) -> None:
    folder = save_duo(tmp_path / "three", "electra", 3)
    config = json.loads((folder / "config.json").read_text())
    del config["sparring_family"]
    (folder / "config.json").write_text(json.dumps(config))
    assert load(str(folder)).width == 2
    state_family(folder, "sequence_classification")
    assert load(str(folder)).width == 1
    state_family(folder, "duoo")
    with pytest.raises(UsageError, match="unknown model family 'duoo' .did you mean 'duo'"):
        load(str(folder))
