"""Adapters: merged into their base as peft merges them, wherever a model is loaded, or refused in one line."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from sparring.rerank.cli import main
from sparring.rerank.errors import InputError, MissingPrerequisiteError, MissingResourceError, UsageError
from sparring.rerank.executors.open import open_scorer
from sparring.rerank.models.adapters import opened
from sparring.rerank.models.checkpoints import find
from sparring.rerank.models.loading import load, source
from sparring.rerank.search.bi_encoder import BiEncoder
from tiny_adapters import save_adapter, save_merged
from tiny_generators import save_causal
from tiny_models import everything, save_bi_encoder, save_classifier, tiny_topics

pytest.importorskip("peft")
BERT = ["query", "value", "intermediate.dense"]


def scores(model: Any, device: str = "cpu", **options: Any) -> np.ndarray:
    topics = tiny_topics(2, 6)
    scorer = open_scorer(model, device=device, dtype="float32", progress=False, **options)
    try:
        return np.concatenate([said.ravel() for said in scorer(topics, everything(topics))])
    finally:
        scorer.close()


def weights(name: Path, **options: Any) -> dict[str, torch.Tensor]:
    with opened(str(name), **options) as checkpoint:
        return {key: value for path in checkpoint.weights for key, value in load_file(path).items()}


@pytest.mark.parametrize(
    "options",
    [
        {"target_modules": BERT, "modules_to_save": ["classifier"], "bias": "all"},
        {"target_modules": BERT, "use_rslora": True, "bias": "lora_only"},
        {
            "target_modules": [*BERT, "word_embeddings"],
            "rank_pattern": {"layer.0.attention.self.query": 2, "value": 3},
            "alpha_pattern": {"layer.1.attention.self.query": 5, "value": 1},
        },
        {"target_modules": ["query"], "use_dora": True},
    ],
    ids=["biases and a head", "rslora", "patterns and embeddings", "dora"],
)
def test_an_adapter_of_a_classifier_scores_as_the_merged_model(tmp_path: Path, options: dict[str, Any]) -> None:
    base = save_classifier(tmp_path / "base", "bert")
    merged = save_adapter(tmp_path / "adapter", base, **options)
    ours, theirs = weights(tmp_path / "adapter"), merged.state_dict()
    assert set(ours) == set(theirs)
    for name, value in theirs.items():
        torch.testing.assert_close(ours[name].float(), value, atol=1e-6, rtol=1e-6)
    whole = load(str(save_merged(tmp_path / "whole", merged, base)))
    adapted = load(str(tmp_path / "adapter"))
    np.testing.assert_allclose(scores(adapted), scores(whole), atol=1e-5, rtol=1e-5)
    assert np.abs(scores(adapted) - scores(load(str(base)))).max() > 0.01
    assert adapted.name == str(tmp_path / "adapter")


def test_transposed_weights_of_gpt_2(tmp_path: Path) -> None:
    base = save_causal(tmp_path / "base", "gpt2")
    with pytest.warns(UserWarning, match="fan_in_fan_out"):
        merged = save_adapter(tmp_path / "adapter", base, "CAUSAL_LM", target_modules=["c_attn"])
    ours, theirs = weights(tmp_path / "adapter"), merged.state_dict()
    for name, value in ours.items():
        torch.testing.assert_close(value, theirs[name], atol=1e-6, rtol=1e-6)


def test_a_head_on_a_decoder_as_rankllama_has_it(tmp_path: Path) -> None:
    base = save_causal(tmp_path / "base", "llama")
    merged = save_adapter(tmp_path / "adapter", base, target_modules=["q_proj", "v_proj"])
    with opened(str(tmp_path / "adapter")) as checkpoint:
        assert (
            checkpoint.architecture == "LlamaForSequenceClassification" and len(checkpoint.config["id2label"]) == 1
        )
    family = "causal(prompt='query: {query} document: {a}')"
    adapted = load(str(tmp_path / "adapter"), family=family)
    whole = load(str(save_merged(tmp_path / "whole", merged, base)), family=family)
    np.testing.assert_allclose(scores(adapted), scores(whole), atol=1e-5, rtol=1e-5)


def test_a_base_that_was_saved_without_a_head(tmp_path: Path) -> None:
    from transformers import AutoModel

    classifier = save_classifier(tmp_path / "classifier", "electra")
    base = save_merged(tmp_path / "base", AutoModel.from_pretrained(classifier), classifier)
    merged = save_adapter(tmp_path / "adapter", base, target_modules=["query"])
    whole = load(str(save_merged(tmp_path / "whole", merged, base)))
    np.testing.assert_allclose(scores(load(str(tmp_path / "adapter"))), scores(whole), atol=1e-5, rtol=1e-5)


def test_an_adapter_of_a_bi_encoder(tmp_path: Path) -> None:
    base = save_bi_encoder(tmp_path / "base", dense=True)
    merged = save_adapter(tmp_path / "adapter", base, "FEATURE_EXTRACTION", target_modules=["query", "value"])
    whole = tmp_path / "whole"
    shutil.copytree(base, whole)
    save_file({k: v.contiguous() for k, v in merged.state_dict().items()}, whole / "model.safetensors")
    texts = ["a river in the mountain", "coffee"]
    ours, theirs, plain = (
        BiEncoder(str(folder), device="cpu").documents(texts) for folder in (tmp_path / "adapter", whole, base)
    )
    np.testing.assert_allclose(ours, theirs, atol=1e-6)
    assert np.abs(ours - plain).max() > 1e-3
    np.testing.assert_allclose(scores(load(str(tmp_path / "adapter"))), scores(load(str(whole))), atol=1e-6)


def test_an_adapter_that_sentence_transformers_saved(tmp_path: Path) -> None:
    from peft import LoraConfig
    from sentence_transformers import SentenceTransformer

    base = save_bi_encoder(tmp_path / "base")
    model = SentenceTransformer(str(base), device="cpu")
    torch.manual_seed(2)
    model.add_adapter(
        LoraConfig(target_modules=["query"], init_lora_weights=False, task_type="FEATURE_EXTRACTION")
    )
    model.save_pretrained(str(tmp_path / "adapter"), create_model_card=False)
    theirs = model.encode(["a river in the mountain"], normalize_embeddings=True)
    ours = BiEncoder(str(tmp_path / "adapter"), device="cpu").documents(["a river in the mountain"])
    np.testing.assert_allclose(ours, theirs, atol=1e-5)
    assert not np.allclose(
        BiEncoder(str(base), device="cpu").documents(["a river in the mountain"]), ours, atol=1e-5
    )


def test_beside_the_weights_of_its_base_and_under_another_base(tmp_path: Path) -> None:
    base = save_classifier(tmp_path / "base", "bert")
    merged = save_adapter(tmp_path / "adapter", base, target_modules=BERT)
    expected = scores(load(str(save_merged(tmp_path / "whole", merged, base))))
    both = tmp_path / "both"
    shutil.copytree(base, both)
    shutil.copytree(tmp_path / "adapter", both, dirs_exist_ok=True)
    np.testing.assert_allclose(scores(load(str(both))), expected, atol=1e-5, rtol=1e-5)
    base.rename(tmp_path / "moved")
    np.testing.assert_allclose(scores(load(str(both))), expected, atol=1e-5, rtol=1e-5)
    with pytest.raises(MissingResourceError, match=r"adapter: adapter of .*base: .*no such folder; --base MODEL"):
        load(str(tmp_path / "adapter"))
    moved = load(str(tmp_path / "adapter"), base=str(tmp_path / "moved"))
    np.testing.assert_allclose(scores(moved), expected, atol=1e-5, rtol=1e-5)
    again = source(moved).load()
    assert again.fingerprint == moved.fingerprint
    other = save_classifier(tmp_path / "other", "bert", seed=9)
    assert load(str(tmp_path / "adapter"), base=str(other)).fingerprint != moved.fingerprint
    np.testing.assert_allclose(scores(moved, "cpu,cpu"), expected, atol=1e-5, rtol=1e-5)


def test_what_cannot_be_merged_is_said_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = save_classifier(tmp_path / "base", "bert")
    adapter = tmp_path / "adapter"
    save_adapter(adapter, base, target_modules=["query"])
    with pytest.raises(InputError, match=r"adapter is an adapter of .*base: merge the two first"):
        find(str(adapter))
    with pytest.raises(UsageError, match=r"--base x is for adapters, and .* holds no adapter_config.json"):
        load(str(base), base="x")
    with pytest.raises(InputError, match="the base has no"):
        load(str(adapter), base=str(save_classifier(tmp_path / "electra", "modernbert")))
    config = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps(config | {"base_model_name_or_path": None}))
    with pytest.raises(MissingResourceError, match="names no base: give --base MODEL"):
        load(str(adapter))
    (adapter / "adapter_config.json").write_text(json.dumps(config | {"use_dora": True}))
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(
        MissingPrerequisiteError, match=r"adapter of .*base: peft merges it \(use_dora\): pip install peft"
    ):
        load(str(adapter))
    state = load_file(adapter / "adapter_model.safetensors")
    (adapter / "adapter_model.safetensors").unlink()
    with pytest.raises(MissingResourceError, match="an adapter without its weights"):
        load(str(adapter))
    torch.save(state, adapter / "adapter_model.bin")
    (adapter / "adapter_config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match="adapter_model.bin: pickled weights can run code"):
        load(str(adapter))
    assert load(str(adapter), allow_pickle=True).width == 1


def test_commands_take_the_base(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base = save_classifier(tmp_path / "base", "bert")
    save_adapter(tmp_path / "adapter", base, target_modules=["query"])
    base.rename(tmp_path / "moved")
    flags = ["serve", "--model", str(tmp_path / "adapter"), "--device", "cpu", "--dry-run"]
    assert main(flags) == 4
    assert "adapter of" in capsys.readouterr().err
    assert main([*flags, "--base", str(tmp_path / "moved")]) == 0
