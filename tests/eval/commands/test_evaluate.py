"""``sparring evaluate``: published figures, how averages are formed, comparisons, formats, and all that can be wrong."""

from __future__ import annotations

import csv
import io
import json
import logging
from pathlib import Path

import numpy as np
import pytest
from places import SHARED
from scipy import stats
from sparring.eval.measures import significance
from sparring.eval.measures.catalogue import parse_measures
from sparring.eval.measures.evaluation import evaluate, score_runs
from sparring.eval.measures.qrels import Qrels
from sparring.eval.measures.rendered import render
from sparring.eval.text_table import Table
from sparring.rerank.cli import main
from sparring.rerank.data.runs import Run

QRELS = "".join(f"{t} 0 d{d} {(t * d) % 3}\n" for t in range(1, 7) for d in range(1, 9))


def run_text(seed: int, topics: int = 6) -> str:
    rng = np.random.default_rng(seed)
    return "".join(
        f"{t} Q0 d{d + 1} {rank} {9 - rank} tag{seed}\n"
        for t in range(1, topics + 1)
        for rank, d in enumerate(rng.permutation(8), 1)
    )


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "qrels.txt").write_text(QRELS)
    for seed, name in enumerate(("first.run", "second.run", "third.run")):
        (tmp_path / name).write_text(run_text(seed))
    (tmp_path / "short.run").write_text(run_text(5, topics=4))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def shared(name: str) -> Path:
    folder = SHARED / name
    if not folder.is_dir():
        pytest.skip(f"the collection {name} is not here ({folder})")
    return folder


