"""The main job from the command line, on a tiny collection and tiny random models: what is written, what is refused."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import yaml
from sparring.eval.measures.evaluation import score_runs
from sparring.eval.measures.qrels import read_qrels
from sparring.rerank.cli import main
from sparring.rerank.data.runs import read_run
from tiny_commands import rerank, write_collection
from tiny_models import save_classifier


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_classifier(tmp_path_factory.mktemp("model") / "tiny", "bert")


@pytest.fixture(scope="module")
def collection(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_collection(tmp_path_factory.mktemp("collection"))


def test_rerank_writes_a_valid_run_and_its_meta_file(collection: Path, model: Path, tmp_path: Path) -> None:
    assert rerank(collection, model, tmp_path / "out.run", "--depth", "8") == 0
    before, after = read_run(collection / "first.run"), read_run(tmp_path / "out.run")
    for qid in before.topics():
        old, (new, scores) = before[qid][0], after[qid]
        assert sorted(new[:8]) == sorted(old[:8]) and new[8:] == old[8:]
        assert (np.diff(scores.astype(np.float32)) < 0).all()
    meta = yaml.safe_load((tmp_path / "out.run.meta.yaml").read_text())
    assert meta["method"]["calls"] == 32 and meta["method"]["schedule"] == "pointwise"
    assert meta["data"]["inputs"]["run"]["sha256"] and meta["method"]["tokens"] > 0
    assert {p.name for p in tmp_path.iterdir()} == {"out.run", "out.run.meta.yaml"}


@pytest.mark.parametrize(
    "flags",
    [
        ("--schedule", "random(rate=0.5)", "--aggregator", "bradley_terry"),
        ("--schedule", "heapsort(k=3)", "--order", "both"),
        ("--schedule", "bayes(calls=20)", "--budget", "20"),
        ("--schedule", "blocks(size=4)", "--aggregator", "pagerank"),
        ("--interpolate", "0.3"),
        ("--score-transform", "sigmoid"),
        ("--passages", "maxp(tokens=8, stride=4)"),
    ],
    ids=lambda flags: flags[1],
)
def test_rerank_with_every_kind_of_flag(
    collection: Path, model: Path, tmp_path: Path, flags: tuple[str, ...]
) -> None:
    outputs = [tmp_path / "a.run", tmp_path / "b.run"]
    for output in outputs:
        assert rerank(collection, model, output, "--tag", "x", *flags) == 0
    assert outputs[0].read_bytes() == outputs[1].read_bytes()
    run = read_run(outputs[0])
    assert [len(run[qid][0]) for qid in run.topics()] == [12] * 4


def test_a_named_ledger_is_kept_and_used(
    collection: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ledger = str(tmp_path / "l.ledger")
    assert rerank(collection, model, tmp_path / "a.run", "--ledger", ledger) == 0
    assert rerank(collection, model, tmp_path / "b.run", "--ledger", ledger, "--tag", "bert-pointwise") == 0
    assert "48 outcomes came from" in capsys.readouterr().err
    assert read_run(tmp_path / "a.run")["q0"][0] == read_run(tmp_path / "b.run")["q0"][0]


def test_dry_run_counts_and_writes_nothing(
    collection: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert rerank(collection, model, tmp_path / "out.run", "--dry-run") == 0
    said = capsys.readouterr().out
    assert "4 topics, 48 candidates" in said and "48 groups in the first round, about" in said
    assert not list(tmp_path.iterdir())


def test_an_existing_output_is_safe(collection: Path, model: Path, tmp_path: Path) -> None:
    (tmp_path / "out.run").write_text("precious")
    assert rerank(collection, model, tmp_path / "out.run") == 2
    assert (tmp_path / "out.run").read_text() == "precious"
    assert rerank(collection, model, tmp_path / "out.run", "--overwrite") == 0


@pytest.mark.parametrize(
    "flags,code,message",
    [
        (("--schedule", "windw"), 2, "did you mean 'window'"),
        (("--aggregator", "pagerang"), 2, "did you mean 'pagerank'"),
        (("--model", "/no/such/model"), 4, "/no/such/model"),
        (("--dataset", "/no/such/folder"), 4, "/no/such/folder"),
        (("--run", "/no/such/run"), 4, "/no/such/run"),
        (("--interpolate", "2"), 2, "not a weight"),
        (("--depth", "0"), 2, "--depth"),
        (("--passages", "maxq"), 2, "did you mean 'maxp'"),
        (("--tag", "two words"), 2, "one word"),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)
def test_wrong_flags_are_said_before_any_work(
    collection: Path, model: Path, tmp_path: Path, flags: tuple[str, ...], code: int, message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    given = {"--run": collection / "first.run", "--dataset": collection, "--model": model} | {flags[0]: flags[1]}
    words = [str(word) for pair in given.items() for word in pair]
    assert main(["rerank", *words, "--output", str(tmp_path / "out.run")]) == code
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out.run").exists()


def test_a_topic_without_query_stops_unless_allowed(collection: Path, model: Path, tmp_path: Path) -> None:
    queries = tmp_path / "queries.tsv"
    queries.write_text((collection / "queries.tsv").read_text().split("\n", 1)[1])
    flags = ("--queries", str(queries))
    assert rerank(collection, model, tmp_path / "out.run", *flags) == 5
    assert rerank(collection, model, tmp_path / "out.run", *flags, "--allow-missing-queries") == 0
    assert read_run(tmp_path / "out.run").topics() == ["q1", "q2", "q3"]


def test_compare_then_aggregate_is_rerank_in_two_steps(
    collection: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    preferences = tmp_path / "p.parquet"
    schedule = ("--schedule", "random(rate=0.3)", "--depth", "12")
    assert rerank(collection, model, preferences, *schedule, command="compare") == 0
    assert "comparisons" in capsys.readouterr().out
    first = ["--run", str(collection / "first.run")]
    flags = [
        "--preferences",
        str(preferences),
        "--aggregator",
        "bradley_terry",
        "--output",
        str(tmp_path / "two.run"),
    ]
    assert main(["aggregate", *flags, *first]) == 0
    assert rerank(collection, model, tmp_path / "one.run", *schedule, "--aggregator", "bradley_terry") == 0
    one, two = read_run(tmp_path / "one.run"), read_run(tmp_path / "two.run")
    for qid in one.topics():
        assert one[qid][0] == two[qid][0]


def test_evaluate_reads_what_rerank_wrote(
    collection: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert rerank(collection, model, tmp_path / "out.run") == 0
    runs = [str(collection / "first.run"), str(tmp_path / "out.run")]
    assert main(["evaluate", str(collection / "qrels.txt"), *runs, "-m", "nDCG@10"]) == 0
    shown = capsys.readouterr().out
    qrels = read_qrels(collection / "qrels.txt")
    for name, value in zip(runs, score_runs(qrels, [read_run(Path(run)) for run in runs], "nDCG@10"), strict=True):
        assert re.search(rf"{re.escape(Path(name).name)}.*{value:.4f}", shown)


def test_arena_votes_become_a_table(tmp_path: Path) -> None:
    votes = tmp_path / "votes.csv"
    votes.write_text("left,right,winner\nA 1,B,left\nB,C,left\nA 1,C,tie\n")
    flags = ["aggregate", "--preferences", str(votes), "--output"]
    assert main([*flags, str(tmp_path / "out.tsv")]) == 0
    assert [line.split("\t")[1] for line in (tmp_path / "out.tsv").read_text().splitlines()[1:]] == [
        "A 1",
        "B",
        "C",
    ]
    assert main([*flags, str(tmp_path / "out.run")]) == 5
