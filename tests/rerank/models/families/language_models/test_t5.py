"""Encoder-decoder rerankers: equal to Hugging Face with the whole vocabulary's head, prompts equal to whole strings."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sparring.rerank.engine.batches import build_sequences, gather
from sparring.rerank.engine.engine import Engine
from sparring.rerank.engine.token_store import TokenStore
from sparring.rerank.errors import InputError, UsageError
from sparring.rerank.models.loading import load
from sparring.rerank.vocabulary import Candidates
from tiny_generators import save_t5, sentencepiece
from tiny_hub import in_hub
from tiny_models import everything, tiny_topics

VARIANTS = {"t5": ("t5", True), "t5 1.1": ("t5", False), "mt5": ("mt5", False), "umt5": ("umt5", True)}
PROMPTS = {
    "mono": "Query: {q} Document: {a} Relevant:",
    "duo": "Query: {q} Document0: {a} Document1: {b} Relevant:",
    "rank": "Query: {q} Document: {a}",
}
ODD = [
    "",
    " ",
    "  two  spaces ",
    " leading",
    "trailing ",
    "tab\there",
    "line\nend",
    "ﬁne ½",
    "</s> <pad> true",
    "Relevant:",
]


@pytest.fixture(scope="module", params=VARIANTS)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_t5(tmp_path_factory.mktemp("t5") / "tiny", *VARIANTS[request.param])


def hugging_face(folder: Path, prompts: list[str], words: tuple[str, ...]) -> np.ndarray:
    """The logits of ``words`` after one decoder step through the head of the whole vocabulary."""
    from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

    model = AutoModelForSeq2SeqLM.from_pretrained(folder, attn_implementation="eager").eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    encoded = tokenizer(prompts, padding=True, return_tensors="pt")
    start = torch.zeros((len(prompts), 1), dtype=torch.long)
    with torch.inference_mode():
        logits = model(
            input_ids=encoded["input_ids"], attention_mask=encoded["attention_mask"], decoder_input_ids=start
        ).logits
    return logits[:, 0, tokenizer.convert_tokens_to_ids(list(words))].double().numpy()


def scores_of(folder: Path, kind: str, topics: list[Candidates], groups: list[np.ndarray], **more: Any) -> Any:
    engine = Engine(
        load(str(folder), family="t5", kind=kind, **more), device="cpu", dtype="float32", progress=False
    )
    return np.concatenate([values.reshape(-1) for values in engine(topics, groups)]), engine


def test_monot5_is_the_difference_of_two_logits(folder: Path) -> None:
    topics = tiny_topics(3, 12)
    scores, _ = scores_of(folder, "mono", topics, everything(topics), max_length=200)
    prompts = [PROMPTS["mono"].format(q=topic.query, a=text) for topic in topics for text in topic.texts]
    logits = hugging_face(folder, prompts, ("\u2581true", "\u2581false"))
    np.testing.assert_allclose(scores, logits[:, 0] - logits[:, 1], atol=1e-5, rtol=1e-5)
    assert np.std(scores) > 0.01


def test_rankt5_is_the_logit_of_its_extra_token(folder: Path) -> None:
    topics = tiny_topics(2, 10)
    scores, _ = scores_of(folder, "rank", topics, everything(topics), max_length=200)
    prompts = [PROMPTS["rank"].format(q=topic.query, a=text) for topic in topics for text in topic.texts]
    np.testing.assert_allclose(
        scores, hugging_face(folder, prompts, ("<extra_id_10>",))[:, 0], atol=1e-5, rtol=1e-5
    )


def test_duot5_is_the_probability_that_the_first_is_better(folder: Path) -> None:
    topic = tiny_topics(1, 6)[0]
    pairs = np.array([(i, j) for i in range(6) for j in range(6) if i != j], np.int32)
    found, engine = scores_of(folder, "duo", [topic], [pairs], max_length=200)
    assert engine.width == 2
    prompts = [PROMPTS["duo"].format(q=topic.query, a=topic.texts[i], b=topic.texts[j]) for i, j in pairs]
    logits = hugging_face(folder, prompts, ("\u2581false", "\u2581true"))
    expected = np.exp(logits[:, 1]) / np.exp(logits).sum(axis=1)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    table = np.full((6, 6), 0.5)
    table[pairs[:, 0], pairs[:, 1]] = found
    debiased = (table + 1 - table.T) / 2
    np.testing.assert_allclose(debiased + debiased.T, 1, atol=1e-15)  # asked in both orders: antisymmetric
    assert abs(table + table.T - 1).max() > 1e-4  # asked in one, it is not


@pytest.mark.parametrize("kind", PROMPTS)
def test_pieces_join_to_the_whole_string(folder: Path, kind: str) -> None:
    model = load(str(folder), family="t5", kind=kind)
    store = TokenStore(model.tokenizer, 512)
    width = model.template.passages
    tokenizer = sentencepiece().backend_tokenizer
    tokenizer.encode_special_tokens = True
    for text in [*ODD, tiny_topics(1, 1)[0].texts[0]]:
        for query in ("river mountain", "What is this? ", *ODD[:5]):
            entries = store.entries([query, text])
            chosen = np.zeros(1, np.int64)
            rows = build_sequences(
                store, model.template, model.truncation, entries[:1], np.full((1, width), entries[1]), chosen
            )
            ids = gather(store, model.template, rows, chosen).input_ids.tolist()
            whole = PROMPTS[kind].format(q=query, a=text, b=text)
            assert ids == [*tokenizer.encode(whole, add_special_tokens=False).ids, 1], repr((query, text))


@pytest.mark.parametrize("kind", PROMPTS)
def test_the_cue_and_the_query_survive_long_passages(folder: Path, kind: str) -> None:
    model = load(str(folder), family="t5", kind=kind, max_length=48)
    store = TokenStore(model.tokenizer, 48)
    entries = store.entries(["river mountain coffee", "winter garden " * 200, "large"])
    passages = entries[1:][None, : model.template.passages]
    chosen = np.zeros(1, np.int64)
    rows = build_sequences(store, model.template, model.truncation, entries[:1], passages, chosen)
    ids = gather(store, model.template, rows, chosen).input_ids.tolist()
    assert len(ids) == 48 and ids[-1] == 1
    text = model.tokenizer.decode(ids[:-1])
    assert text.startswith("Query: river mountain coffee Document")
    assert (kind == "rank") or text.endswith("Relevant:")
    assert kind != "duo" or text.endswith("Document1: large Relevant:")


def test_a_table_of_names_decides_kind_and_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, width, words in (
        ("castorini/duot5-base-msmarco", 2, PROMPTS["duo"]),
        ("castorini/monot5-base-msmarco-10k", 1, PROMPTS["mono"]),
        ("Soyoung97/RankT5-base", 1, PROMPTS["rank"]),
        ("unicamp-dl/monoptt5-base", 1, "Pergunta: {q} Documento: {a} Relevante:"),
    ):
        folder = save_t5(tmp_path / name.replace("/", "-"))
        model = load(in_hub(name, folder, monkeypatch))
        whole = words.replace("{q}", "").replace("{a}", "").replace("{b}", "")
        constants = [i for slot in model.template.slots for i in getattr(slot, "ids", ())]
        assert model.width == width and constants == [*model.tokenizer(whole)["input_ids"]]
    prints = {
        load("Soyoung97/RankT5-base", family="t5", **options).fingerprint
        for options in ({}, {"kind": "mono"}, {"kind": "mono", "true": "\u2581yes"}, {"max_length": 99})
    }
    assert len(prints) == 4


def test_what_is_not_in_the_table_is_not_guessed(tmp_path: Path) -> None:
    folder = save_t5(tmp_path / "monot5-base-msmarco")  # a name of a folder, which decides nothing
    with pytest.raises(UsageError, match=r"of no known family: choose one with --family 't5\(kind=mono\)'"):
        load(str(folder))
    with pytest.raises(InputError, match=r"in the table of T5 rerankers; say what it is"):
        load(str(folder), family="t5")
    with pytest.raises(InputError, match="has no token '▁maybe'"):
        load(str(folder), family="t5(kind=mono)", true="\u2581maybe")
    with pytest.raises(UsageError, match="max_length must be at least 16"):
        load(str(folder), family="t5(kind=mono)", max_length=8)
    assert load(str(folder), family="t5(kind=mono)").width == 1
    with pytest.raises(UsageError, match="must hold {query}, {a} and, for duo, {b}, each once"):
        load(str(folder), family="t5(kind=mono)", prompt="{query} {document}")
    with pytest.raises(InputError, match="the prompt of kind duo needs {b}"):
        load(str(folder), family="t5(kind=duo)", prompt="{query} {a}")


def test_scores_do_not_depend_on_the_batch_and_bfloat16_is_near(folder: Path) -> None:
    topics = tiny_topics(2, 10)
    model = load(str(folder), family="t5", kind="mono")
    runs = {
        (dtype, budget): np.concatenate(
            Engine(model, device="cpu", dtype=dtype, token_budget=budget, progress=False)(
                topics, everything(topics)
            )
        )[:, 0]
        for dtype, budget in (("float32", 1), ("float32", 4000), ("bfloat16", 300))
    }
    alone, together, half = runs.values()
    np.testing.assert_allclose(alone, together, atol=1e-5)
    assert np.corrcoef(alone, half)[0, 1] > 0.98
    assert math.isfinite(half.sum())


def test_attention_is_sdpa_with_the_position_bias_and_equals_eager(folder: Path) -> None:
    topics = tiny_topics(2, 12)
    model = load(str(folder), family="t5", kind="mono")
    parts = (model.encoder, model.decoder)  # type: ignore[attr-defined]
    scores = []
    for kind in ("sdpa", "eager"):
        if kind == "eager":
            for part in parts:
                part.set_attn_implementation(kind)
        assert {part.config._attn_implementation for part in parts} == {kind}
        engine = Engine(model, device="cpu", dtype="float32", progress=False)
        scores.append(np.concatenate(engine(topics, everything(topics)))[:, 0])
    assert engine.stats.padding > 0  # rows of several lengths
    np.testing.assert_allclose(*scores, atol=1e-5, rtol=1e-5)
