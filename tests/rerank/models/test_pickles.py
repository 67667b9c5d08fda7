"""Faults of pickled weights, through `sparring rerank`: nothing in them ever runs."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny_models import save_bi_encoder
from worlds import World


class Mischief:
    """Makes a folder when it is unpickled; nobody may ever do that."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.folder),)


def pickled(world: World, **more: object) -> Path:
    """Has the world's model in ``pytorch_model.bin``, with some weights that share their memory, instead."""
    folder = world.folder / "pickled"
    shutil.copytree(world.model, folder)
    weights: dict[str, object] = dict(load_file(folder / "model.safetensors"))
    (folder / "model.safetensors").unlink()
    weights["bert.embeddings.again.weight"] = weights["bert.embeddings.word_embeddings.weight"]
    torch.save(weights | more, folder / "pytorch_model.bin")
    (folder / "training_args.bin").write_bytes(b"no weights, and never read")
    world.model = folder
    return folder


def test_fault_32_pickled_weights_are_refused_unless_the_flag_allows_their_tensors(world: World) -> None:
    safe = world.model
    folder = pickled(world)
    before = sorted(path.name for path in folder.iterdir())
    assert world.refuses("pytorch_model.bin: pickled weights can run code and are refused")
    assert world.refuses("add --allow-pickle where you trust the file")
    found = world.reranked("--allow-pickle", "--tag", "t")
    assert "--allow-pickle reads pytorch_model.bin; only tensors are taken" in world.errors
    assert sorted(path.name for path in folder.iterdir()) == before
    scores = (world.folder / "out.run").read_text()
    world.model = safe
    assert world.reranked("--allow-pickle", "--tag", "t") == found  # no pickle, no warning
    assert (world.folder / "out.run").read_text() == scores and "--allow-pickle" not in world.errors


def test_fault_32_pickles_that_hold_more_than_tensors_are_never_read(world: World, tmp_path: Path) -> None:
    made = tmp_path / "made by a pickle"
    pickled(world, more=Mischief(made))
    message = "pytorch_model.bin: holds more than tensors, or is not a file of torch, and is not read even with"
    assert world.refuses(message, "--allow-pickle") and not made.exists()
    pickled_file = world.model / "pytorch_model.bin"
    torch.save({"step": 3}, pickled_file)
    assert world.refuses("expected names and their tensors", "--allow-pickle")
    pickled_file.write_bytes(b"version https://git-lfs.github.com/spec/v1")
    assert world.refuses("is a git-lfs pointer", "--allow-pickle")


def test_fault_32_the_flag_needs_a_torch_whose_reader_is_safe(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    pickled(world)
    monkeypatch.setattr(torch, "__version__", "2.9.1")
    assert world.rerank("--allow-pickle") == 3
    assert "--allow-pickle needs torch >= 2.10, found 2.9.1" in world.errors
    assert not (world.folder / "out.run").exists()


def test_fault_32_shards_and_modules_in_pickles(world: World, tmp_path: Path) -> None:
    safe = world.model
    folder = pickled(world)
    weights = torch.load(folder / "pytorch_model.bin", weights_only=True)
    (folder / "pytorch_model.bin").unlink()
    names = sorted(weights)
    index = {name: f"pytorch_model-{1 + place % 2:05}-of-00002.bin" for place, name in enumerate(names)}
    for file in set(index.values()):
        torch.save({name: weights[name] for name in names if index[name] == file}, folder / file)
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))
    assert world.refuses("pytorch_model-00001-of-00002.bin: pickled weights can run code")
    found = world.reranked("--allow-pickle")
    world.model = safe
    assert world.reranked() == found

    encoder = save_bi_encoder(tmp_path / "bi", dense=True)
    head = next(encoder.glob("2_*/model.safetensors"))
    flags = ["--dataset", str(world.folder), "--model", str(encoder), "--output", str(tmp_path / "first.run")]
    assert world.call("search", *flags) == 0, world.errors
    first = (tmp_path / "first.run").read_text()
    torch.save(load_file(head), head.with_name("pytorch_model.bin"))
    head.unlink()
    assert world.call("search", *flags, "--overwrite") == 5
    assert "pytorch_model.bin: pickled weights can run code and are refused" in world.errors
    assert world.call("search", *flags, "--overwrite", "--allow-pickle") == 0, world.errors
    assert (tmp_path / "first.run").read_text() == first
