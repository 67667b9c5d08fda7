"""How causal rerankers are asked and read: equal to transformers on the strings that their owners publish."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sparring.rerank.engine.engine import Engine
from sparring.rerank.errors import InputError, UsageError
from sparring.rerank.models.families.language_models.formats import FORMATS
from sparring.rerank.models.loading import load
from sparring.rerank.registry import families
from sparring.rerank.vocabulary import Candidates
from tiny_generators import byte_level, save_causal
from tiny_hub import in_hub
from tiny_models import everything, tiny_topics

CHAT = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
ODD = ["", "  spaces around \n", "river?\n", "(bracket)", "2 rivers", "river " * 80]


def with_chat(folder: Path, template: str = CHAT) -> Path:
    (folder / "chat_template.jinja").write_text(template)
    return folder


def odd_topics() -> list[Candidates]:
    """Mixed lengths, the empty text first and last."""
    topics = tiny_topics(2, 6)
    odd = [*ODD, ""]
    more = Candidates("odd", "what is a river?", tuple(f"o{i}" for i in range(len(odd))), odd, np.zeros(len(odd)))
    return [*topics, more]


def scores_of(model: Any, topics: list[Candidates], budget: int = 1500) -> np.ndarray:
    engine = Engine(model, device="cpu", dtype="float32", token_budget=budget, progress=False)
    return np.concatenate(engine(topics, everything(topics)))[:, 0]


def last_logits(folder: Path, prompts: list[list[int]], classifier: bool = False) -> np.ndarray:
    """Logits at the last token of transformers' own class, every sequence alone, eager attention."""
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

    auto = AutoModelForSequenceClassification if classifier else AutoModelForCausalLM
    model = auto.from_pretrained(folder, attn_implementation="eager").eval()
    rows = []
    for ids in prompts:
        with torch.inference_mode():
            logits = model(input_ids=torch.tensor([ids])).logits[0]
        rows.append((logits if classifier else logits[-1]).numpy())
    return np.stack(rows)


@pytest.mark.parametrize("kind", ["qwen3", "llama", "gemma2"])
def test_zerank_reads_yes_behind_its_own_chat_template(tmp_path: Path, kind: str) -> None:
    folder = with_chat(save_causal(tmp_path / "m", kind))
    model = load(str(folder), family="causal(format=zerank)", max_length=512)
    tokenizer, topics = model.tokenizer, odd_topics()
    prompts = [
        tokenizer(
            tokenizer.apply_chat_template(
                [{"role": "system", "content": t.query.strip()}, {"role": "user", "content": text.strip()}],
                tokenize=False,
                add_generation_prompt=True,
            )
        )["input_ids"]
        for t in topics
        for text in t.texts
    ]
    yes = tokenizer("Yes", add_special_tokens=False)["input_ids"]
    expected = last_logits(folder, prompts)[:, yes[0]]
    for budget in (1, 1500):
        np.testing.assert_allclose(scores_of(model, topics, budget), expected, atol=1e-5, rtol=1e-5)
    assert len(yes) == 1 and np.std(expected) > 0.01
    plain = load(
        str(folder), family="causal", prompt=CHAT_AS_PROMPT, yes="Yes", no="no"
    )  # the same string, but not stripped
    assert plain.fingerprint != model.fingerprint


CHAT_AS_PROMPT = "<|im_start|>system\n{query}<|im_end|>\n<|im_start|>user\n{a}<|im_end|>\n<|im_start|>assistant\n"


