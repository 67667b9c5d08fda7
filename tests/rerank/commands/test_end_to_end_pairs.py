"""TREC DL 2019, BM25 top 50, a real comparator: pairs are asked for, paid for, stored and ranked."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import yaml
from sparring.eval.measures.evaluation import score_runs
from sparring.eval.measures.qrels import read_qrels
from sparring.rerank.cli import main
from sparring.rerank.data.runs import read_run

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

CALLS = 147


@pytest.mark.parametrize("schedule", ["bayes", "window(skip=7)", "swiss", "group_champions", "blocks(size=10)"])
def test_runs_are_valid_budgets_are_kept_and_consistency_is_printed(
    shared: Path, tmp_path: Path, schedule: str, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = shared / "trec-dl-2019-pool"
    first = folder / "runs" / "bm25.txt"
    given = ["--run", str(first), "--dataset", str(folder), "--model", "minilm", "--depth", "50"]
    asked = ["--schedule", schedule, "--budget", str(CALLS), "--ledger", str(tmp_path / "ledger")]
    prefs, output = tmp_path / "prefs.parquet", tmp_path / "out.run"
    assert main(["compare", *given, *asked, "--output", str(prefs)]) == 0
    printed = capsys.readouterr().out
    assert "connectivity" in printed and "min-transitivity" in printed
    assert main(["rerank", *given, *asked, "--output", str(output)]) == 0
    meta = yaml.safe_load(Path(f"{prefs}.meta.yaml").read_text())
    if schedule == "window(skip=7)":  # spends the budget to its end; sorts and blocks have sizes of their own
        assert meta["method"]["comparisons"] == 43 * CALLS
    if schedule.startswith("blocks"):  # 50 in blocks of 10, every pair of a block once
        assert 0 < meta["method"]["comparisons"] <= 43 * 50 * 49 / 2
    else:
        assert 0 < meta["method"]["comparisons"] <= 43 * CALLS
    ranked, before = read_run(output), read_run(first)
    assert ranked.topics() == before.topics()
    for qid, docids, scores in ranked.items():
        assert set(docids) == set(before[qid][0]) and (np.diff(np.asarray(scores, np.float32)) < 0).all()
        assert docids[50:] == before[qid][0][50:]  # below the depth nothing moves
    values = score_runs(read_qrels(folder / "qrels.txt"), [before, ranked], "nDCG@10")
    assert values[1] > values[0] + (0.05 if schedule == "bayes" else 0.0)