def test_published_figures_of_trec_dl_2019(capsys: pytest.CaptureFixture[str]) -> None:
    data = shared("trec-dl-2019-pool")
    runs = [str(data / "runs" / f"{name}.txt") for name in ("bm25", "tasb", "splade-pp-ed")]
    assert main(["evaluate", str(data / "qrels.txt"), *runs, "-m", "nDCG@10", "ndcg_cut_10"]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert rows == [
        ["run", "topics", "nDCG@10"],
        ["bm25.txt", "43", "0.5058"],
        ["tasb.txt", "43", "0.7210"],
        ["splade-pp-ed.txt", "43", "0.7308"],
    ]


def test_published_figures_of_sparse_pairwise_reranking(capsys: pytest.CaptureFixture[str]) -> None:
    data = shared("ictir22-duot5")
    names = ("greedy", "pagerank", "bradleyterry", "additive")
    runs = [str(data / "runs" / f"duot5-3b-{name}.txt") for name in names]
    assert main(["evaluate", str(data / "qrels.txt"), *runs, "-m", "nDCG@10", "--topics", "run"]) == 0
    shown = capsys.readouterr()
    cells = [line.split()[1:] for line in shown.out.splitlines()[1:]]
    assert cells == [["42/43", value] for value in ("0.7071", "0.6953", "0.6914", "0.6911")]
    assert "1 of 43 judged topics are missing (855410)" in shown.err
    assert "nDCG@10 0.6907 and 0.7071" in shown.err


def test_both_averages_are_said_and_stdout_is_the_table_alone(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", "qrels.txt", "short.run", "-m", "nDCG@10", "NumRet"]) == 0
    shown = capsys.readouterr()
    header, row = (line.split() for line in shown.out.splitlines())
    assert header == ["run", "topics", "nDCG@10", "NumRet"] and row[:2] == ["short.run", "4/6"] and row[3] == "32"
    assert "2 of 6 judged topics are missing (5, 6)" in shown.err
    over_run = float(shown.err.split(" and ")[-1].split()[0])
    assert float(row[2]) == pytest.approx(over_run * 4 / 6, abs=1e-4)
    assert main(["evaluate", "qrels.txt", "short.run", "-m", "nDCG@10", "--topics", "run", "--quiet"]) == 0
    assert capsys.readouterr().out.split()[-1] == f"{over_run:.4f}"


def test_comparison_with_a_baseline() -> None:
    qrels = Qrels({str(t): {f"d{d}": (t * d) % 3 for d in range(1, 9)} for t in range(1, 7)})
    ids = [f"d{d}" for d in range(1, 9)]
    runs = [
        (
            name,
            Run.from_topics({str(t): (ids, np.random.default_rng([seed, t]).random(8)) for t in range(1, 7)}),
        )
        for seed, name in enumerate("abc")
    ]
    found = evaluate(qrels, runs, parse_measures(["nDCG@5", "AP"]), baseline="b")
    assert [result.name for result in found.results] == ["b", "a", "c"] and found.baseline == "b"
    base, *others = found.results
    for m in range(2):
        plain = [stats.ttest_rel(other.values[m], base.values[m]).pvalue for other in others]
        assert [other.comparisons[m].p for other in others] == pytest.approx(plain, rel=1e-9)
        assert [other.comparisons[m].p_corrected for other in others] == pytest.approx(significance.holm(plain))
        assert others[0].comparisons[m].difference == pytest.approx((others[0].values[m] - base.values[m]).mean())
    for other in others:
        for c in other.comparisons:
            assert c.wins + c.ties + c.losses == 6 and c.low <= c.difference <= c.high
    scores = score_runs(qrels, [run for _, run in runs], "AP")
    assert scores == pytest.approx([found.results[i].average(found.measures, "judged")[1] for i in (1, 0, 2)])


def test_formats_hold_the_same_numbers(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["evaluate", "qrels.txt", "second.run", "third.run", "-m", "nDCG@10", "--baseline", "first.run"]
    shown = {}
    for form in ("text", "tsv", "json", "markdown", "latex"):
        assert main([*command, "--format", form]) == 0
        shown[form] = capsys.readouterr().out
    records = json.loads(shown["json"])["results"]
    assert [r["run"] for r in records] == ["first.run", "second.run", "third.run"]
    rows = list(csv.DictReader(io.StringIO(shown["tsv"]), delimiter="\t"))
    for record, row in zip(records, rows, strict=True):
        assert float(row["value"]) == record["value"]
        for form in ("text", "markdown", "latex"):
            assert f"{record['value']:.4f}" in shown[form]
    assert float(rows[1]["p_corrected"]) == records[1]["comparison"]["p_corrected"] and rows[0]["p"] == ""
    assert f"{records[1]['comparison']['difference']:+.4f}" in shown["text"]
    assert shown["latex"].startswith(r"\begin{tabular}{lrrrr}") and shown["latex"].count(r"\textbf") == 1
    assert shown["markdown"].splitlines()[1] == "| --- | ---: | ---: | ---: | ---: |"


def test_per_topic_values_average_to_the_last_row(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", "qrels.txt", "first.run", "-m", "nDCG@10", "-q", "--format", "tsv"]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out), delimiter="\t"))
    assert [row["topic"] for row in rows] == ["1", "2", "3", "4", "5", "6", "all"]
    values = [float(row["nDCG@10"]) for row in rows]
    assert values[-1] == pytest.approx(np.mean(values[:-1]))
    assert main(["evaluate", "qrels.txt", "first.run", "-m", "nDCG@10", "-q", "--format", "json"]) == 0
    topics = json.loads(capsys.readouterr().out)["per_topic"]
    assert [entry["value"] for entry in topics] == values[:-1]


def test_everything_wrong_is_said_at_once(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "bad.run").write_text("1 Q0 d1 1 0,9 t\n")
    (folder / "bad.qrels").write_text("1 0 d1 0.5\n")
    assert main(["evaluate", "bad.qrels", "bad.run", "first.run", "absent.run", "-m", "ndgc@10", "P"]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    for part in ("'ndgc@10'", "measure 'P'", "bad.qrels:1:", "bad.run:1:", "absent.run: no such file"):
        assert part in shown.err
    assert main(["evaluate", "qrels.txt", "bad.run"]) == 5
    assert main(["evaluate", "qrels.txt", "absent.run"]) == 4


def test_runs_and_qrels_that_do_not_belong_together(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "other.run").write_text("77 Q0 d1 1 0.9 t\n")
    assert main(["evaluate", "qrels.txt", "other.run"]) == 5
    assert "none of its 1 topics is judged" in capsys.readouterr().err


def test_ties_are_said(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "tied.run").write_text("1 Q0 d1 1 1 t\n1 Q0 d2 2 1 t\n2 Q0 d1 1 1 t\n9 Q0 d1 1 1 t\n")
    assert main(["evaluate", "qrels.txt", "tied.run", "-m", "RR"]) == 0
    shown = capsys.readouterr().err
    assert "tied scores in 1 of 3 topics: here by docid descending" in shown
    assert "1 topics are not judged" in shown


def test_output_file_with_meta_and_dry_run(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["evaluate", "qrels.txt", "first.run", "--output", "table.md", "--format", "markdown"]
    assert main([*command, "--dry-run"]) == 0 and not (folder / "table.md").exists()
    assert main(command) == 0
    assert capsys.readouterr().out == ""
    assert (folder / "table.md").read_text().startswith("| run | topics | nDCG@10 |")
    assert (folder / "table.md.meta.yaml").exists()
    assert main(command) == 2 and "exists already" in capsys.readouterr().err
    assert main([*command, "--overwrite"]) == 0


def test_equal_names_are_told_apart(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "sub").mkdir()
    (folder / "sub" / "first.run").write_text(run_text(9))
    assert main(["evaluate", "qrels.txt", "first.run", "sub/first.run", "-m", "AP", "--correction", "none"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()[1:]] == ["first.run", "sub/first.run"]


def test_a_single_topic_has_no_p_value(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.ERROR, "sparring")
    qrels = Qrels({"1": {"d1": 1}})
    runs = [
        (name, Run.from_topics({"1": (["d2", "d1"], s)})) for name, s in (("a", [2.0, 1.0]), ("b", [1.0, 2.0]))
    ]
    found = evaluate(qrels, runs, parse_measures(["RR"]), baseline="a")
    assert render(found).splitlines()[-1].split() == ["b", "1", "1.0000", "+0.5000", "-"]
    assert json.loads(render(found, "json"))["results"][1]["comparison"]["p"] is None


def test_tables_escape_what_their_format_reserves() -> None:
    table = Table(["run", "AP"], [["a_b|c & 50%", "<1"]], best=frozenset({(0, 1)}))
    assert r"a\_b|c \& 50\% & \textbf{\textless{}1} \\" in table.latex()
    assert r"| a_b\|c & 50% | **<1** |" in table.markdown()
    assert table.text() == "run          AP\na_b|c & 50%  <1\n"
