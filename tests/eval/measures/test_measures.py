"""Qrels and measures: what is refused, names and their errors, trec_eval's numbers, screening cases by hand."""

from __future__ import annotations

import gzip
import logging
from pathlib import Path

import numpy as np
import pytest
import pytrec_eval
from hypothesis import given, settings
from hypothesis import strategies as st
from sparring.eval.measures.catalogue import measure_run, measures, parse_measures, trec_order
from sparring.eval.measures.own import own_measures
from sparring.eval.measures.qrels import Qrels, read_qrels
from sparring.rerank.data.runs import Run
from sparring.rerank.errors import InputError, UsageError

GOOD = "1 0 d1 2\n1 0 d2 0\n2 Q0 d1 1\n"
EXPECTED = {"1": {"d1": 2, "d2": 0}, "2": {"d1": 1}}


def saved(folder: Path, content: str | bytes, name: str = "qrels.txt") -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


@pytest.mark.parametrize(
    "content",
    [
        GOOD,
        GOOD.replace(" ", "\t"),
        "\ufeff# judged by hand\n\n" + GOOD.replace("\n", " \r\n"),
        gzip.compress(GOOD.encode(), mtime=0),
        "query-id\tcorpus-id\tscore\n1\td1\t2\n1\td2\t0\n2\td1\t1\n",
    ],
)
def test_accepted_qrels(tmp_path: Path, content: str | bytes) -> None:
    found = read_qrels(saved(tmp_path, content))
    assert dict(found) == EXPECTED and found.highest == 2


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("2 0 d3 0.5", "grade '0.5' is not a whole number"),
        ("2 0 d3 x", "grade 'x' is not a whole number"),
        ("2 0 d1 0", "document d1 of topic 2 is judged on line 3 already (1 there and 0 here)"),
        ("2 0 d1 1", "document d1 of topic 2 is judged on line 3 already (the same)"),
        ("2 0 d1 -1", "(1 there and -1 here)"),
        ("2 d1 1", "expected 4 fields (qid iteration docid grade), found 3"),
        ("2 0 d\u00a01 1", "holds U+00A0"),
    ],
)
def test_malformed_qrels_are_named(tmp_path: Path, line: str, message: str) -> None:
    path = saved(tmp_path, GOOD + line + "\n" + "broken\n")
    with pytest.raises(InputError) as caught:
        read_qrels(path)
    first, second = str(caught.value).splitlines()
    assert first.startswith(f"{path}:4: ") and message in first and second.startswith(f"{path}:5: ")


def test_negative_grades_are_unjudged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "sparring")
    found = read_qrels(saved(tmp_path, GOOD + "2 0 d2 -1\n"))
    assert dict(found) == EXPECTED and found.negative == {"2": {"d2": -1}}
    assert "1 negative grades count as unjudged" in caplog.text
    run = Run.from_topics({"2": (["d2", "d1"], [2.0, 1.0])})
    values = measure_run(parse_measures(["Judged@2", "RR"]), found, run)
    assert values[:, 1].tolist() == [0.5, 0.5]


@pytest.mark.parametrize("content", ["", "# nothing\n", "1 0 d -2\n"])
def test_empty_qrels(tmp_path: Path, content: str) -> None:
    with pytest.raises(InputError, match="0 topics read from"):
        read_qrels(saved(tmp_path, content))


def test_names_in_both_spellings() -> None:
    names = [
        "nDCG@10",
        "ndcg_cut_10",
        "map",
        "recip_rank",
        "recall_100",
        "P.5",
        "AP(rel=2)",
        "WSS(rel=2)@95",
        "last_rel",
    ]
    printed = [str(m) for m in parse_measures(names)]
    assert printed == ["nDCG@10", "AP", "RR", "R@100", "P@5", "AP(rel=2)", "WSS(rel=2)@95", "last_rel"]
    assert [str(m) for m in parse_measures(printed)] == printed


def test_wrong_names_are_said_at_once() -> None:
    with pytest.raises(UsageError) as caught:
        parse_measures(["nDCG@10", "ndgc@10", "P", "R@0", "WSS@101", "nDCG(cutof=3)@10", "alpha_nDCG@10", ""])
    lines = str(caught.value).splitlines()
    expected = [
        "did you mean 'nDCG@10'?",
        "needs a cutoff",
        "must be at least 1",
        "up to 100",
        "cutof",
        "pip install",
        "unknown measure ''",
    ]
    assert len(lines) == len(expected)
    for line, part in zip(lines, expected, strict=True):
        assert part in line


