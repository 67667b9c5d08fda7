"""`make demo` on a machine without a hub: it succeeds, reranking helps on the test questions, and the model is kept."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from places import ROOT
from sparring.eval.measures.evaluation import score_runs
from sparring.eval.measures.qrels import read_qrels
from sparring.rerank.data.runs import read_run


def demo(folder: Path) -> str:
    command = [sys.executable, "-m", "sparring.train.demo"]
    return subprocess.run(command, cwd=folder, check=True, stdout=subprocess.PIPE, text=True).stdout


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_the_demo_reranks_better_than_its_first_stage_and_keeps_its_model(tmp_path: Path) -> None:
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    shown = demo(tmp_path)
    typed = re.findall(r"^\$ sparring ([a-z]+)", shown, re.MULTILINE)
    assert typed == ["index", "search", "train", "rerank", "fuse", "evaluate"]
    folder = tmp_path / ".demo"
    runs = [read_run(folder / f"{name}.run") for name in ("first", "reranked", "fused")]
    qrels = read_qrels(folder / "pydocs" / "qrels_test.txt")
    first, reranked, fused = score_runs(qrels, runs, "nDCG@10")
    assert max(reranked, fused) > first
    assert min(score_runs(qrels, runs, "Judged@10")) >= 0.9
    for value in (first, reranked, fused):
        assert f"{value:.4f}" in shown
    assert re.search(r"pairs were reranked, [\d,]+ per second", shown)
    again = demo(tmp_path)
    assert re.findall(r"^\$ sparring ([a-z]+)", again, re.MULTILINE) == ["search", "rerank", "fuse", "evaluate"]
