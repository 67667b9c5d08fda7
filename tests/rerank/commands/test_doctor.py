"""`sparring doctor`: packages, and what it says of models that are claimed, that are not, and that are damaged."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from sparring.rerank.cli import main
from sparring.rerank.commands.doctor import APART, PACKAGES
from tiny_families import save_pair_rm
from tiny_generators import save_causal, save_t5
from tiny_models import save_bi_encoder, save_classifier, wordpiece


def test_every_package_that_we_ask_for_is_looked_up() -> None:
    project = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text())["project"]

    def names(requirements: list[str]) -> set[str]:
        return {re.split(r"[<>=!~ ]", requirement)[0].lower() for requirement in requirements}

    asked = {"base": names(project["dependencies"])}
    asked |= {extra: names(wanted) for extra, wanted in project["optional-dependencies"].items()}
    looked = {group: {name.lower() for name in found} for group, found in PACKAGES.items()}
    assert {group: looked.get(group) for group in asked} == asked
    assert set(looked) - set(asked) <= APART


def test_it_names_what_is_missing(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    from importlib import metadata

    version = metadata.version

    def without(name: str) -> str:
        if name in ("peft", "jinja2", "bm25s"):
            raise metadata.PackageNotFoundError(name)
        return version(name)

    monkeypatch.setattr(metadata, "version", without)
    assert main(["doctor"]) == 0
    shown = capsys.readouterr().out
    assert re.search(r"peft +missing: pip install 'sparring\[train\]'", shown)
    assert re.search(r"jinja2 +missing: pip install 'sparring\[report\]'", shown)
    assert re.search(r"bm25s +missing: pip install bm25s", shown)


def doctor(capsys: pytest.CaptureFixture[str], folder: Path, *flags: str) -> str:
    assert main(["doctor", "--model", str(folder), "--device", "cpu", "--dtype", "float32", *flags]) == 0
    return " ".join(capsys.readouterr().out.split())


def test_a_model_that_is_claimed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = save_classifier(tmp_path / "bert", "bert")
    (folder / "README.md").write_text("---\nlicense: mit\n---\n")
    shown = doctor(capsys, folder)
    for part in (
        "licence mit",
        "BertForSequenceClassification, model_type bert",
        "family sequence_classification, which claims: Checkpoints whose config names one of the architectures",
        "width pointwise",
        "template [CLS]{query}[SEP]{passage}[SEP]",
        "batches packed",
        "score the logit of the one label",
        "length 96 tokens",
        "precision float32",
        "for one that answers the query",
    ):
        assert part in shown, part
    shown = doctor(capsys, save_pair_rm(tmp_path / "pairs"))
    assert "{passage1}" in shown and "{passage2}" in shown and "padded" in shown and "shown first" in shown
    shown = doctor(capsys, save_classifier(tmp_path / "lists", "electra"), "--family", "set_encoder")
    assert "family set_encoder, as --family says" in shown and "listwise" in shown


def test_a_model_that_nobody_claims(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from transformers import BertConfig, BertModel

    body = tmp_path / "body"
    BertModel(
        BertConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, vocab_size=300)
    ).save_pretrained(body)
    wordpiece().save_pretrained(body)
    shown = doctor(capsys, body)
    assert "family none" in shown and "sparring train --model-name-or-path" in shown
    assert "list_llm for lists" in doctor(capsys, save_causal(tmp_path / "chat"))
    assert "'t5(kind=mono)'" in doctor(capsys, save_t5(tmp_path / "t5"))
    router = save_bi_encoder(tmp_path / "bi")
    settings = router / "config_sentence_transformers.json"
    settings.write_text('{"model_type": "SparseEncoder"}')
    assert "SparseEncoder" in (shown := doctor(capsys, router)) and "it is no reranker" in shown
    weights = body / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    assert "cannot be loaded" in doctor(capsys, body)
    assert "no such folder" in doctor(capsys, tmp_path / "nothing")
