"""Runs: what is read, what is refused and how it is said, and that what is written has one order everywhere."""

from __future__ import annotations

import gzip
import logging
import math
from pathlib import Path

import ir_measures
import numpy as np
import pytest
import pytrec_eval
from hypothesis import given, settings
from hypothesis import strategies as st
from sparring.rerank.data.runs import Run, ranked, read_run, separated, write_run
from sparring.rerank.errors import InputError, MissingResourceError, UsageError

GOOD = "1 Q0 d1 1 2.5 bm25\n1 Q0 d2 2 1.5 bm25\n2 Q0 d1 1 -0.5 bm25\n"


def saved(folder: Path, content: str | bytes, name: str = "a.run") -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def plain(run: Run) -> dict[str, list[tuple[str, float]]]:
    return {qid: list(zip(ids, scores.tolist(), strict=True)) for qid, ids, scores in run.items()}


EXPECTED = {"1": [("d1", 2.5), ("d2", 1.5)], "2": [("d1", -0.5)]}


def test_a_plain_run(tmp_path: Path) -> None:
    run = read_run(saved(tmp_path, GOOD))
    assert plain(run) == EXPECTED
    assert run.topics() == ["1", "2"] and len(run) == 2 and "2" in run and "3" not in run
    assert run.tag == "bm25"
    with pytest.raises(KeyError):
        run["3"]


@pytest.mark.parametrize(
    "content",
    [
        GOOD.replace("\n", "\r\n"),
        GOOD.replace(" ", "\t"),
        GOOD.replace(" ", "   ").replace("\n", "  \n"),
        "  " + GOOD,
        "\n\n" + GOOD.replace("\n", "\n\n \t\n"),
        "# made by hand\n" + GOOD + "  # the end\n",
        GOOD.rstrip("\n"),
        GOOD.replace("1.5", "+1.5").replace("2.5", "25e-1"),
        GOOD.replace(" 1 ", " 1.0 "),
        "2 Q0 d1 1 -0.5 bm25\n1 Q0 d2 2 1.5 bm25\n1 Q0 d1 1 2.5 bm25\n",
    ],
)
def test_accepted_forms(tmp_path: Path, content: str) -> None:
    assert plain(read_run(saved(tmp_path, content))) == EXPECTED


def test_gzip_and_byte_order_mark(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "sparring")
    marked = b"\xef\xbb\xbf" + GOOD.encode()
    assert plain(read_run(saved(tmp_path, marked))) == EXPECTED
    assert "byte-order mark was stripped" in caplog.text
    two_members = gzip.compress(marked[:30]) + gzip.compress(marked[30:])
    assert plain(read_run(saved(tmp_path, two_members, "a.run.gz"))) == EXPECTED


