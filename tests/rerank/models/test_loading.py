"""From a name to a model: damaged checkpoints, families that are never guessed, fingerprints."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import tiny_models
from sparring.rerank.engine.engine import Engine
from sparring.rerank.errors import InputError, MissingResourceError, UsageError
from sparring.rerank.models.checkpoints import Checkpoint
from sparring.rerank.models.loading import load
from sparring.rerank.registry import families


def test_fingerprints_tell_weights_and_lengths_apart(tmp_path: Path) -> None:
    first = tiny_models.save_classifier(tmp_path / "a", "bert", seed=0)
    second = tiny_models.save_classifier(tmp_path / "b", "bert", seed=1)
    prints = {
        load(str(first)).fingerprint,
        load(str(second)).fingerprint,
        load(str(first), max_length=50).fingerprint,
    }
    assert len(prints) == 3 and load(str(first)).fingerprint in prints
    model = load(str(first))
    engines = {Engine(model, device="cpu", dtype=d, progress=False).fingerprint for d in ("float32", "bfloat16")}
    assert len(engines) == 2


def test_damaged_checkpoints_are_named_before_loading(tmp_path: Path) -> None:
    folder = tiny_models.save_classifier(tmp_path / "m", "bert")
    weights = folder / "model.safetensors"
    whole = weights.read_bytes()
    for content, message in (
        (whole[:-100], r"model\.safetensors is truncated, damaged or .*not fully covered"),
        (whole[:6], "truncated"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git-lfs pointer.*git lfs pull"),
        (b"\x10" + bytes(7) + b"not json at all!" + bytes(50), "no safetensors file .*JSON"),
        (whole + b"more", "not fully covered"),
        (whole.replace(b'"data_offsets":[0,', b'"data_offsets":[1,'), "damaged"),
        (b"", "truncated"),
    ):
        weights.write_bytes(content)
        with pytest.raises(InputError, match=message):
            load(str(folder))
    weights.rename(folder / "pytorch_model.bin")
    with pytest.raises(InputError, match=r"pytorch_model\.bin: pickled weights.*save_pretrained"):
        load(str(folder))
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "x-1.safetensors"}}))
    with pytest.raises(InputError, match="1 of 1 weight files are missing"):
        load(str(folder))


def test_models_that_cannot_be_found(tmp_path: Path) -> None:
    with pytest.raises(MissingResourceError, match="no such folder"):
        load(str(tmp_path / "absent"))
    with pytest.raises(MissingResourceError, match=r"no config\.json"):
        load(str(tmp_path))
    with pytest.raises(MissingResourceError, match="not in the local cache"):
        load("nobody/never-cached-reranker")


def test_the_family_is_never_guessed(tmp_path: Path) -> None:
    folder = tiny_models.save_classifier(tmp_path / "m", "bert")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"architectures": ["BertForMaskedLM"]}))
    with pytest.raises(UsageError, match="is of no known family: choose one with --family"):
        load(str(folder))
    assert load(str(folder), family="sequence_classification").width == 1
    with pytest.raises(UsageError, match="did you mean 'sequence_classification'"):
        load(str(folder), family="sequence_clasification")
    with pytest.raises(UsageError, match="unknown option of sequence_classification 'colour'"):
        load(str(folder), family="sequence_classification", colour=3)


def test_a_cached_model_of_the_hub_needs_no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)  # the suite refuses every connection
    commit = "0123456789abcdef0123456789abcdef01234567"
    home = tmp_path / "models--some--reranker"
    (home / "refs").mkdir(parents=True)
    (home / "refs" / "main").write_text(commit)
    tiny_models.save_classifier(home / "snapshots" / commit, "bert")
    model = load("some/reranker")
    assert model.name == "some/reranker"
    assert model.fingerprint == load("some/reranker", revision=commit).fingerprint
    (home / "snapshots" / commit / "model.safetensors").rename(home / "snapshots" / commit / "pytorch_model.bin")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(InputError, match=r"pytorch_model\.bin: pickled weights"):
        load("some/reranker")


@pytest.mark.parametrize(("name", "family"), list(families))
def test_every_family_can_be_asked_about_any_checkpoint(name: str, family: Any, tmp_path: Path) -> None:
    strange = Checkpoint("strange", tmp_path, {"model_type": "resnet", "architectures": ["ResNetModel"]}, ())
    assert family.__doc__ and not family().claims(strange)
    assert not family().claims(Checkpoint("empty", tmp_path, {}, ()))
    assert str(families.parse(name)) == name
