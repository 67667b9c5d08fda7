"""Heads of one, two and more labels: which column is the score, and when the user must say it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import tiny_models
import torch
from safetensors.torch import load_file, save_file
from sparring.rerank.engine.engine import Engine
from sparring.rerank.errors import InputError
from sparring.rerank.models.loading import load
from tiny_models import everything, tiny_topics
from tiny_remote import save_gte

NLI = {"0": "entailment", "1": "neutral", "2": "contradiction"}


def named(folder: Path, names: dict[str, str]) -> Path:
    config = json.loads((folder / "config.json").read_text())
    config |= {"id2label": names, "label2id": {name: int(key) for key, name in names.items()}}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def log_odds(folder: Path, column: int) -> np.ndarray:
    """By transformers: the log-odds of a label's softmax."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    found = []
    for topic in tiny_topics(1):
        encoded = tokenizer([topic.query] * len(topic), list(topic.texts), padding=True, return_tensors="pt")
        with torch.inference_mode():
            share = model(**encoded).logits.double().softmax(1)[:, column]
        found.append((share.log() - (1 - share).log()).numpy())
    return np.concatenate(found)


def scores(folder: Path, **options: object) -> np.ndarray:
    topics = tiny_topics(1)
    engine = Engine(load(str(folder), **options), device="cpu", dtype="float32", progress=False)  # type: ignore[arg-type]
    return np.concatenate(engine(topics, everything(topics)))[:, 0]


@pytest.mark.parametrize("label", ["entailment", "Neutral", 2])
def test_of_three_labels_one_is_chosen_by_name_or_number(tmp_path: Path, label: str | int) -> None:
    folder = named(tiny_models.save_classifier(tmp_path / "m", "bert", labels=3), NLI)
    column = {"entailment": 0, "Neutral": 1, 2: 2}[label]
    np.testing.assert_allclose(scores(folder, label=label), log_odds(folder, column), atol=1e-5)


def test_three_labels_without_a_choice_and_labels_that_do_not_exist_are_refused(tmp_path: Path) -> None:
    folder = named(tiny_models.save_classifier(tmp_path / "m", "bert", labels=3), NLI)
    with pytest.raises(
        InputError, match=r"3 labels \(entailment, neutral, contradiction\); .*option label=\.\.\.$"
    ):
        load(str(folder))
    for wrong in ("relevant", 3, -1):
        with pytest.raises(InputError, match=f"no label {wrong!r}; it has entailment"):
            load(str(folder), label=wrong)
    np.testing.assert_allclose(
        scores(folder, family="sequence_classification(label=1)"), log_odds(folder, 1), atol=1e-5
    )


def test_of_two_labels_the_second_is_the_score_unless_the_names_say_otherwise(tmp_path: Path) -> None:
    folder = tiny_models.save_classifier(tmp_path / "m", "bert", labels=2)
    plain = scores(folder)
    np.testing.assert_allclose(plain, log_odds(folder, 1), atol=1e-5)
    named(folder, {"0": "irrelevant", "1": "relevant"})
    np.testing.assert_array_equal(scores(folder), plain)
    named(folder, {"0": "relevant", "1": "irrelevant"})
    with pytest.raises(InputError, match="the second is not the one that means relevant"):
        load(str(folder))
    np.testing.assert_allclose(scores(folder, label="relevant"), -plain, atol=1e-6)


def test_a_label_is_part_of_the_fingerprint_only_where_it_changes_scores(tmp_path: Path) -> None:
    folder = tiny_models.save_classifier(tmp_path / "m", "bert", labels=2)
    plain, last, first = (load(str(folder), **options) for options in ({}, {"label": 1}, {"label": 0}))
    assert plain.fingerprint == last.fingerprint != first.fingerprint


def test_families_with_networks_of_their_own_choose_alike(tmp_path: Path) -> None:
    folder = save_gte(tmp_path / "gte")
    np.testing.assert_array_equal(scores(folder), scores(folder, label="LABEL_0"))
    with pytest.raises(InputError, match="no label 'relevant'; it has LABEL_0"):
        load(str(folder), label="relevant")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_checkpoints_in_half_precision_are_computed_in_fp32(tmp_path: Path, dtype: torch.dtype) -> None:
    from transformers import AutoModelForSequenceClassification

    folder = tiny_models.save_classifier(tmp_path / "m", "bert")
    AutoModelForSequenceClassification.from_pretrained(folder).to(dtype).save_pretrained(folder)
    assert f'"{str(dtype).removeprefix("torch.")}"' in (folder / "config.json").read_text()
    model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32)
    model.save_pretrained(tmp_path / "whole")
    tiny_models.wordpiece().save_pretrained(tmp_path / "whole")
    np.testing.assert_array_equal(scores(folder), scores(tmp_path / "whole"))


def test_a_head_under_another_name_is_refused_by_name(tmp_path: Path) -> None:
    folder = tiny_models.save_classifier(tmp_path / "m", "bert")
    state = load_file(folder / "model.safetensors")
    renamed = {name.replace("classifier.", "score."): value for name, value in state.items()}
    save_file(renamed, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(
        InputError, match="lacks classifier.bias, classifier.weight: these weights would be random"
    ):
        load(str(folder))