@pytest.mark.parametrize(
    "docid", ["NA", "null", "007", '"x', "'", "None", "nan", "../../x", "é", "1e5", "#2", "a,b"]
)
def test_ids_are_opaque(tmp_path: Path, docid: str) -> None:
    path = saved(tmp_path, f"007 Q0 {docid} 1 2.0 t\n007 Q0 other 2 1.0 t\n")
    assert plain(read_run(path)) == {"007": [(docid, 2.0), ("other", 1.0)]}
    write_run(tmp_path / "b.run", read_run(path))
    assert (tmp_path / "b.run").read_bytes() == path.read_bytes()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("1 Q0 d9 4 0.5", "expected 6 fields (qid Q0 docid rank score tag), found 5"),
        ("1 Q0 d9 4 0.5 my tag", "expected 6 fields (qid Q0 docid rank score tag), found 7"),
        ("1 Q0 d9 4 abc t", "score 'abc' is not a number"),
        ("1 Q0 d9 4 0,9 t", "score '0,9' is not a number (a decimal comma? write a point)"),
        ("1 Q0 d9 4 1_0 t", "score '1_0' is not a number"),
        ("1 Q0 d9 4 NaN t", "score is NaN"),
        ("1 Q0 d9 0.5 4 t", "rank '0.5' is not a whole number (are rank and score swapped?)"),
        ("1 Q0 d\u00a09 4 0.5 t", "docid 'd\\xa09' holds U+00A0"),
        ("1 Q0 d\u30009 4 0.5 t", "docid 'd\\u30009' holds U+3000"),
        ("1 Q0 d\x009 4 0.5 t", "holds U+0000"),
        ("qid Q0 docid rank score tag", "this is a header"),
    ],
)
def test_malformed_lines_are_named(
    tmp_path: Path, line: str, message: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = saved(tmp_path, GOOD + line + "\n")
    with pytest.raises(InputError) as caught:
        read_run(path)
    assert str(caught.value).startswith(f"{path}:4: ") and message in str(caught.value)
    assert caught.value.exit_code == 5
    assert plain(read_run(path, on_error="skip")) == EXPECTED
    assert "1 lines of" in caplog.text and f"{path}:4: " in caplog.text


def test_all_problems_are_said_at_once(tmp_path: Path) -> None:
    path = saved(tmp_path, GOOD + "broken\n" * 30)
    with pytest.raises(InputError) as caught:
        read_run(path)
    lines = str(caught.value).splitlines()
    assert (
        len(lines) == 21
        and lines[0].startswith(f"{path}:4:")
        and lines[20] == f"... and 10 more problems in {path}"
    )


def test_duplicates(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = saved(tmp_path, "# note\n1 Q0 d1 1 0.5 t\n1 Q0 d2 2 1.5 t\n1 Q0 d1 3 2.5 t\n2 Q0 d1 1 1.0 t\n")
    with pytest.raises(InputError, match=r"a\.run:4: document d1 of topic 1 is on line 2 already"):
        read_run(path)
    assert plain(read_run(path, dedup="max"))["1"] == [("d1", 2.5), ("d2", 1.5)]
    assert plain(read_run(path, dedup="first"))["1"] == [("d2", 1.5), ("d1", 0.5)]
    assert plain(read_run(path, on_error="skip"))["1"] == [("d2", 1.5), ("d1", 0.5)]
    assert "1 duplicate lines were dropped" in caplog.text
    with pytest.raises(UsageError, match="did you mean 'first'"):
        read_run(path, dedup="frist")  # type: ignore[arg-type]


def test_order_is_score_then_rank_then_docid(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "sparring")
    path = saved(
        tmp_path, "1 Q0 z 3 1.0 t\n1 Q0 b 4 1.0 t\n1 Q0 a 4 1.0 t\n1 Q0 y 1 1.0 t\n1 Q0 x 9 7.0 t\n2 Q0 x 1 1 t\n"
    )
    assert read_run(path)["1"][0] == ("x", "y", "z", "a", "b")
    assert "the rank column contradicts the scores in 1 of 2 topics" in caplog.text
    assert "tied scores in 1 of 2 topics" in caplog.text


def test_infinite_scores_count_for_the_order_only(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = saved(tmp_path, "1 Q0 a 1 inf t\n1 Q0 b 2 0 t\n1 Q0 c 3 -Infinity t\n")
    run = read_run(path)
    assert "2 infinite scores" in caplog.text
    assert write_run(tmp_path / "b.run", run).separated == 1
    assert plain(read_run(tmp_path / "b.run")) == {"1": [("a", 3.0), ("b", 2.0), ("c", 1.0)]}


@pytest.mark.parametrize("content", ["", "\n \n", "# nothing\n", "\ufeff"])
def test_empty_runs(tmp_path: Path, content: str) -> None:
    path = saved(tmp_path, content)
    with pytest.raises(InputError, match=f"0 topics read from {path}"):
        read_run(path)


def test_broken_files(tmp_path: Path) -> None:
    with pytest.raises(MissingResourceError, match=r"absent\.run: no such file"):
        read_run(tmp_path / "absent.run")
    many = "".join(f"1 Q0 d{i} {i} {-i} t\n" for i in range(20000))
    cut = gzip.compress(many.encode())[:-20000]
    with pytest.raises(InputError, match=r"cut\.run\.gz: truncated after line [1-9]\d{2,}:"):
        read_run(saved(tmp_path, cut, "cut.run.gz"))
    with pytest.raises(InputError, match=r"bare\.run\.gz: not a gzip file"):
        read_run(saved(tmp_path, GOOD, "bare.run.gz"))
    with pytest.raises(InputError, match="compressed with zstd"):
        read_run(saved(tmp_path, b"\x28\xb5\x2f\xfd....", "a.run.zst"))


def test_encodings(tmp_path: Path) -> None:
    path = saved(tmp_path, GOOD.replace("d2", "dé").encode("latin-1"))
    with pytest.raises(InputError, match=r"a\.run:2: byte 0xe9 at offset 25 is not UTF-8"):
        read_run(path)
    assert read_run(path, encoding="latin-1")["1"][0] == ("d1", "dé")
    assert read_run(path, encoding_errors="replace")["1"][0] == ("d1", "d\ufffd")
    wide = saved(tmp_path, GOOD.encode("utf-16"))
    with pytest.raises(InputError, match="looks like UTF-16"):
        read_run(wide)
    assert plain(read_run(wide, encoding="utf-16")) == EXPECTED
    with pytest.raises(UsageError, match="unknown encoding"):
        read_run(path, encoding="latin-one")


def test_ms_marco_runs_of_three_columns(tmp_path: Path) -> None:
    run = read_run(saved(tmp_path, "7\tp2\t2\n7\tp1\t1\n8\tp9\t1\n"))
    assert plain(run) == {"7": [("p1", -1.0), ("p2", -2.0)], "8": [("p9", -1.0)]}
    with pytest.raises(InputError, match=r"a\.run:2: expected 3 fields \(qid docid rank\), found 2"):
        read_run(saved(tmp_path, "7\tp2\t2\n7\tp1\n8\tp9\t1\n"))


def test_writing_refuses_what_trec_files_cannot_hold(tmp_path: Path) -> None:
    path = tmp_path / "out.run"
    for tag in ("", "two words", "a\u00a0b"):
        with pytest.raises(UsageError, match="one word"):
            write_run(path, Run.from_topics({"1": (["d"], [1.0])}), tag=tag)
    for qid, ids, scores in [
        ("1", ["a b"], [1.0]),
        ("1", [""], [1.0]),
        ("1", ["a\n"], [1.0]),
        ("#1", ["a"], [1.0]),
        ("1", ["a", "a"], [1.0, 2.0]),
        ("1", ["a"], [math.nan]),
        ("1", ["a"], [1.0, 2.0]),
    ]:
        with pytest.raises(InputError):
            write_run(path, [("0", ["ok"], [1.0]), (qid, ids, scores)])
    with pytest.raises(InputError, match="topic 1 is given twice"):
        write_run(path, [("1", ["a"], [1.0]), ("1", ["b"], [1.0])])
    assert list(tmp_path.iterdir()) == []


def test_streaming_writes_and_topics_without_candidates(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "out.run.gz"
    written = write_run(path, iter([("1", ["a", "b", "c"], [1.0, 1.0, 2.0]), ("2", [], [])]), tag="mine")
    assert (written.topics, written.lines, written.separated) == (1, 3, 1)
    assert "topic 2 has no candidates" in caplog.text
    rows = [line.split() for line in gzip.decompress(path.read_bytes()).decode().splitlines()]
    assert [(r[2], r[3], r[5]) for r in rows] == [("c", "1", "mine"), ("a", "2", "mine"), ("b", "3", "mine")]


def test_from_topics_and_top() -> None:
    run = Run.from_topics([("b", ["x", "y", "z"], [1.0, 3.0, 3.0]), ("a", ["x"], np.array([0.5], np.float32))])
    assert plain(run) == {"b": [("y", 3.0), ("z", 3.0), ("x", 1.0)], "a": [("x", 0.5)]}
    assert run.tied().tolist() == [True, False]
    assert plain(run.top(1)) == {"b": [("y", 3.0)], "a": [("x", 0.5)]}
    assert plain(Run.from_topics({})) == {}
    with pytest.raises(InputError, match="NaN"):
        Run.from_topics({"1": (["x"], [math.nan])})


scores = st.one_of(
    st.floats(allow_nan=False, allow_infinity=True),
    st.floats(-20, 20, width=32),
    st.sampled_from(
        [0.0, -0.0, 1.0, 16777216.0, 16777217.0, 0.99999999, 0.99999998, 1e-45, 3.4e38, -3.4028235e38]
    ),
)


@given(st.lists(st.one_of(scores, st.just(math.nan)), max_size=30))
@settings(deadline=None, max_examples=200)
def test_ranked_is_a_total_order(values: list[float]) -> None:
    order, final = ranked(values)
    assert sorted(order.tolist()) == list(range(len(values)))
    single = final.astype(np.float32)
    assert np.isfinite(single).all() and (np.diff(single) < 0).all()
    keys = [(math.isnan(values[i]), 0.0 if math.isnan(values[i]) else -values[i], i) for i in order.tolist()]
    assert keys == sorted(keys)


def test_separation_changes_as_little_as_possible() -> None:
    before = np.array([3.1, 3.1, 2.0, -1.0])
    after = separated(before)
    assert after[[0, 2, 3]].tolist() == [3.1, 2.0, -1.0]
    assert after[1] == np.nextafter(np.float32(3.1), np.float32(-1))


@given(st.lists(st.tuples(scores, st.integers(0, 3)), min_size=1, max_size=25))
@settings(deadline=None, max_examples=60)
def test_every_evaluator_sees_one_order(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[float, int]]
) -> None:
    path = tmp_path_factory.getbasetemp() / "property.run"
    ids = [f"d{i * 7 % 25}" for i in range(len(rows))]
    values = [score for score, _ in rows]
    write_run(path, [("q", ids, values)])
    order = sorted(range(len(rows)), key=lambda i: (-values[i], i))
    grades = [rows[i][1] for i in order]
    assert list(read_run(path)["q"][0]) == [ids[i] for i in order]
    gain = sum(g / math.log2(r + 2) for r, g in enumerate(grades[:10]))
    ideal = sum(g / math.log2(r + 2) for r, g in enumerate(sorted(grades, reverse=True)[:10]))
    qrels = {"q": {ids[i]: rows[i][1] for i in range(len(rows))}}
    text = [line.split() for line in path.read_text().splitlines()]
    run = {"q": {row[2]: float(row[4]) for row in text}}
    by_trec = pytrec_eval.RelevanceEvaluator(qrels, {"ndcg_cut.10"}).evaluate(run)["q"]["ndcg_cut_10"]
    measure = ir_measures.nDCG @ 10
    by_ir_measures = ir_measures.calc_aggregate([measure], qrels, ir_measures.read_trec_run(str(path)))[measure]
    expected = gain / ideal if ideal else 0.0
    assert by_trec == pytest.approx(expected, abs=1e-9)
    assert by_ir_measures == pytest.approx(expected, abs=1e-9)
