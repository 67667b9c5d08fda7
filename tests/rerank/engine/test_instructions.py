"""Topics that carry an instruction: scored as by a model that was loaded with it, stored apart, refused elsewhere."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sparring.rerank.engine.engine import Engine
from sparring.rerank.engine.model import takes_instructions
from sparring.rerank.errors import UsageError
from sparring.rerank.ledger.keys import HashedTopic
from sparring.rerank.ledger.ledger import Ledger
from sparring.rerank.models.loading import load
from tiny_generators import save_causal
from tiny_layerwise import save_layerwise
from tiny_models import everything, save_classifier, tiny_topics

SAID = [None, "Find rivers.", "Find {old} markets.", "Find rivers.", None]


@pytest.mark.parametrize("kind", ["qwen3", "bge", "mxbai", "ctxl", "minicpm"])
def test_each_topic_is_scored_by_its_own_instruction(tmp_path: Path, kind: str) -> None:
    if kind == "minicpm":
        folder, family = save_layerwise(tmp_path / "m"), None
    else:
        folder, family = save_causal(tmp_path / "m"), f"causal(format={kind})"
    topic = tiny_topics(1, 6)[0]
    topics = [replace(topic, qid=str(i), instruction=said) for i, said in enumerate(SAID)]
    model = load(str(folder), family=family)
    engine = Engine(model, device="cpu", dtype="float32", token_budget=2000, progress=False)
    found = engine(topics, everything(topics))
    assert takes_instructions(model) and len({scores.tobytes() for scores in found}) >= 3
    for said, scores in zip(SAID, found, strict=True):
        alone = Engine(
            load(str(folder), family=family, instruction=said), device="cpu", dtype="float32", progress=False
        )
        np.testing.assert_allclose(scores, alone([topic], everything([topic]))[0], atol=1e-5)


def test_the_ledger_tells_instructions_apart(tmp_path: Path) -> None:
    topic = tiny_topics(1, 6)[0]
    queries = {HashedTopic(replace(topic, instruction=said)).query.tobytes() for said in SAID}
    assert len(queries) == 3
    model = load(str(save_causal(tmp_path / "m")), family="causal(format=qwen3)")
    engine = Engine(model, device="cpu", dtype="float32", progress=False)
    topics = [topic, replace(topic, instruction="Find rivers.")]
    with Ledger.open(tmp_path / "ledger") as ledger:
        scorer = ledger.wrap(engine)
        first = [scorer([one], everything([one]))[0] for one in topics]
        assert scorer.hits == 0 and not np.allclose(*first)
        again = [scorer([one], everything([one]))[0] for one in reversed(topics)]
        assert scorer.hits == 12
    np.testing.assert_array_equal(np.stack(first), np.stack(again[::-1]))


def test_models_that_take_none_say_so(tmp_path: Path) -> None:
    topic = replace(tiny_topics(1, 6)[0], instruction="Find rivers.")
    prompt = "causal(prompt='Is {a} about {query}?', yes=' yes', no=' no')"
    lightweight = "layerwise(compress_ratio=2, compress_layers='1')"
    for folder, family, message in (
        (save_classifier(tmp_path / "bert", "bert"), None, "this model takes none"),
        (save_causal(tmp_path / "causal"), prompt, "this format has none"),
        (save_layerwise(tmp_path / "gemma", "gemma"), lightweight, "the same for all topics"),
    ):
        model = load(str(folder), family=family)
        assert not takes_instructions(model)
        with pytest.raises(UsageError, match=message):
            Engine(model, device="cpu", dtype="float32", progress=False)([topic], everything([topic]))