@pytest.mark.parametrize("instruction", [None, "Prefer {new} sources."])
@pytest.mark.parametrize("kind", ["qwen3", "mistral"])
def test_ctxl_reads_token_0_behind_query_and_instruction(
    tmp_path: Path, kind: str, instruction: str | None
) -> None:
    folder = save_causal(tmp_path / "m", kind)
    model = load(str(folder), family="causal(format=ctxl)", instruction=instruction, max_length=512)
    topics = odd_topics()
    said = " Prefer (new) sources." if instruction else ""
    prompts = [
        model.tokenizer(
            "Check whether a given document contains information helpful to answer the query.\n"
            f"<Document> {text}\n<Query> {t.query}{said} ??"
        )["input_ids"]
        for t in topics
        for text in t.texts
    ]
    expected = last_logits(folder, prompts)[:, 0]
    np.testing.assert_allclose(scores_of(model, topics), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", ["llama", "qwen2"])
def test_rankllama_reads_its_label_at_the_last_token(tmp_path: Path, kind: str) -> None:
    folder = save_causal(tmp_path / "m", kind, labels=1)
    model = load(str(folder), family="causal(format=rankllama)", max_length=512)
    topics = odd_topics()
    bos, text = model.tokenizer.bos_token_id, model.tokenizer

    def ids(string: str) -> list[int]:
        return list(text(string, add_special_tokens=False)["input_ids"])

    prompts = [
        [bos, *ids(f"query: {t.query}"), bos, *ids(f"document: {passage}")] for t in topics for passage in t.texts
    ]
    expected = last_logits(folder, prompts, classifier=True)[:, 0]
    np.testing.assert_allclose(scores_of(model, topics), expected, atol=1e-5, rtol=1e-5)
    with pytest.raises(InputError, match="rankllama is for sequence classifiers, this is LlamaForCausalLM"):
        load(str(save_causal(tmp_path / "lm", "llama")), family="causal(format=rankllama)")


def test_conversions_of_one_label_are_asked_alike(tmp_path: Path) -> None:
    folder = with_chat(save_causal(tmp_path / "m", "qwen3", labels=1))
    topics = tiny_topics(1, 5)
    for name in ("zerank", "ctxl"):
        model = load(str(folder), family=f"causal(format={name})")
        assert np.std(scores_of(model, topics)) > 0.01 and model.head.weight.shape == (1, 32)


def test_names_decide_on_the_hub_and_files_in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = with_chat(save_causal(tmp_path / "zerank-2", "qwen3"))
    with pytest.raises(UsageError, match="of no known family"):
        load(str(folder))
    named = load(in_hub("zeroentropy/zerank-2", folder, monkeypatch))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(
        json.dumps(config | {"auto_map": {"AutoConfig": "modeling_zeranker.ZEConfig"}})
    )
    assert repr(load(str(folder)).template) == repr(named.template)
    for name in ("qwen3", "mxbai"):
        other = with_chat(save_causal(tmp_path / name, "qwen3"), CHAT + f"{{# {FORMATS[name].mark} #}}")
        assert load(str(other)).truncation.max_length == 1024
        module = {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.base.modules.Transformer"}
        (other / "modules.json").write_text(json.dumps([module]))
        (other / "config_sentence_transformers.json").write_text('{"model_type": "CrossEncoder"}')
        assert not families.parse("causal").claims(_checkpoint(other))


def _checkpoint(folder: Path) -> Any:
    from sparring.rerank.models.checkpoints import find

    return find(str(folder))


def test_chat_templates_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    folder = save_causal(tmp_path / "m")
    with pytest.raises(InputError, match="its tokenizer has no chat template"):
        load(str(folder), family="causal(format=zerank)")
    with_chat(folder, "{{ messages[0].content }}")
    with pytest.raises(InputError, match="does not take a query and a document: the prompt must hold"):
        load(str(folder), family="causal(format=zerank)")
    with_chat(folder, "{{ raise_exception('no system turn') }}")
    with pytest.raises(InputError, match="does not take a query and a document: no system turn"):
        load(str(folder), family="causal(format=zerank)")


def test_tokens_that_do_not_join_are_refused(tmp_path: Path) -> None:
    from tiny_generators import sentencepiece

    folder = save_causal(tmp_path / "m", "mistral")
    tokenizer = sentencepiece()  # puts a space before every piece, and ends every text
    tokenizer.save_pretrained(folder)
    with pytest.raises(InputError, match="does not split the prompt where query and document begin"):
        load(str(folder), family="causal(format=ctxl)")


@pytest.mark.parametrize(
    ("config", "hint"),
    [
        (
            {"model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"]},
            r"'causal\(format=mxbai\)' for a reranker",
        ),
        (
            {"model_type": "llama", "architectures": ["LlamaForSequenceClassification"]},
            r"'causal\(format=rankllama\)' for a classifier",
        ),
        ({"model_type": "t5", "architectures": ["FiDT5"]}, r"or listt5 \(ListT5\)"),
    ],
)
def test_what_nothing_decides_is_refused_with_the_flag_to_write(
    tmp_path: Path, config: dict[str, Any], hint: str
) -> None:
    folder = save_causal(tmp_path / "ListT5-base", "qwen3")
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(UsageError, match=rf"of no known family: .*{hint}") as caught:
        load(str(folder))
    assert "\n" not in str(caught.value)


def without_pad(folder: Path) -> Path:
    """Takes the padding token out of tokenizer and config."""
    tokenizer = byte_level()
    saved = json.loads((folder / "tokenizer_config.json").read_text())
    saved.pop("pad_token", None)
    (folder / "tokenizer_config.json").write_text(json.dumps(saved))
    config = json.loads((folder / "config.json").read_text()) | {"pad_token_id": None}
    (folder / "config.json").write_text(json.dumps(config))
    assert tokenizer.pad_token_id is not None
    return folder


@pytest.mark.parametrize("kind", ["qwen3", "gemma2"])  # packed and padded
@pytest.mark.parametrize("name", [*FORMATS, "causal_pair"])
def test_tokenizers_without_a_pad_token_score_the_same(tmp_path: Path, kind: str, name: str) -> None:
    labels = 1 if name == "rankllama" else None
    folder = with_chat(save_causal(tmp_path / "m", kind, labels=labels))
    family = "causal_pair(chat=False)" if name == "causal_pair" else f"causal(format={name})"
    topics = tiny_topics(1, 6)
    groups = [np.array([[0, 1], [2, 3], [4, 5]], np.int32)] if name == "causal_pair" else everything(topics)

    def score() -> tuple[Any, np.ndarray]:
        model = load(str(folder), family=family)
        engine = Engine(model, device="cpu", dtype="float32", progress=False)
        return model, np.concatenate(engine(topics, groups))

    _, expected = score()
    without_pad(folder)
    model, found = score()
    assert model.tokenizer.pad_token_id is None and model.module.config.pad_token_id is None
    np.testing.assert_allclose(found, expected, atol=1e-5)
