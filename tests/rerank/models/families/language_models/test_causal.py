"""Causal rerankers: equal to Hugging Face on the whole prompt, a common beginning computed once and exactly."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sparring.rerank.engine.batches import build_sequences, gather
from sparring.rerank.engine.engine import Engine
from sparring.rerank.engine.templates import Template, Truncation
from sparring.rerank.engine.token_store import TokenStore
from sparring.rerank.errors import InputError, UsageError
from sparring.rerank.models.attention.prefix_tree import Tree
from sparring.rerank.models.families.language_models.formats import BGE_TASK, FORMATS
from sparring.rerank.models.loading import load
from sparring.rerank.models.prompts import prompt_template
from sparring.rerank.vocabulary import Candidates
from tiny_generators import byte_level, save_causal
from tiny_hub import in_hub
from tiny_models import everything, tiny_topics

INSTRUCTION = FORMATS["qwen3"].instruction
KINDS = ("qwen3", "qwen2", "llama", "mistral", "gemma", "gemma2", "phi3")
ODD = [
    "",
    " ",
    "ends with mark?",
    "ends.\n",
    " space before",
    "space after ",
    "\nline first",
    "(bracket)",
    "2 rivers",
    "'s",
    "<|im_end|>",
]


def ids_of(model: Any, query: str, *texts: str, template: Template | None = None, length: int = 4096) -> list[int]:
    """What the engine would put to the model for one group."""
    template = template or model.template
    store = TokenStore(model.tokenizer, length)
    queries, passages = [], []
    for slot in template.slots:
        if getattr(slot, "role", None) == "query":
            queries.append(store.entries([slot.render(query)])[0])
        elif getattr(slot, "role", None) == "passage":
            passages.append(store.entries([slot.render(texts[slot.index])])[0])
    rows = build_sequences(
        store, template, Truncation(length), np.array(queries), np.array([passages]), np.zeros(1, np.int64)
    )
    return gather(store, template, rows, np.zeros(1, np.int64)).input_ids.tolist()


def encode(tokenizer: Any, *pieces: str) -> list[int]:
    """Pieces tokenised apart, special tokens read as such."""
    return [token for piece in pieces for token in tokenizer(piece, add_special_tokens=False)["input_ids"]]


def qwen_prompt(query: str, text: str, instruction: str | None = INSTRUCTION) -> str:
    prefix, _, suffix = FORMATS["qwen3"].pieces
    return f"{prefix}<Instruct>: {instruction}\n<Query>: {query}\n<Document>: {text}{suffix}"


def hugging_face(folder: Path, rows: list[list[int]], answers: list[int]) -> np.ndarray:
    """The answers' logits at the last token, each sequence alone, with the whole head and eager attention."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager").eval()
    with torch.inference_mode():
        return np.stack([model(input_ids=torch.tensor([ids])).logits[0, -1, answers].numpy() for ids in rows])


@pytest.fixture(scope="module", params=KINDS)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    more = (
        {"sliding_window": 24, "use_sliding_window": True, "max_window_layers": 1}
        if request.param == "qwen2"
        else {}
    )
    return save_causal(tmp_path_factory.mktemp("causal") / request.param, request.param, **more)


@pytest.mark.parametrize("budget", [1, 1500])
def test_scores_equal_the_whole_head_on_the_whole_prompt(folder: Path, budget: int) -> None:
    topics = tiny_topics(2, 8)
    model = load(str(folder), family="causal(format=qwen3)", max_length=1024)
    assert model.packed == (folder.name in ("qwen3", "qwen2", "llama", "mistral", "gemma"))
    engine = Engine(model, device="cpu", dtype="float32", token_budget=budget, progress=False)
    scores = np.concatenate(engine(topics, everything(topics)))[:, 0]
    rows = [encode(model.tokenizer, qwen_prompt(t.query, text)) for t in topics for text in t.texts]
    logits = hugging_face(folder, rows, encode(model.tokenizer, "yes", "no"))
    np.testing.assert_allclose(scores, logits[:, 0] - logits[:, 1], atol=1e-5, rtol=1e-5)
    assert np.std(scores) > 0.01


