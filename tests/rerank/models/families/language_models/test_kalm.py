"""KaLM-Reranker against its published procedure on transformers' T5Gemma 2, on whole strings, padded."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from sparring.rerank.errors import InputError, UsageError
from sparring.rerank.executors.open import open_scorer
from sparring.rerank.models.checkpoints import find
from sparring.rerank.models.families.language_models.kalm import Kalms, pooled
from sparring.rerank.models.loading import load
from sparring.rerank.vocabulary import Candidates
from tiny_generators import save_t5
from tiny_kalm import save_kalm
from tiny_models import everything, tiny_topics


def topics() -> list[Candidates]:
    found = tiny_topics(2, 7, words=30)
    found[0].texts[2] = ""  # type: ignore[index]
    return found


def reference(folder: Path, topic: Candidates, instruction: str, chunk: int) -> np.ndarray:
    """All passages of a topic as one padded batch; states are pooled one chunk after the other."""
    from transformers import AutoModelForSeq2SeqLM, AutoTokenizer
    from transformers.modeling_outputs import BaseModelOutput

    module = AutoModelForSeq2SeqLM.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    prompt = (
        "<bos><start_of_turn>user\nJudge whether the Document meets the requirements based on the Query and the "
        'Instruct provided. Note that the answer can only be "yes" or "no".\n\n'
        f"<Instruct>: {instruction}\n<Query>: {topic.query}<end_of_turn>\n<start_of_turn>model\n\n\n\n"
    )
    rows = [tokenizer(f"<Document>: {text}", add_special_tokens=False)["input_ids"] for text in topic.texts]
    width = max(map(len, rows))
    ids = torch.tensor([row + [0] * (width - len(row)) for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows])
    asked = torch.tensor([tokenizer(prompt, add_special_tokens=False)["input_ids"]] * len(rows))
    with torch.inference_mode():
        states = module.get_encoder()(input_ids=ids, attention_mask=mask).last_hidden_state
        chunks = -(-width // chunk)
        means, left = (
            torch.zeros(len(rows), chunks, states.shape[2]),
            torch.zeros(len(rows), chunks, dtype=torch.long),
        )
        for i, row in enumerate(rows):
            for j in range(-(-len(row) // chunk)):
                means[i, j] = states[i, j * chunk : min((j + 1) * chunk, len(row))].mean(0)
                left[i, j] = 1
        logits = module(
            encoder_outputs=BaseModelOutput(last_hidden_state=means), attention_mask=left, decoder_input_ids=asked
        ).logits[:, -1]
    yes, no = (tokenizer(word, add_special_tokens=False)["input_ids"][-1] for word in ("yes", "no"))
    return (logits[:, yes] - logits[:, no]).numpy()


@pytest.mark.parametrize(("instruction", "chunk"), [(None, 4), ("Find {bread}", 1)])
def test_scores_equal_the_published_procedure(tmp_path: Path, instruction: str | None, chunk: int) -> None:
    folder = save_kalm(tmp_path / "m")
    shown = "Given a query, retrieve documents that answer the query." if instruction is None else "Find (bread)"
    for budget in (None, 300):
        model = load(str(folder), family="kalm", instruction=instruction, chunk=chunk)
        scorer = open_scorer(model, device="cpu", dtype="float32", token_budget=budget, progress=False)
        asked = topics()
        for topic, found in zip(asked, scorer(asked, everything(asked)), strict=True):
            expected = reference(folder, topic, shown, chunk)
            np.testing.assert_allclose(found[:, 0], expected, atol=1e-5, rtol=0)
            assert np.std(expected) > 0.02


def test_means_of_chunks_derived_by_hand() -> None:
    states = torch.arange(10.0).view(1, 5, 2)
    means, left = pooled(states, torch.tensor([[1, 1, 1, 0, 0]]), 2)
    assert means.tolist() == [[[1.0, 2.0], [4.0, 5.0], [0.0, 0.0]]] and left.tolist() == [[1, 1, 0]]


def test_long_texts_are_cut_and_counted(tmp_path: Path) -> None:
    model = load(str(save_kalm(tmp_path / "m")), family="kalm", max_length=16)
    long = Candidates("q", "bread " * 900, ("a", "b"), ["river " * 90, "river"], np.array([2.0, 1.0]))
    scorer = open_scorer(model, device="cpu", dtype="float32", progress=False)
    assert np.isfinite(scorer([long], everything([long]))[0]).all()
    assert scorer.stats.truncated_passages == 1 and scorer.stats.truncated_queries == 1


def test_what_is_known_is_kept_and_the_rest_has_the_same_bits(tmp_path: Path) -> None:
    model = load(str(save_kalm(tmp_path / "m")), family="kalm")
    scorer = open_scorer(model, device="cpu", dtype="float32", token_budget=300, progress=False)
    asked = topics()[:1]
    whole = scorer(asked, everything(asked))
    half = [whole[0].copy()]
    half[0][::2] = np.nan
    heard: list[int] = []
    again = scorer(asked, everything(asked), lambda topic, row, values: heard.extend(row.tolist()), half)
    np.testing.assert_array_equal(again[0], whole[0])
    assert sorted(heard) == [0, 2, 4, 6]


def test_the_hub_name_decides_as_a_language_model_has_the_same_config(tmp_path: Path) -> None:
    folder = save_kalm(tmp_path / "KaLM-Reranker-V1-Nano")
    checkpoint = find(str(folder))
    assert not Kalms().claims(checkpoint)
    with pytest.raises(UsageError, match="a KaLM-Reranker is loaded with --family kalm"):
        load(str(folder))
    named = type(checkpoint)("KaLM-Embedding/KaLM-Reranker-V1-Nano", folder, checkpoint.config, checkpoint.weights)
    assert Kalms().claims(named)
    with pytest.raises(InputError, match="model_type 't5' is no T5Gemma 2"):
        load(str(save_t5(tmp_path / "t5")), family="kalm")