def test_the_catalogue_holds_ours_and_theirs() -> None:
    assert {"nDCG", "AP", "RR", "R", "P", "Judged", *own_measures.names()} <= set(measures.names())
    for _, entry in measures:
        assert entry.__doc__
    assert str(measures.parse("nDCG@5")) == "nDCG@5"


# -------------------------------------------------------------------------------------------- against trec_eval

TREC = {
    "nDCG@10": "ndcg_cut_10",
    "AP": "map",
    "RR": "recip_rank",
    "R@5": "recall_5",
    "P@5": "P_5",
    "Rprec": "Rprec",
    "Bpref": "bpref",
}
judgements = st.lists(st.tuples(st.integers(-1, 3), st.integers(0, 3)), min_size=1, max_size=15)


@given(judgements)
@settings(deadline=None, max_examples=60)
def test_numbers_and_ties_are_those_of_trec_eval(rows: list[tuple[int, int]]) -> None:
    ids = [f"d{i}" for i in range(len(rows))]
    qrels = {"q": {docid: grade for docid, (grade, _) in zip(ids, rows, strict=True) if grade >= 0}}
    if not qrels["q"]:
        return
    scores = [float(score) for _, score in rows]
    expected = pytrec_eval.RelevanceEvaluator(qrels, set(TREC.values())).evaluate(
        {"q": dict(zip(ids, scores, strict=True))}
    )["q"]
    chosen = parse_measures([*TREC, "RR@10"])
    found = measure_run(chosen, Qrels(qrels), Run.from_topics({"q": (ids, scores)}))[:, 0]
    for value, name in zip(found, TREC.values(), strict=False):
        assert value == pytest.approx(expected[name], abs=1e-9)
    assert found[-1] == pytest.approx(expected["recip_rank"] if expected["recip_rank"] >= 0.1 else 0, abs=1e-9)


def test_trec_order_is_in_double_precision_with_docids_descending() -> None:
    assert trec_order(["a", "b", "c"], np.array([1.0, 1.0, 0.5])) == ["b", "a", "c"]
    assert trec_order(["a", "b"], np.array([16777217.0, 16777216.0])) == ["a", "b"]
    assert trec_order([], np.array([])) == []


def test_missing_topics_are_zero_and_unjudged_ones_ignored() -> None:
    qrels = Qrels({str(t): {"d": 1} for t in range(1200)})
    run = Run.from_topics([(str(t), ["d"], [1.0]) for t in range(600, 1300)])
    values = measure_run(parse_measures(["AP", "recall_percent@100"]), qrels, run)
    assert values.shape == (2, 1200)
    assert not values[:, :600].any() and (values[:, 600:] == 1).all()


# ------------------------------------------------------------------------------------------------- screening

GRADES = np.array([1, 0, 2, 0, 0, 1, 0, 0, 0, 0])  # N = 10; relevant at ranks 1, 3 and 6


@pytest.mark.parametrize(
    ("spec", "relevant", "expected"),
    [
        ("WSS@95", 3, 0.4 - 0.05),  # round(2.85) = 3 are reached at rank 6
        ("WSS@100", 3, 0.4),
        ("WSS@50", 3, 0.7 - 0.5),  # round(1.5) = 2 at rank 3
        ("WSS@100", 4, 0.0),  # one relevant document is not ranked: never reached
        ("WSS(rel=2)@100", 1, 0.7),
        ("last_rel", 3, 6.0),
        ("last_rel(share=True)", 3, 0.6),
        ("last_rel(rel=2)", 1, 3.0),
        ("recall_percent@10", 3, 1 / 3),
        ("recall_percent@30", 3, 2 / 3),
        ("recall_percent@100", 4, 3 / 4),
        ("recall_percent@4", 3, 0.0),  # round(0.4) = rank 0
        # found before each rank plus half of what it adds: .5 + 1 + 1.5 + 2 + 2 + 2.5 + 3 + 3 + 3 + 3 = 21.5
        ("norm_area", 3, 21.5 / (3 * 10 - 9 / 2)),
    ],
)
def test_screening_by_hand(spec: str, relevant: int, expected: float) -> None:
    measure = measures.parse(spec).own
    assert measure(GRADES, relevant) == pytest.approx(expected)


@pytest.mark.parametrize("name", own_measures.names())
def test_screening_edges(name: str) -> None:
    measure = own_measures.parse(name)
    assert measure(np.array([], int), 3) == 0
    assert measure(np.array([0, 0]), 0) == 0
    best = measure(np.array([1, 1, 0, 0]), 2)
    worst = measure(np.array([0, 0, 1, 1]), 2)
    assert (best < worst) if getattr(measure, "lower_is_better", False) else (best >= worst)
    assert own_measures.parse("norm_area")(np.array([1, 1, 0, 0]), 2) == pytest.approx(1.0)
