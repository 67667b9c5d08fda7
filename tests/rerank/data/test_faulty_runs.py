"""Faults of users' runs, through `sparring rerank`: the exit code, the message, nothing half-written."""

from __future__ import annotations

import gzip
import random

import pytest
import yaml
from sparring.rerank.data.runs import read_run
from tiny_models import sentence
from worlds import World


@pytest.mark.parametrize(
    "line,message",
    [
        pytest.param("q1 Q0 d20 9 0.5", "expected 6 fields (qid Q0 docid rank score tag), found 5", id="01-five-fields"),
        pytest.param("q1 Q0 d20 9 0.5 a tag", "expected 6 fields (qid Q0 docid rank score tag), found 7", id="01-seven"),
        pytest.param("q1 Q0 d20 9 abc bm25", "score 'abc' is not a number", id="02-word"),
        pytest.param("q1 Q0 d20 9 0,9 bm25", "score '0,9' is not a number (a decimal comma? write a point)", id="02-comma"),
        pytest.param("q1\tQ0\td20\t9\t\tbm25", "found 5", id="02-empty"),
        pytest.param("q1 Q0 d20 9 nan bm25", "score is NaN", id="03-nan"),
        pytest.param("q1 Q0 d\u00a020 9 0.5 bm25", "docid 'd\\xa020' holds U+00A0", id="13-nbsp"),
        pytest.param("q1 Q0 d\x0020 9 0.5 bm25", "holds U+0000", id="14-nul"),
    ],
)  # fmt: skip
def test_fault_01_02_03_13_14_bad_run_lines(world: World, line: str, message: str) -> None:
    world.lines.insert(16, line)
    path = world.write("first.run", world.run())
    assert world.refuses(f"{path}:17: ") and message in world.errors
    before = [
        tuple(row.split()[2] for row in world.lines if row.startswith(f"q{t} ") and row != line) for t in range(3)
    ]
    after = world.reranked("--on-error", "skip")
    assert f"1 lines of {path} were skipped" in world.errors and f"{path}:17: " in world.errors
    assert [sorted(after[f"q{t}"]) for t in range(3)] == [sorted(ids) for ids in before]


def test_fault_04_infinite_scores_are_order_only(world: World) -> None:
    world.lines[0], world.lines[7] = "q0 Q0 d00 1 inf bm25", "q0 Q0 d07 8 -inf bm25"
    world.write("first.run", world.run())
    after = world.reranked("--depth", "2")
    assert "2 infinite scores: they count for the order only" in world.errors
    assert set(after["q0"][:2]) == {"d00", "d01"} and after["q0"][-1] == "d07"
    assert "inf" not in (world.folder / "out.run").read_text()


def test_fault_05_duplicates_stop_unless_told_which_to_keep(world: World) -> None:
    world.lines.append("q0 Q0 d03 9 20 bm25")
    path = world.write("first.run", world.run())
    assert world.refuses(f"{path}:25: document d03 of topic q0 is on line 4 already")
    assert "max" in world.errors and "first" in world.errors
    assert "d03" in world.reranked("--dedup", "max", "--depth", "1")["q0"][0]
    assert "1 duplicate lines were dropped" in world.errors
    assert world.reranked("--dedup", "first", "--depth", "1")["q0"][0] == "d00"
    assert world.evaluate() == 5 and world.evaluate("--dedup", "max") == 0


def test_fault_06_scores_win_over_ranks(world: World) -> None:
    world.lines[0], world.lines[1] = "q0 Q0 d00 1 1.5 bm25", "q0 Q0 d01 2 9.5 bm25"
    world.write("first.run", world.run())
    assert world.reranked("--depth", "1")["q0"][0] == "d01"
    assert world.errors.count("the rank column contradicts the scores in 1 of 3 topics: scores decide") == 1


def test_fault_07_ties_follow_one_rule_and_are_reported(world: World) -> None:
    world.lines[:8] = [f"q0 Q0 d{7 - i:02} {i + 1} 1.0 bm25" for i in range(8)]
    random.Random(0).shuffle(world.lines)
    world.write("first.run", world.run())
    assert world.reranked("--depth", "1")["q0"] == ("d07", "d06", "d05", "d04", "d03", "d02", "d01", "d00")
    assert "tied scores in 1 of 3 topics: ordered by rank, then docid" in world.errors
    assert "tie_rate" in world.meta
    assert world.evaluate() == 0 and "tied scores in 1 of 3 topics" in world.errors


@pytest.mark.parametrize("name", ["out.run", "out.run.gz"])
def test_fault_10_comments_are_written_only_when_asked_for(world: World, name: str) -> None:
    plain = world.reranked()
    output = ("--embed-metadata", "--output", str(world.folder / name))
    words = ["rerank", "--run", str(world.folder / "first.run"), "--dataset", str(world.folder), "--overwrite"]
    assert world.call(*words, "--model", str(world.model), "--dtype", "float32", *output) == 0
    raw = (world.folder / name).read_bytes()
    text = gzip.decompress(raw).decode() if name.endswith(".gz") else raw.decode()
    comments = [line.removeprefix("# ") for line in text.splitlines() if line.startswith("#")]
    assert (comments[0], comments[-1]) == ("ir_metadata.start", "ir_metadata.end")
    assert yaml.safe_load("\n".join(comments[1:-1]))["method"]["model"] == str(world.model)
    run = read_run(world.folder / name)
    assert {qid: run[qid][0] for qid in run} == plain


def test_fault_15_topics_without_a_query(world: World) -> None:
    world.lines += [f"x{i} Q0 d00 1 1 bm25" for i in range(7)]
    world.write("first.run", world.run())
    assert world.refuses("7 of 10 topics of the run are not among the queries")
    assert "x0, x1, x2, x3, x4 and 2 more" in world.errors
    assert set(world.reranked("--allow-missing-queries")) == {"q0", "q1", "q2"}


def test_fault_16_a_topic_without_candidates(world: World) -> None:
    world.lines = [line.replace("q1 Q0 d", "q1 Q0 gone") for line in world.lines]
    world.write("first.run", world.run())
    assert set(world.reranked("--missing-limit", "1")) == {"q0", "q2"}
    assert "1 topics without candidates: q1" in world.errors
    assert world.evaluate(run="out.run") == 0 and "1 of 3 judged topics are missing (q1)" in world.errors


def test_fault_17_documents_that_the_collection_lacks(world: World) -> None:
    world.documents |= {f"e{i:03}": sentence(random.Random(i), 6) for i in range(200)}
    world.write_documents()
    extra = [f"q2 Q0 e{i:03} {i + 10} {-i - 1} bm25" for i in range(200)]
    world.lines = [*world.lines[:2], "q0 Q0 gone1 9 7.5 bm25", "q0 Q0 gone2 9 7.2 bm25", *world.lines[2:], *extra]
    world.write("first.run", world.run())
    after = world.reranked("--depth", "300")
    assert after["q0"][-2:] == ("gone1", "gone2") and len(after["q0"]) == 10
    listed = (world.folder / "out.run.missing_docs.tsv").read_text()
    assert listed == "qid\tdocid\nq0\tgone1\nq0\tgone2\n"
    (world.folder / "out.run.missing_docs.tsv").unlink()
    (world.folder / "out.run.meta.yaml").unlink()
    assert world.refuses("2 of 28 candidates (7.1%) are not in the collection", "--depth", "10")
