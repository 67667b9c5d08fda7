"""`sparring train --adapter`: an adapter alone is saved, goes on where it stopped, and scores as it was trained."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from sparring.rerank.cli import main
from sparring.rerank.data.runs import read_run
from sparring.rerank.models.adapters import WEIGHTS, opened
from sparring.rerank.models.loading import load
from sparring.train.rankers.adapters import adapters
from sparring.train.rankers.kinds import Start, kinds
from tiny_models import batch_of, everything, save_bi_encoder, tiny_topics
from tiny_training import arguments, save_start, write_collection

pytest.importorskip("peft")
KINDS = {
    "pointwise": "bert",
    "duo": "electra",
    "set_encoder(interaction=int)": "bert",
    "late_pair(rank=2)": "bert",
    "list_head(layers=1, width=8)": "electra",
    "t5": "t5",
}


@pytest.fixture(scope="module")
def collection(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_collection(tmp_path_factory.mktemp("collection"))


def shaken(ranker: Any) -> Any:
    """The ranker with all that is trained in it moved, as training does."""
    torch.manual_seed(4)
    with torch.no_grad():
        for parameter in ranker.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.2)
    return ranker.eval()


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_what_is_saved_is_small_goes_on_and_merges_to_what_was_trained(tmp_path: Path, kind: str) -> None:
    base = save_start(tmp_path / "base", KINDS[kind])
    start = Start(str(base), max_length=48, adapter=adapters.parse("lora(rank=2)"))
    ranker = shaken(kinds.parse(kind).start(start))
    folder = tmp_path / "adapter"
    ranker.save(folder)
    assert not list(folder.glob("model*.safetensors"))
    with safe_open(folder / WEIGHTS, "pt") as stream:
        held = sum(stream.get_tensor(key).numel() for key in stream.keys())  # noqa: SIM118
    assert held < 0.7 * sum(parameter.numel() for parameter in ranker.parameters())
    again = kinds.parse(kind).start(start).eval()
    again.load(folder)
    for name, value in again.state_dict().items():
        assert torch.equal(value, ranker.state_dict()[name]), name
    model = load(str(folder))
    assert model.name == str(folder)
    with opened(str(folder)) as checkpoint, torch.inference_mode():
        assert checkpoint.base == str(base)
    if kind == "pointwise":
        model.place(torch.device("cpu"), torch.float32)
        topics = tiny_topics(2, 5)
        with torch.inference_mode():
            merged = model.forward(batch_of(model, topics, everything(topics)))
            trained = ranker.read(batch_of(ranker.model, topics, everything(topics)))
        torch.testing.assert_close(merged, trained, atol=1e-5, rtol=1e-5)


def test_peft_reads_what_is_saved(tmp_path: Path) -> None:
    from peft import PeftModel
    from safetensors.torch import load_file
    from transformers import AutoModelForSequenceClassification

    base = save_start(tmp_path / "base", "bert")
    ranker = shaken(
        kinds.parse("pointwise").start(Start(str(base), adapter=adapters.parse("lora(rank=2, alpha=3)")))
    )
    ranker.save(tmp_path / "adapter")
    plain = AutoModelForSequenceClassification.from_pretrained(base, dtype=torch.float32)
    merged = PeftModel.from_pretrained(plain, str(tmp_path / "adapter")).merge_and_unload().state_dict()
    with opened(str(tmp_path / "adapter")) as checkpoint:
        ours = {key: value for path in checkpoint.weights for key, value in load_file(path).items()}
    assert set(merged) == set(ours)
    for name, value in ours.items():
        torch.testing.assert_close(value, merged[name], atol=1e-6, rtol=1e-6)


def test_the_command_trains_resumes_and_its_model_reranks(collection: Path, tmp_path: Path) -> None:
    start = save_bi_encoder(tmp_path / "start")  # modules that a reranker does not take over, and no head
    flags = ("--adapter", "lora(rank=2, targets='query,value')", "--max-length=32")
    assert main(arguments(collection, start, tmp_path / "a", *flags)) == 0
    config = json.loads((tmp_path / "a" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(start.resolve()) and config["r"] == 2
    assert all(name.endswith(("query", "value")) for name in config["target_modules"])
    assert "CrossEncoder(" not in (tmp_path / "a" / "README.md").read_text()
    run = collection / "first.run"
    asked = ["rerank", "--run", run, "--dataset", collection, "--model", tmp_path / "a", "--depth", 6]
    assert main([str(part) for part in (*asked, "--dtype", "float32", "--output", tmp_path / "out.run")]) == 0
    assert any((np.diff(read_run(tmp_path / "out.run")[q][1]) < 0).all() for q in read_run(run).topics())

    other = tmp_path / "b"
    assert main(arguments(collection, start, other, *flags)) == 0
    for path in other.iterdir():
        if path.name not in ("checkpoints", "config.yaml", "training_log.csv"):
            path.unlink()
    shutil.rmtree(other / "checkpoints" / "checkpoint-6")
    assert main(arguments(collection, start, other, *flags, "--resume")) == 0
    last = Path("checkpoints") / "checkpoint-6" / WEIGHTS
    with safe_open(tmp_path / "a" / last, "pt") as one, safe_open(other / last, "pt") as two:
        for key in one.keys():  # noqa: SIM118
            torch.testing.assert_close(one.get_tensor(key), two.get_tensor(key), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize(
    "flags, message",
    [
        (("--adapter=lora(rank=0)",), "rank must be at least 1"),
        (("--adapter=lora(targets='nothing')",), "no layer's name ends so; this body has"),
        (("--family=bi-encoder", "--adapter=lora()"), "--adapter is for rerankers, not for bi-encoder"),
        (("--family=pair_rm", "--adapter=lora()"), "is not for pair_rm, which is saved whole"),
        (("--adapter=lorra",), "did you mean 'lora'?"),
    ],
)
def test_what_does_not_fit_is_refused(
    collection: Path, tmp_path: Path, flags: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments(collection, save_start(tmp_path / "start", "bert"), tmp_path / "out", *flags)) == 2
    assert message in capsys.readouterr().err
