"""``sparring aggregate`` with a first stage: what is ranked, and what follows below."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from sparring.rerank.cli import main
from sparring.rerank.data.runs import Run, read_run, with_rest


def test_the_rest_of_a_run_keeps_its_order_strictly_below() -> None:
    run = Run.from_topics({"q": (["a", "b", "c", "d", "e"], [5.0, 4, 3, 2, 1])})
    qid, docids, scores = with_rest(run, "q", ("a", "b", "d"), np.array([-0.5, 3.0, -7.0]))
    assert (qid, docids, scores.tolist()) == ("q", ("a", "b", "d", "c", "e"), [-0.5, 3.0, -7.0, -8.0, -9.0])
    assert with_rest(run, "q", (), np.empty(0))[1] == ("a", "b", "c", "d", "e")
    assert with_rest(run, "q", ("a", "b", "c", "d", "e"), np.arange(5.0))[2].tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("suffix", ["run", "jsonl"])
def test_documents_beyond_the_depth_follow_in_the_order_of_the_run(tmp_path: Path, suffix: str) -> None:
    first = "".join(f"{q} Q0 d{i} {i + 1} {9 - i} first\n" for q in ("q1", "q2") for i in range(6))
    (tmp_path / "first.run").write_text(first)
    votes = "".join(f"{q},d{a},d{b},right\n" for q in ("q1", "q2") for a, b in ((0, 1), (1, 2), (0, 2)))
    (tmp_path / "votes.csv").write_text("qid,left,right,winner\n" + votes)
    output = tmp_path / f"out.{suffix}"
    flags = ["--preferences", str(tmp_path / "votes.csv"), "--run", str(tmp_path / "first.run"), "--depth", "3"]
    assert main(["aggregate", *flags, "--aggregator", "additive", "--output", str(output)]) == 0
    if suffix == "run":
        found = {qid: list(docids) for qid, docids, _ in read_run(output).items()}
    else:
        rows = [json.loads(line) for line in output.read_text().splitlines()]
        found = {qid: [row["item"] for row in rows if row["qid"] == qid] for qid in ("q1", "q2")}
    assert found == {key: ["d2", "d1", "d0", "d3", "d4", "d5"] for key in ("q1", "q2")}
