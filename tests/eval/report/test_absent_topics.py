"""Topics that neither run has are in no picture and no test of a report, and are counted once in words."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

pytest.importorskip("matplotlib", reason="pictures need matplotlib: pip install 'sparring[report]'")

from sparring.eval.measures.evaluation import Result, left_out
from sparring.rerank.cli import main


def test_a_report_of_ten_topics_against_qrels_of_43(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(3)
    qrels = "".join(f"{t} 0 d{d} {rng.integers(0, 3)}\n" for t in range(43) for d in range(6))
    Path("q.txt").write_text(qrels)
    for name in ("a.run", "b.run"):
        orders = [(t, rank, d) for t in range(10) for rank, d in enumerate(rng.permutation(6), 1)]
        Path(name).write_text("".join(f"{t} Q0 d{d} {rank} {9 - rank} x\n" for t, rank, d in orders))
    assert (
        main(["report", "a.run", "b.run", "--qrels", "q.txt", "--output", "r.html", "-m", "nDCG@10", "--quiet"])
        == 0
    )
    text = Path("r.html").read_text("utf-8")
    assert text.count("33 of 43 judged topics are in neither of the two runs") == 1
    caption = text.split("<figcaption>")[1].split("</figcaption>")[0]
    counts = re.search(r"(\d+) topics gain, (\d+) lose, (\d+) are unchanged", caption)
    assert counts and sum(map(int, counts.groups())) == 10
    with Path("r_files/differences.tsv").open(encoding="utf-8") as stream:
        row = next(csv.DictReader(stream, delimiter="\t"))
    assert int(row["gain"]) + int(row["same"]) + int(row["lose"]) == 10
    assert (
        main(
            [
                "evaluate",
                "q.txt",
                "a.run",
                "b.run",
                "-q",
                "--topics",
                "run",
                "-m",
                "nDCG@10",
                "--format",
                "tsv",
                "--output",
                "v.tsv",
                "--quiet",
            ]
        )
        == 0
    )
    with Path("v.tsv").open(encoding="utf-8") as stream:
        rows = [r for r in csv.DictReader(stream, delimiter="\t") if r["topic"] != "all"]
    one, other = ([float(r["nDCG@10"]) for r in rows if r["run"] == name] for name in ("a.run", "b.run"))
    assert float(row["p"].lstrip("<")) == pytest.approx(stats.ttest_rel(other, one).pvalue, abs=6e-4)


def test_pairs_that_leave_out_different_numbers() -> None:
    def result(*there: bool) -> Result:
        return Result("r", "t", np.zeros((1, len(there))), np.array(there))

    first = result(True, False, False, False)
    assert left_out([first, result(True, True, True, True)]) == ""
    assert left_out([first, first]).startswith("3 of 4 judged topics are in neither")
    assert left_out([first, first, result(False, True, False, False)]).startswith("2 to 3 of 4 ")
