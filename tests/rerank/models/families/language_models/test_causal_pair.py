"""Chat models asked for A or B."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from sparring.rerank.engine.engine import Engine
from sparring.rerank.errors import InputError, UsageError
from sparring.rerank.models.families.language_models.causal_pair import PROMPT
from sparring.rerank.models.loading import load
from tiny_generators import save_causal
from tiny_models import save_classifier, tiny_topics
from tiny_pairs import PAIRS, logit

CHAT = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.mark.parametrize("chat", [True, False])
def test_a_chat_model_is_asked_a_or_b(tmp_path: Path, chat: bool) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = save_causal(tmp_path / "chat", "llama")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    if chat:
        tokenizer.chat_template = CHAT
        tokenizer.save_pretrained(folder)
    topic = tiny_topics(1, 5)[0]
    model = load(str(folder), family="causal_pair", max_length=1000)
    engine = Engine(model, device="cpu", dtype="float32", token_budget=2000, progress=False)
    found = engine([topic], [PAIRS])[0]
    module = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager").eval()
    answers = ["A", "B"] if chat else [" A", " B"]
    ids = [tokenizer(answer, add_special_tokens=False)["input_ids"][0] for answer in answers]
    expected = []
    for i, j in PAIRS:
        prompt = PROMPT.format(query=topic.query, a=topic.texts[i], b=topic.texts[j])
        turn = f"<|im_start|>user\n{prompt}<|im_end|>\n<|im_start|>assistant\n"
        whole = turn if chat else prompt + "\n\nAnswer:"
        with torch.inference_mode():
            logits = module(**tokenizer(whole, add_special_tokens=False, return_tensors="pt")).logits[0, -1, ids]
        expected.append(float(logits[0] - logits[1]))
    np.testing.assert_allclose(logit(found), expected, atol=1e-5, rtol=1e-5)
    assert engine.stats.computed < 0.8 * engine.stats.tokens  # question and query are read once


def test_prompts_and_answers_of_ones_own(tmp_path: Path) -> None:
    folder = save_causal(tmp_path / "chat")
    spec = "causal_pair(prompt='{a} or {b} for {query}?', first=yes, second=no, chat=False)"
    assert load(str(folder), family=spec).width == 2
    with pytest.raises(UsageError, match="must hold {query}, {a}, {b}, each once"):
        load(str(folder), family="causal_pair(prompt='{a} or {a} for {query}?')")
    with pytest.raises(UsageError, match="' undecided' is not a single token"):
        load(str(folder), family="causal_pair", first="undecided")
    with pytest.raises(InputError, match="has no answers to choose from"):
        load(str(save_causal(tmp_path / "cls", labels=1)), family="causal_pair")
    with pytest.raises(InputError, match="expected a decoder with one or two"):
        load(str(save_classifier(tmp_path / "bert", "bert") / "."), family="causal_pair")
