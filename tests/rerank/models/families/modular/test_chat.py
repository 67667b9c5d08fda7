"""Chat templates as slots: whatever form they have they give the library's tokens, or they are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sparring.rerank.errors import InputError
from sparring.rerank.models.loading import load
from tiny_models import tiny_topics
from tiny_modular import HIDDEN, QWEN, ours, save_logit_score, save_modular, set_json, tail, theirs

LOOP = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content | trim }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
PARTS = "{% for m in messages %}{{ m.role }}: {{ m.content[0].text }} {% endfor %}"
BACKWARDS = "{% for m in messages | reverse %}{{ m.role }}: {{ m.content }} {% endfor %}"


def compare(folder: Path) -> None:
    """Both sides agree on texts of every kind of edge."""
    topics = tiny_topics(2, 8, words=6)
    texts: Any = topics[0].texts
    texts[:6] = ["", " space before", "space after ", "\nline\n", "(bracket)", "2 rivers!"]
    np.testing.assert_allclose(ours(folder, topics), theirs(folder, topics), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("chat", [LOOP, CHATML, PARTS, BACKWARDS])
@pytest.mark.parametrize("kind", ["bert", "qwen3"])
def test_templates_of_many_forms(tmp_path: Path, kind: str, chat: str) -> None:
    from sentence_transformers.sentence_transformer.modules import Pooling

    modules = [Pooling(HIDDEN, "mean"), *tail()]
    compare(save_modular(tmp_path, kind, modules, chat=chat, prompts={"q": "Judge {query}, {a}."}, default="q"))


def test_variables_of_a_template(tmp_path: Path) -> None:
    variables = {"chat_template": {"add_generation_prompt": True}}
    compare(save_logit_score(tmp_path, chat=CHATML, processing_kwargs=variables))


def test_the_template_of_the_folder_decides_whatever_its_name(tmp_path: Path) -> None:
    plain = save_logit_score(tmp_path / "made", chat=CHATML, prompts={"q": "Judge."}, default="q")
    known = plain.rename(tmp_path / "Qwen3-Reranker-0.6B")
    compare(known)
    assert "Judge" in str(load(str(known)).tokenizer.decode(load(str(known)).template.slots[0].ids))  # type: ignore


def test_another_template_gives_another_order(tmp_path: Path) -> None:
    topics = tiny_topics(1, 8)
    folder = save_logit_score(tmp_path, chat=QWEN)
    before = ours(folder, topics)
    (folder / "chat_template.jinja").write_text(CHATML)
    assert (np.argsort(before) != np.argsort(ours(folder, topics))).any()
    compare(folder)


@pytest.mark.parametrize(
    ("chat", "words"),
    [
        ("{{ messages[0].content }}", "drops the document of a pair"),
        ("{% for m in messages if m.role == 'user' %}{{ m.content }}{% endfor %}", "drops the query of a pair"),
        (LOOP + "{{ messages[0].content }}", "repeats the query of a pair"),
        ("{% for m in messages %}{{ m.content | upper }} {% endfor %}", "drops the query"),
        ("{% for m in messages %}{{ m.content[:20] }} {% endfor %}", "does more with texts than to write them"),
        ("{{ messages[0].content }}{{ messages[1].content }}", "cannot be tokenised in pieces"),
        ("{{ raise_exception('no such role') }}", "does not take a pair: no such role"),
        ("", "its tokenizer has none"),
    ],
)
def test_templates_that_cannot_be_followed_are_refused(tmp_path: Path, chat: str, words: str) -> None:
    folder = save_modular(tmp_path, "bert", chat=LOOP)
    (folder / "chat_template.jinja").write_text(chat)
    if not chat:
        (folder / "chat_template.jinja").unlink()
        set_json(folder / "tokenizer_config.json", chat_template=None)
    with pytest.raises(InputError, match=words):
        load(str(folder))
