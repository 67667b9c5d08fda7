"""Weights and tokenizers as they are published: shards, half precision, vocabularies of all kinds, and what lacks."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sparring.rerank.errors import InputError, MissingPrerequisiteError, SparringError
from sparring.rerank.executors.open import open_scorer
from sparring.rerank.models.loading import load
from sparring.rerank.search.bi_encoder import BiEncoder
from tiny_generators import save_causal
from tiny_models import everything, save_bi_encoder, save_classifier, tiny_topics, wordpiece


def scores(folder: Path, **options: Any) -> np.ndarray:
    topics = tiny_topics(1, 6)
    scorer = open_scorer(load(str(folder), **options), device="cpu", dtype="float32", progress=False)
    return np.concatenate([said.ravel() for said in scorer(topics, everything(topics))])


def resaved(folder: Path, target: Path, auto: Any, dtype: torch.dtype = torch.float32, **options: Any) -> Path:
    """The same model saved otherwise, with the tokenizer beside it."""
    auto.from_pretrained(folder, dtype=dtype).save_pretrained(target, **options)
    for path in folder.glob("tokenizer*"):
        (target / path.name).write_bytes(path.read_bytes())
    return target


def test_shards_and_half_precision_score_alike_and_a_missing_shard_is_named(tmp_path: Path) -> None:
    from transformers import AutoModelForSequenceClassification as Auto

    whole = save_classifier(tmp_path / "whole", "bert")
    shards = resaved(whole, tmp_path / "shards", Auto, max_shard_size="20KB")
    names = sorted(path.name for path in shards.glob("model-*.safetensors"))
    assert len(names) > 2
    np.testing.assert_allclose(scores(shards), scores(whole), atol=1e-6)
    half = resaved(whole, tmp_path / "half", Auto, dtype=torch.bfloat16)
    assert json.loads((half / "config.json").read_text())["dtype"] == "bfloat16"
    np.testing.assert_allclose(scores(half), scores(whole), rtol=0.3, atol=0.3)
    (shards / names[1]).unlink()
    with pytest.raises(InputError, match=f"1 of {len(names)} weight files are missing \\({names[1]}"):
        load(str(shards))


def test_a_tied_head_is_read_from_the_embeddings(tmp_path: Path) -> None:
    from safetensors import safe_open
    from transformers import AutoModelForCausalLM as Auto

    untied = save_causal(tmp_path / "untied", "qwen2")
    model = Auto.from_pretrained(untied, dtype=torch.float32)
    model.lm_head.weight = torch.nn.Parameter(model.get_input_embeddings().weight.detach().clone())
    model.save_pretrained(untied)
    config = json.loads((untied / "config.json").read_text())
    model.config.tie_word_embeddings = True
    model.lm_head.weight = model.get_input_embeddings().weight
    tied = tmp_path / "tied"
    model.save_pretrained(tied)
    for path in untied.glob("tokenizer*"):
        (tied / path.name).write_bytes(path.read_bytes())
    (untied / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": False}))
    with safe_open(tied / "model.safetensors", "pt") as stream:
        assert "lm_head.weight" not in stream.keys()  # noqa: SIM118
    family = "causal(prompt='{query} {a}')"
    np.testing.assert_allclose(scores(tied, family=family), scores(untied, family=family), atol=1e-6)


@pytest.mark.parametrize("cls", ["BertTokenizer", "BertTokenizerFast", "TokenizersBackend", None])
def test_a_vocabulary_alone_is_enough_for_bert(tmp_path: Path, cls: str | None) -> None:
    folder = save_classifier(tmp_path / "bert", "bert")
    expected = scores(folder)
    words = sorted(wordpiece().get_vocab().items(), key=lambda entry: entry[1])
    (folder / "vocab.txt").write_text("".join(f"{word}\n" for word, _ in words))
    (folder / "tokenizer.json").unlink()
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    del settings["tokenizer_class"]
    (folder / "tokenizer_config.json").write_text(json.dumps(settings | ({"tokenizer_class": cls} if cls else {})))
    np.testing.assert_allclose(scores(folder), expected, atol=1e-6)


@pytest.mark.parametrize("kind, file", [("xlm-roberta", "sentencepiece.bpe.model"), ("deberta-v2", "spm.model")])
def test_a_sentencepiece_file_asks_for_its_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, file: str
) -> None:
    folder = save_classifier(tmp_path / kind, kind)
    (folder / "tokenizer.json").unlink()
    (folder / file).write_bytes(b"pieces")
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *a: None if name == "sentencepiece" else find(name, *a)
    )
    expected = f"{kind}: its tokenizer is a sentencepiece file \\({file}\\) .*: pip install sentencepiece$"
    with pytest.raises(MissingPrerequisiteError, match=expected):
        load(str(folder))


def test_without_a_vocabulary_no_tokenizer_is_made_up(tmp_path: Path) -> None:
    folder = save_classifier(tmp_path / "bert", "bert")
    (folder / "tokenizer.json").unlink()
    with pytest.raises(
        InputError, match=r"bert: holds no tokenizer \(tokenizer.json, vocab.txt or a sentencepiece"
    ):
        load(str(folder))
    encoder = save_bi_encoder(tmp_path / "bi")
    (encoder / "tokenizer.json").unlink()
    with pytest.raises(InputError, match="holds no tokenizer"):
        BiEncoder(str(encoder), device="cpu")
    with pytest.raises(InputError, match="holds no tokenizer"):
        load(str(encoder))


def test_a_slow_tokenizer_that_cannot_be_converted_is_refused_in_one_line(tmp_path: Path) -> None:
    folder = save_classifier(tmp_path / "japanese", "bert")
    (folder / "tokenizer.json").unlink()
    words = sorted(wordpiece().get_vocab().items(), key=lambda entry: entry[1])
    (folder / "vocab.txt").write_text("".join(f"{word}\n" for word, _ in words))
    settings = json.loads((folder / "tokenizer_config.json").read_text()) | {
        "tokenizer_class": "BertJapaneseTokenizer"
    }
    settings |= {"word_tokenizer_type": "basic", "subword_tokenizer_type": "character"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    with pytest.raises(SparringError, match="japanese: its tokenizer") as caught:
        load(str(folder))
    assert len(str(caught.value).splitlines()) == 1
