"""Judgements that other tools stumble over: ids that look like numbers, high grades, only negative ones, swapped files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from sparring.eval.measures.catalogue import measure_run, parse_measures
from sparring.eval.measures.evaluation import evaluate, score_runs
from sparring.eval.measures.qrels import Qrels, read_qrels
from sparring.eval.measures.rendered import render
from sparring.rerank.cli import main
from sparring.rerank.data.runs import Run
from sparring.rerank.errors import InputError


def value(name: str, grades: dict[str, dict[str, int]], ranked: dict[str, list[str]]) -> list[float]:
    run = Run.from_topics({qid: (ids, np.arange(len(ids), 0.0, -1)) for qid, ids in ranked.items()})
    return measure_run(parse_measures([name]), Qrels(grades), run)[0].tolist()


def test_topics_that_are_equal_as_numbers_are_two() -> None:
    grades, ranked = {"007": {"a": 4}, "7": {"b": 1}}, {"007": ["b", "a"], "7": ["b"]}
    assert value("ERR@10", grades, ranked) == [0.46875, 0.0625]
    assert value("nDCG(dcg='exp-log2')@10", grades, ranked) == pytest.approx([1 / np.log2(3), 1.0])


@pytest.mark.parametrize("qid", ["q1", "wt-1", "é", "1.0"])
def test_err_of_any_topic(qid: str) -> None:
    assert value("ERR@10", {qid: {"a": 1, "b": 0}}, {qid: ["b", "a"]}) == [pytest.approx(1 / 32)]
    both = value("ERR", {qid: {"a": 3, "b": 2}}, {qid: ["b", "a"]})
    assert both == [pytest.approx(3 / 16 + (7 / 16) * (13 / 16) / 2)]


def test_err_of_grades_above_four() -> None:
    """The scale ends at the highest grade of the qrels, so that no reader stops with a probability above one."""
    assert value("ERR@10", {"1": {"a": 5}}, {"1": ["a"]}) == [31 / 32]
    two = value("ERR@10", {"1": {"a": 5}, "2": {"b": 1}}, {"1": ["x", "a"], "2": ["b"]})
    assert two == [31 / 64, 1 / 32]
    assert value("ERR@10", {"1": {"a": 10_000, "b": 9_999}}, {"1": ["b", "a"]}) == [pytest.approx(0.75)]
    assert value("nDCG(dcg='exp-log2')@9", {"1": {"a": 9_000, "b": 8_999}}, {"1": ["a", "b"]}) == [1.0]


def test_accuracy_without_a_document_that_is_not_relevant() -> None:
    assert value("Accuracy", {"1": {"a": 1, "b": 1}}, {"1": ["a", "b"]}) == [1.0]
    assert value("Accuracy@1", {"1": {"a": 1}}, {"1": ["a", "b"]}) == [1.0]
    assert value("Accuracy", {"1": {"a": 1}}, {"1": ["b", "c"]}) == [0.0]
    assert value("Accuracy", {"1": {"a": 1, "d": 1}}, {"1": ["a", "b", "d", "c"]}) == [0.75]


NEGATIVE = "t1 0 a 2\nt1 0 b 0\nt2 0 a 0\nt3 0 a -1\nt3 0 c -2\nt4 0 a 1\n"


def test_topics_with_negative_grades_alone_are_judged(tmp_path: Path) -> None:
    (tmp_path / "q").write_text(NEGATIVE)
    qrels = read_qrels(tmp_path / "q")
    assert (
        list(qrels) == ["t1", "t2", "t3", "t4"]
        and qrels["t3"] == {}
        and qrels.negative["t3"] == {"a": -1, "c": -2}
    )
    run = Run.from_topics([(qid, ["a", "b"], [2.0, 1.0]) for qid in ("t1", "t2", "t3")])
    for name, mean in (("nDCG@10", 0.25), ("AP", 0.25), ("RR@10", 0.25), ("Judged@10", 0.375), ("infAP", 0.25)):
        assert score_runs(qrels, [run], name) == [pytest.approx(mean)], name
    assert score_runs(qrels, [run], "NumRet") == [6.0] and score_runs(qrels, [run], "NumQ") == [3.0]


def test_six_topics_of_which_one_is_negative(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "q").write_text(NEGATIVE + "t5 0 x 1\nt5 0 y 3\nt6 0 a 5\nt6 0 b 3\n")
    rows = [("t1", "a b c"), ("t2", "a b"), ("t3", "a b"), ("t5", "a b"), ("t6", "c a d b"), ("t9", "a")]
    lines = [f"{qid} Q0 {d} {i} {9 - i} s\n" for qid, ids in rows for i, d in enumerate(ids.split(), 1)]
    (tmp_path / "r").write_text("".join(lines))
    assert main(["evaluate", str(tmp_path / "q"), str(tmp_path / "r"), "-m", "nDCG@10"]) == 0
    assert capsys.readouterr().out.splitlines()[1].split() == ["r", "5/6", "0.2742"]


@pytest.mark.parametrize("grade", ["4294967297", "1000000000", "2147483648", "-4294967297", "10001", "1" * 5000])
def test_grades_that_no_tool_can_hold(tmp_path: Path, grade: str) -> None:
    (tmp_path / "q").write_text(f"1 0 a 1\n1 0 b {grade}\n")
    with pytest.raises(InputError, match=r"q:2: grade .* is not between -10,000 and 10,000") as caught:
        read_qrels(tmp_path / "q")
    assert len(str(caught.value)) < 200 + len(str(tmp_path))


# ------------------------------------------------------------------------------------------- files in the wrong place


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "q.txt").write_text("".join(f"{t} 0 d{d} 1\n" for t in range(50) for d in range(3)))
    for name in ("a.run", "b.run"):
        text = "".join(f"{t} Q0 d{d} {d + 1} {9.5 - d} x\n" for t in range(50) for d in range(3))
        (tmp_path / name).write_text(text)
    return tmp_path


@pytest.mark.parametrize(
    ("command", "right"),
    [
        ("evaluate a.run q.txt", "sparring evaluate q.txt a.run"),
        ("evaluate a.run q.txt b.run", "sparring evaluate q.txt a.run b.run"),
        ("report q.txt --qrels a.run --output x.html", "sparring report a.run --qrels q.txt"),
    ],
)
def test_swapped_files(files: Path, capsys: pytest.CaptureFixture[str], command: str, right: str) -> None:
    assert main(command.split()) == 5
    said = capsys.readouterr().err.splitlines()
    assert len(said) <= 3 and "these look swapped" in said[0] and said[1].endswith(f"write: {right}")


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("evaluate a.run b.run", "a.run:1: a line of a run (qid Q0 docid rank score tag), not judgements"),
        ("evaluate q.txt q.txt", "q.txt: judgements (qid iteration docid grade), where a run"),
        ("fuse a.run b.run --tune a.run --output f.run", "a.run:1: a line of a run"),
    ],
)
def test_one_file_of_the_wrong_kind(
    files: Path, capsys: pytest.CaptureFixture[str], command: str, said: str
) -> None:
    assert main(command.split()) == 5
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) <= 3 and said in "".join(lines)


# --------------------------------------------------------------------------------------- topics that neither run has


def ranking(seed: int, topics: range) -> Run:
    rng = np.random.default_rng(seed)
    return Run.from_topics([(str(t), [f"d{i}" for i in range(8)], rng.random(8)) for t in topics])


def test_topics_that_neither_run_has_are_no_ties(capsys: pytest.CaptureFixture[str]) -> None:
    every = {str(t): {f"d{d}": (t * d) % 3 for d in range(1, 9)} for t in range(1, 44)}
    few = {qid: every[qid] for qid in list(every)[:10]}
    runs = [("a", ranking(0, range(1, 11))), ("b", ranking(1, range(1, 11)))]
    measures = parse_measures(["nDCG@10"])
    found = evaluate(Qrels(every), runs, measures, baseline="a").results
    alone = evaluate(Qrels(few), runs, measures, baseline="a").results
    assert found[1].comparisons == alone[1].comparisons and found[1].comparisons[0].topics == 10
    average = [result.average(measures, "judged")[0] for result in found]
    assert average[0] == pytest.approx(alone[0].average(measures, "judged")[0] * 10 / 43)


def test_they_are_counted_once_in_words(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("a.run", "b.run"):
        text = "".join(f"{t} Q0 d{d} {d + 1} {9.5 - d} x\n" for t in range(10) for d in range(3))
        (files / name).write_text(text)
    assert main(["evaluate", "q.txt", "a.run", "b.run", "--baseline", "a.run", "-m", "nDCG@10"]) == 0
    shown = capsys.readouterr()
    assert shown.err.count("40 of 50 judged topics are in neither of the two runs") == 1
    assert main(["evaluate", "q.txt", "a.run", "--baseline", "b.run", "-m", "AP", "--topics", "run"]) == 0
    assert "in neither" not in capsys.readouterr().err


def test_the_table_shows_the_difference_of_its_averages() -> None:
    qrels = Qrels({str(t): {f"d{d}": (t * d) % 3 for d in range(1, 9)} for t in range(1, 31)})
    runs = [("a", ranking(0, range(1, 11))), ("b", ranking(1, range(1, 21)))]
    found = evaluate(qrels, runs, parse_measures(["nDCG@10"]), baseline="a")
    first, second = (line.split() for line in render(found).splitlines()[1:])
    assert float(second[3]) == pytest.approx(float(second[2]) - float(first[2]), abs=1.1e-4)
    comparison = found.results[1].comparisons[0]
    assert comparison.topics == 20 and comparison.low <= comparison.difference <= comparison.high
