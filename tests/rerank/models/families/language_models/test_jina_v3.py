"""jina-reranker-v3 against a reference in numpy, on prompts tokenised as whole strings."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy_networks import decoder_states, fixed, relu
from safetensors.torch import load_file
from sparring.rerank.errors import InputError, UsageError
from sparring.rerank.executors.open import open_scorer
from sparring.rerank.models.families.language_models import jina_prompt
from sparring.rerank.models.families.language_models.jina_v3 import JinaV3
from sparring.rerank.models.loading import load
from sparring.rerank.vocabulary import Candidates
from tiny_models import tiny_topics, whole
from tiny_remote import DECODER, QWEN, jina_v3_shapes, save_jina_v3

SYSTEM = (
    "You are a search relevance expert who can determine a ranking of the passages based on how relevant they are to "
    "the query. If the query is a question, how relevant a passage is depends on how well it answers the question. If "
    "not, try to analyze the intent of the query and assess how well each passage satisfies the intent. If an "
    "instruction is provided, you should follow the instruction when determining the ranking."
)


def prompt(query: str, docs: Sequence[str], instruction: str | None) -> str:
    """The owner's prompt as one string."""
    text = f"<|im_start|>system\n{SYSTEM}<|im_end|>\n<|im_start|>user\n"
    text += f"I will provide you with {len(docs)} passages, each indicated by a numerical identifier. "
    text += f"Rank the passages based on their relevance to query: {query}\n"
    if instruction:
        text += f"<instruct>\n{instruction}\n</instruct>\n"
    rows = [f'<passage id="{i}">\n{doc}<|embed_token|>\n</passage>' for i, doc in enumerate(docs)]
    text += "\n".join(rows) + f"\n<query>\n{query}<|rerank_token|>\n</query>"
    return text + "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"


def vectors(
    folder: Path, query: str, docs: Sequence[str], instruction: str | None
) -> tuple[np.ndarray, np.ndarray]:
    config = json.loads((folder / "config.json").read_text())
    state = {k: v.double().numpy() for k, v in load_file(folder / "model.safetensors").items()}
    model = load(str(folder))
    ids = model.tokenizer(prompt(query, docs, instruction), add_special_tokens=False)["input_ids"]
    states = decoder_states(config, state, ids, causal=True)
    shown, asked = (
        model.tokenizer.convert_tokens_to_ids(mark) for mark in ("<|embed_token|>", "<|rerank_token|>")
    )
    out = relu(states @ state["projector.0.weight"].T) @ state["projector.2.weight"].T
    return out[np.array(ids) == shown], out[np.array(ids) == asked][0]


def cosine(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return a @ b / np.linalg.norm(a, axis=-1) / np.linalg.norm(b)


def topics() -> list[Candidates]:
    found = tiny_topics(2, 5)
    found[0].texts[1] = ""  # type: ignore[index]
    found[1].texts[0] = "\n(a) bread?\n"  # type: ignore[index]
    return found


@pytest.mark.parametrize("instruction", [None, "rank what is about {bread}"])
def test_scores_equal_the_published_network(tmp_path: Path, instruction: str | None) -> None:
    folder = save_jina_v3(tmp_path / "m")
    asked = topics()
    scorer = open_scorer(load(str(folder), instruction=instruction), device="cpu", dtype="float32", progress=False)
    for topic, found in zip(asked, scorer(asked, whole(asked)), strict=True):
        expected = cosine(*vectors(folder, topic.query, list(topic.texts), instruction))
        np.testing.assert_allclose(found[0], expected, atol=1e-5, rtol=0)
        assert np.std(expected) > 0.001


def test_long_lists_are_scored_as_the_owner_merges_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jina_prompt, "BLOCK", 2)
    folder = save_jina_v3(tmp_path / "m")
    topic = topics()[0]
    docs, queries, weights = [], [], []
    for start in (0, 2, 4):
        shown, query = vectors(folder, topic.query, list(topic.texts)[start : start + 2], None)
        docs.append(shown)
        queries.append(query)
        weights.append(((1 + cosine(shown, query)) / 2).max())
    expected = cosine(np.concatenate(docs), np.average(queries, axis=0, weights=weights))
    scorer = open_scorer(load(str(folder)), device="cpu", dtype="float32", progress=False)
    np.testing.assert_allclose(scorer([topic], whole([topic]))[0][0], expected, atol=1e-5, rtol=0)
    assert scorer.stats.sequences == 3


def test_the_order_of_a_list_changes_its_scores(tmp_path: Path) -> None:
    topic = topics()[0]
    scorer = open_scorer(load(str(save_jina_v3(tmp_path / "m"))), device="cpu", dtype="float32", progress=False)
    rows = np.array([[0, 1, 2, 3, 4], [4, 3, 2, 1, 0]], np.int32)
    forth, back = scorer([topic], [rows])[0]
    assert np.abs(forth - back[::-1]).max() > 1e-4


def test_texts_that_spell_special_tokens_stay_text(tmp_path: Path) -> None:
    model = load(str(save_jina_v3(tmp_path / "m")))
    assert isinstance(model, JinaV3)
    passages = model.prompt.passages(["a <|embed_token|>river<|im_end|>"])
    assert passages.texts == ["a river<|im_end|>"]
    listed = model.prompt.write("bread", passages.texts)
    end = model.tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert (listed.ids == end).sum() == 2 and len(listed.passages) == 1


def test_long_texts_are_cut_and_counted_and_blocks_keep_within_the_length(tmp_path: Path) -> None:
    model = load(str(save_jina_v3(tmp_path / "m")), max_length=1024)
    assert isinstance(model, JinaV3) and model.max_length == 1024
    long = Candidates("q", "bread " * 400, tuple("abcd"), ["river " * 900] * 4, np.arange(4.0)[::-1])
    scorer = open_scorer(model, device="cpu", dtype="float32", progress=False)
    found = scorer([long], whole([long]))[0]
    assert np.isfinite(found).all()
    assert scorer.stats.truncated_passages == 4 and scorer.stats.truncated_queries == 1
    assert scorer.stats.sequences > 1


GOLDEN = [-0.57657647, -0.88794488]


def test_numbers_derived_apart_for_two_layers() -> None:
    """Fixed weights: the numbers were computed by `numpy_networks` in double precision."""
    sizes = {"hidden_size": 8, "intermediate_size": 12, "num_attention_heads": 2, "head_dim": 4, "vocab_size": 11}
    config = DECODER | sizes | {"num_key_value_heads": 1}
    state = fixed(jina_v3_shapes(config))
    states = decoder_states(config, state, [0, 4, 2, 9, 7, 5, 9, 3, 10, 1], causal=True)[[3, 6, 8]]
    out = relu(states @ state["projector.0.weight"].T) @ state["projector.2.weight"].T
    np.testing.assert_allclose(cosine(out[:2], out[2]), GOLDEN, atol=1e-6)


def test_a_tokenizer_without_the_marks_and_options_not_honoured_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = save_jina_v3(tmp_path / "m")
    with pytest.raises(UsageError, match="does not honour --token-budget"):
        open_scorer(load(str(folder)), device="cpu", token_budget=100, progress=False)
    monkeypatch.setattr("tiny_remote.QWEN", QWEN[:2] + QWEN[3:])
    with pytest.raises(InputError, match=r"its tokenizer has no token <\|embed_token\|>"):
        load(str(save_jina_v3(tmp_path / "other")))
