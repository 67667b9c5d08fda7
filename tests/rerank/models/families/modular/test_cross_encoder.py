"""CrossEncoders of modules score as sentence-transformers does, whatever body and modules: packed and padded."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sparring.rerank.models.loading import load
from sparring.rerank.vocabulary import Candidates
from tiny_models import tiny_topics
from tiny_modular import CHATS, HIDDEN, QWEN, ours, save_head, save_logit_score, save_modular, tail, theirs

BODIES = ("bert", "electra", "xlm-roberta", "modernbert", "qwen3", "deberta-v2")
PROMPTS = {"web": "search the web: ", "best": "Which of these passages answers best? "}
TOLERANCE = {"atol": 1e-5, "rtol": 1e-5}


def topics(words: int = 12) -> list[Candidates]:
    """Mixed lengths, an empty text, the shortest and the longest at the ends."""
    made = tiny_topics(2, 7, words=words)
    made[0].texts[3], made[0].texts[0], made[0].texts[-1] = "", "river", "the river, and the market " * 4  # type: ignore[index]
    return made


def pooled(*modes: str, **more: Any) -> Any:
    from sentence_transformers.sentence_transformer.modules import Pooling

    return Pooling(HIDDEN, modes if len(modes) > 1 else modes[0], **more)


def own(kind: str) -> str:
    """The mode by which a body of this kind reads a pair."""
    return "lasttoken" if kind == "qwen3" else "cls"


@pytest.mark.parametrize("kind", BODIES)
def test_a_head_of_dense_and_norm(tmp_path: Path, kind: str) -> None:
    folder = save_modular(tmp_path, kind, [pooled(own(kind)), *tail()])
    expected = theirs(folder, topics())
    assert np.std(expected) > 0.05
    for budget in (1, 300):
        np.testing.assert_allclose(ours(folder, topics(), budget), expected, **TOLERANCE)
    assert load(str(folder)).packed == (kind != "deberta-v2")  # type: ignore[union-attr]


@pytest.mark.parametrize("kind", BODIES)
def test_every_mode_of_pooling_joined_and_two_labels(tmp_path: Path, kind: str) -> None:
    modes = ("mean", "max", "lasttoken", "weightedmean", "cls", "mean_sqrt_len_tokens")
    folder = save_modular(tmp_path, kind, [pooled(*modes), *tail(len(modes) * HIDDEN, 2)])
    np.testing.assert_allclose(ours(folder, topics()), theirs(folder, topics()), **TOLERANCE)


@pytest.mark.parametrize("mode", ["mean", "max", "lasttoken", "weightedmean", "mean_sqrt_len_tokens"])
def test_a_mode_of_pooling_alone(tmp_path: Path, mode: str) -> None:
    folder = save_modular(tmp_path, "electra", [pooled(mode), *tail()])
    np.testing.assert_allclose(ours(folder, topics()), theirs(folder, topics()), **TOLERANCE)


@pytest.mark.parametrize("kind", ["bert", "qwen3"])
def test_pooling_that_leaves_the_prompt_out(tmp_path: Path, kind: str) -> None:
    modes = ("mean", "weightedmean", "cls", "max")
    modules = [pooled(*modes, include_prompt=False), *tail(len(modes) * HIDDEN)]
    folder = save_modular(tmp_path, kind, modules, prompts=PROMPTS, default="web")
    np.testing.assert_allclose(ours(folder, topics()), theirs(folder, topics()), **TOLERANCE)


def others() -> dict[str, Callable[[], list[Any]]]:
    from sentence_transformers.base.modules import Normalize
    from sentence_transformers.cross_encoder.modules import Dense
    from sentence_transformers.sentence_transformer.modules import Dropout, LayerNorm

    def score(**more: Any) -> Any:
        return Dense(HIDDEN, 1, activation_function=torch.nn.Identity(), module_output_name="scores", **more)

    wide = {"activation_function": torch.nn.Identity(), "module_output_name": "scores"}
    return {
        "one dense": lambda: [pooled("cls"), score(bias=False)],
        "activations": lambda: [
            pooled("mean"), Dense(HIDDEN, 20), Dense(20, HIDDEN, activation_function=torch.nn.SiLU()), score(),
        ],
        "normalize and dropout": lambda: [pooled("mean"), Dropout(0.5), Normalize(), score()],
        "residual": lambda: [pooled("cls"), Dense(HIDDEN, HIDDEN, use_residual=True), score()],
        "residual to another width": lambda: [
            pooled("cls"), Dense(HIDDEN, 12, use_residual=True), Dense(12, 1, **wide),
        ],
        "dense of tokens": lambda: [
            Dense(HIDDEN, HIDDEN, module_input_name="token_embeddings"), pooled("mean"), LayerNorm(HIDDEN), score(),
        ],
        "dense of the scores": lambda: [
            pooled("cls"), score(), Dense(1, 1, activation_function=torch.nn.Tanh(), module_input_name="scores"),
        ],
        "a vector of another name": lambda: [
            pooled("cls"), Dense(HIDDEN, 10, module_output_name="inner"), Dense(10, 1, module_input_name="inner", **wide),
        ],
    }  # fmt: skip


@pytest.mark.parametrize("name", others())
def test_modules_of_every_kind(tmp_path: Path, name: str) -> None:
    torch.manual_seed(3)
    folder = save_modular(tmp_path, "bert", others()[name]())
    expected = theirs(folder, topics())
    assert np.std(expected) > 0.01
    np.testing.assert_allclose(ours(folder, topics()), expected, **TOLERANCE)


@pytest.mark.parametrize("kind", BODIES[:-1])
def test_a_prompt_stands_before_the_query(tmp_path: Path, kind: str) -> None:
    folder = save_modular(tmp_path, kind, [pooled(own(kind)), *tail()], prompts=PROMPTS, default="web")
    found = {
        "default": (ours(folder, topics()), theirs(folder, topics())),
        "named": (ours(folder, topics(), prompt_name="best"), theirs(folder, topics(), prompt_name="best")),
        "off": (ours(folder, topics(), no_prompt=True), theirs(folder, topics(), prompt="")),
    }
    for name, (said, expected) in found.items():
        np.testing.assert_allclose(said, expected, **TOLERANCE, err_msg=name)
    assert all(np.abs(found["default"][0] - found[name][0]).max() > 1e-3 for name in ("named", "off"))


@pytest.mark.parametrize("kind", BODIES[:-1])
def test_a_chat_template_writes_the_input(tmp_path: Path, kind: str) -> None:
    modules = [pooled(own(kind)), *tail()]
    folder = save_modular(tmp_path, kind, modules, chat=CHATS[kind], prompts=PROMPTS)
    np.testing.assert_allclose(ours(folder, topics()), theirs(folder, topics()), **TOLERANCE)
    said = ours(folder, topics(), prompt_name="best")
    np.testing.assert_allclose(said, theirs(folder, topics(), prompt_name="best"), **TOLERANCE)


@pytest.mark.parametrize("labels", [1, 2])
@pytest.mark.parametrize("kind", ["bert", "electra", "xlm-roberta", "modernbert", "qwen3"])
def test_a_transformer_with_its_own_head(tmp_path: Path, kind: str, labels: int) -> None:
    chat = CHATS[kind] if labels == 2 else None
    folder = save_head(tmp_path, kind, labels, chat=chat, prompts=PROMPTS, default="web")
    np.testing.assert_allclose(ours(folder, topics()), theirs(folder, topics()), **TOLERANCE)


def test_logits_of_two_answers_and_of_one(tmp_path: Path) -> None:
    for name, answers in (("two", None), ("one", (17, None))):
        for chat in (None, QWEN):
            folder = save_logit_score(tmp_path / f"{name}{chat is None}", answers, chat=chat, prompts=PROMPTS)
            expected = theirs(folder, topics())
            assert np.std(expected) > 0.02
            np.testing.assert_allclose(ours(folder, topics()), expected, **TOLERANCE)
            said = ours(folder, topics(), prompt_name="best")
            np.testing.assert_allclose(said, theirs(folder, topics(), prompt_name="best"), **TOLERANCE)


@pytest.mark.parametrize("kind", ["bert", "qwen3"])
def test_a_length_of_the_folder_cuts_the_passage(tmp_path: Path, kind: str) -> None:
    folder = save_modular(tmp_path, kind, [pooled("mean", "lasttoken"), *tail(2 * HIDDEN)], length=40)
    assert load(str(folder)).truncation.max_length == 40  # type: ignore[union-attr]
    long = topics(words=120)
    np.testing.assert_allclose(ours(folder, long), theirs(folder, long), **TOLERANCE)
    asked = load(str(folder), max_length=64)
    assert asked.truncation.max_length == 64  # type: ignore[union-attr]


def test_the_end_of_a_chat_template_outlives_a_cut(tmp_path: Path) -> None:
    folder = save_logit_score(tmp_path, chat=QWEN, length=120)
    long = topics(words=200)
    np.testing.assert_allclose(ours(folder, long), theirs(folder, long), **TOLERANCE)