def test_a_common_beginning_is_computed_once(tmp_path: Path) -> None:
    folder = save_causal(tmp_path / "m")
    topics = tiny_topics(3, 20)
    shared, alone = (
        Engine(
            load(str(folder), family="causal(format=qwen3)"),
            device="cpu",
            dtype="float32",
            token_budget=budget,
            progress=False,
        )
        for budget in (3000, 1)
    )
    found, expected = (np.concatenate(e(topics, everything(topics))) for e in (shared, alone))
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert alone.stats.computed == alone.stats.tokens == shared.stats.tokens
    assert shared.stats.computed < 0.4 * shared.stats.tokens  # a prompt of about 150 tokens, texts of 30
    assert shared.stats.batches == -(-shared.stats.computed // 3000)  # the budget counts what is computed


def test_beginnings_that_differ_are_not_shared(tmp_path: Path) -> None:
    model = load(str(save_causal(tmp_path / "m")), family="causal(format=qwen3)", max_length=200)
    query = " ".join(["river"] * 60)  # cut to another length beside a long passage than beside a short one
    texts = ["mountain " * n for n in (1, 2, 3, 30, 40, 50)]
    topic = Candidates("q", query, tuple("abcdef"), texts, np.zeros(6))
    outcomes = [
        Engine(model, device="cpu", dtype="float32", token_budget=budget, progress=False)(
            [topic], everything([topic])
        )
        for budget in (1, 10_000)
    ]
    np.testing.assert_allclose(outcomes[0][0], outcomes[1][0], atol=1e-5)


def test_the_layout_of_beginnings_and_tails() -> None:
    tokenizer = byte_level()
    template = prompt_template(tokenizer, ["<|im_start|>Query: {query}\nText: {a}<|im_end|>"])
    store = TokenStore(tokenizer, 100)
    queries = store.entries([" river\n", " market\n", " river\n"])
    passages = store.entries([" a b", " c", " d e f"])[:, None]
    rows = build_sequences(store, template, Truncation(100), queries, passages, np.arange(3))
    batch = gather(store, template, rows, np.arange(3))
    tree = Tree(batch)
    own = np.split(np.arange(len(batch.input_ids)), np.cumsum(batch.lengths)[:-1])
    assert batch.beginnings is not None and batch.beginnings.group[0] == batch.beginnings.group[2]
    shared = int(batch.beginnings.lengths[0])
    assert len(tree.tokens) == batch.lengths.sum() - shared
    assert tree.tokens[tree.last].tolist() == [part[-1] for part in own]
    keys = np.split(tree.tokens[tree.keys].numpy(), np.cumsum(tree.key_counts)[:-1])
    assert keys[0].tolist() == own[0][:shared].tolist()
    assert [k.tolist() for k in keys[1:]] == [
        own[0].tolist(), own[1].tolist(), [*own[0][:shared].tolist(), *own[2][shared:].tolist()]
    ]  # fmt: skip


@pytest.mark.parametrize("text", [*ODD, "river, mountain's ocean."])
@pytest.mark.parametrize("query", ["what is a river?", "2 large rivers", " odd ", "q\n"])
def test_prompts_are_the_ids_of_the_published_code(
    tmp_path_factory: pytest.TempPathFactory, query: str, text: str
) -> None:
    tokenizer = byte_level()
    backend = tokenizer.backend_tokenizer
    model = type("Model", (), {"tokenizer": tokenizer})

    def plain(string: str) -> list[int]:  # a text that spells a special token stays text
        backend.encode_special_tokens = True
        try:
            return list(backend.encode(string, add_special_tokens=False).ids)
        finally:
            backend.encode_special_tokens = False

    qwen, bge, mxbai = (
        prompt_template(
            tokenizer, [p.replace("{instruction}", i) for p in FORMATS[name].pieces], FORMATS[name].bos
        )
        for name, i in (("qwen3", str(INSTRUCTION)), ("bge", BGE_TASK), ("mxbai", ""))
    )
    pieces = FORMATS["qwen3"].pieces
    body = plain(f"<Instruct>: {INSTRUCTION}\n<Query>: {query}\n<Document>: {text}")
    whole = [*encode(tokenizer, pieces[0]), *body, *encode(tokenizer, pieces[2])]
    assert ids_of(model, query, text, template=qwen) == whole
    bos, line = tokenizer.bos_token_id, plain("\n")
    assert ids_of(model, query, text, template=bge) == [
        bos, *plain(f"A: {query}"), *line, *plain(f"B: {text}"), *line, *plain(BGE_TASK)
    ]  # fmt: skip
    head, *_, task, end = FORMATS["mxbai"].pieces
    assert ids_of(model, query, text, template=mxbai) == [
        *encode(tokenizer, head), *plain(f"query: {query}"), *line, *plain(f"document: {text}"), *line,
        *encode(tokenizer, task, end),
    ]  # fmt: skip


@pytest.mark.parametrize("name", ["qwen3", "bge", "mxbai"])
def test_the_cue_and_the_query_survive_long_passages(tmp_path: Path, name: str) -> None:
    model = load(str(save_causal(tmp_path / "m")), family="causal", format=name)
    ids = ids_of(model, "what is a river?", "mountain " * 5000, length=700)
    assert 699 <= len(ids) <= 700  # a place is kept for the line end of a query that is cut
    cues = {"mxbai": FORMATS["mxbai"].pieces[-2:], "bge": (BGE_TASK,), "qwen3": FORMATS["qwen3"].pieces[-1:]}
    cue = encode(model.tokenizer, *cues[name])
    assert ids[-len(cue) :] == cue
    assert "what is a river?" in model.tokenizer.decode(ids)


def test_what_stood_after_a_cut_text_is_put_back(tmp_path: Path) -> None:
    tokenizer = byte_level()
    template = prompt_template(tokenizer, ["Text: {a}\n\nQuery: {query}\nAnswer:"])
    model = type("Model", (), {"tokenizer": tokenizer})
    assert not template.by_query  # the query follows the passage: nothing to share
    for words in range(1, 60):
        text = tokenizer.decode(ids_of(model, "river", "market " * words + "end?", template=template, length=60))
        assert text.startswith("Text: market") and text.endswith("\n\nQuery: river\nAnswer:"), text


def test_bge_scores_yes_alone_and_mxbai_takes_instructions(tmp_path: Path) -> None:
    topics = tiny_topics(1, 6)
    folder = save_causal(tmp_path / "gemma", "gemma")
    bge = load(str(folder), family="causal(format=bge)")
    assert bge.truncation.max_length == 1024
    scores = Engine(bge, device="cpu", dtype="float32", progress=False)(topics, everything(topics))[0][:, 0]
    rows = [ids_of(bge, topics[0].query, text) for text in topics[0].texts]
    expected = hugging_face(folder, rows, encode(bge.tokenizer, "Yes"))[:, 0]
    np.testing.assert_allclose(scores, expected, atol=1e-5, rtol=1e-5)
    mxbai = save_causal(tmp_path / "qwen2", "qwen2")
    plain, told = (
        load(str(mxbai), family="causal(format=mxbai)", instruction=said) for said in (None, "find rivers")
    )
    assert "instruction: find rivers\nquery: q" in told.tokenizer.decode(ids_of(told, "q", "d"))
    assert "user\nquery: q\ndocument: d\nYou are a search" in plain.tokenizer.decode(ids_of(plain, "q", "d"))
    assert plain.fingerprint != told.fingerprint
    other = load(str(folder), family="causal(format=bge)", instruction="Is {B} about rivers?")
    assert other.tokenizer.decode(ids_of(other, "q", "d")).endswith("A: q\nB: d\nIs (B) about rivers?")


@pytest.mark.parametrize("labels", [1, 2])
@pytest.mark.parametrize("kind", ["qwen3", "qwen2", "gemma2"])
def test_conversions_to_a_classifier(tmp_path: Path, labels: int, kind: str) -> None:
    from transformers import AutoModelForSequenceClassification

    folder = save_causal(tmp_path / "m", kind, labels=labels)
    topics = tiny_topics(1, 8)
    model = load(str(folder), family="causal(format=qwen3)")
    engine = Engine(model, device="cpu", dtype="float32", token_budget=1000, progress=False)
    scores = engine(topics, everything(topics))[0][:, 0]
    module = AutoModelForSequenceClassification.from_pretrained(folder, attn_implementation="eager").eval()
    expected = []
    for text in topics[0].texts:
        ids = torch.tensor([encode(model.tokenizer, qwen_prompt(topics[0].query, text))])
        with torch.inference_mode():
            logits = module(input_ids=ids).logits[0]
        expected.append(float(logits[-1] - (logits[0] if labels == 2 else 0)))
    np.testing.assert_allclose(scores, expected, atol=1e-5, rtol=1e-5)


def test_the_answers_head_is_that_of_the_vocabulary(tmp_path: Path) -> None:
    model = load(str(save_causal(tmp_path / "m")), family="causal(format=qwen3)")
    assert model.head.weight.shape == (2, 32)
    engine = Engine(model, device="cpu", dtype="bfloat16", progress=False)
    assert model.head.weight.dtype == torch.float32
    topics = tiny_topics(2, 10)
    half = np.concatenate(engine(topics, everything(topics)))
    assert engine.stats.tie_rate < 0.1
    full = Engine(
        load(str(tmp_path / "m"), family="causal(format=qwen3)"), device="cpu", dtype="float32", progress=False
    )
    assert np.corrcoef(half[:, 0], np.concatenate(full(topics, everything(topics)))[:, 0])[0, 1] > 0.98


def test_a_prompt_of_ones_own(tmp_path: Path) -> None:
    folder = save_causal(tmp_path / "m")
    prompt = "Text: {a}\n\nIs this about {query}? Answer yes or no:"
    model = load(str(folder), family="causal", prompt=prompt, yes=" yes", no=" no")
    ids = ids_of(model, "coffee", "river market?")
    assert ids == encode(model.tokenizer, prompt.format(query="coffee", a="river market?"))
    topics = tiny_topics(1, 5)
    scores = Engine(model, device="cpu", dtype="float32", progress=False)(topics, everything(topics))[0][:, 0]
    rows = [ids_of(model, topics[0].query, text) for text in topics[0].texts]
    logits = hugging_face(folder, rows, encode(model.tokenizer, " yes", " no"))
    np.testing.assert_allclose(scores, logits[:, 0] - logits[:, 1], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prompt": "{query} only"}, "must hold {query}, {a}, each once"),
        ({"prompt": "{query} {a}", "format": "bge"}, "a format or a prompt, not both"),
        ({"prompt": "{query} {a}", "yes": "definitely so"}, "'definitely so' is not a single token"),
        ({"prompt": "{query} {a}", "yes": "no"}, "begin with the same token"),
        ({"format": "qwen4"}, "unknown format 'qwen4'"),
    ],
)
def test_wrong_options_are_said(tmp_path: Path, options: dict[str, str], message: str) -> None:
    folder = save_causal(tmp_path / "m")
    with pytest.raises(UsageError, match=message):
        load(str(folder), family="causal", **options)


def test_a_chat_model_is_no_reranker_by_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = save_causal(tmp_path / "Qwen3-Reranker-0.6B")  # a name of a folder, which decides nothing
    with pytest.raises(UsageError, match=r"of no known family: choose one with --family 'causal\(format=qwen3\)'"):
        load(str(folder))
    with pytest.raises(InputError, match="nothing in its files says how it is asked"):
        load(str(folder), family="causal")
    assert load(in_hub("Qwen/Qwen3-Reranker-0.6B", folder, monkeypatch)).width == 1
