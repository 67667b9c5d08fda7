"""`sparring distill`: lists and pair probabilities that training reads, sampling strategies, and exact resumption."""

from __future__ import annotations

import gzip
import json
import random
from pathlib import Path

import numpy as np
import pytest
import yaml
from sparring.rerank import registry
from sparring.rerank.cli import main
from sparring.rerank.data.datasets import open_dataset
from sparring.rerank.data.preferences import read_preferences
from sparring.rerank.data.runs import read_run
from sparring.train.data.samplers import acceptance, samplers
from sparring.train.sources.lists import ScoredLists
from tiny_models import save_classifier, sentence


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_classifier(tmp_path_factory.mktemp("model") / "tiny", "bert")


@pytest.fixture(scope="module")
def collection(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 documents, 3 topics, a first-stage run of depth 12."""
    folder = tmp_path_factory.mktemp("collection")
    rng = random.Random(3)
    names = [f"d{i:02}" for i in range(40)]
    documents = [json.dumps({"id": name, "text": sentence(rng, rng.randint(4, 20))}) for name in names]
    (folder / "corpus.jsonl").write_text("\n".join(documents) + "\n")
    (folder / "queries.tsv").write_text("".join(f"q{i}\t{sentence(rng, 5)}\n" for i in range(3)))
    with (folder / "first.run").open("w") as stream:
        for i in range(3):
            for rank, name in enumerate(rng.sample(names, 12), 1):
                stream.write(f"q{i} Q0 {name} {rank} {3 - rank / 4} first\n")
    return folder


def distill(collection: Path, output: Path, *flags: str) -> int:
    base = ["distill", "--run", str(collection / "first.run"), "--dataset", str(collection)]
    return main([*base, "--output", str(output), "--dtype", "float32", *flags])


def lists(path: Path) -> list[dict[str, object]]:
    text = gzip.decompress(path.read_bytes()).decode() if path.suffix == ".gz" else path.read_text()
    return [json.loads(line) for line in text.splitlines()]


def test_lists_hold_the_scores_of_rerank_and_training_reads_them(
    collection: Path, model: Path, tmp_path: Path
) -> None:
    output, run = tmp_path / "t.jsonl", tmp_path / "out.run"
    assert distill(collection, output, "--model", str(model), "--depth", "8") == 0
    flags = ["--run", str(collection / "first.run"), "--dataset", str(collection), "--model", str(model)]
    assert main(["rerank", *flags, "--output", str(run), "--depth", "8", "--dtype", "float32"]) == 0
    ranked = read_run(run)
    for row in lists(output):
        docids, scores = ranked[str(row["qid"])]
        assert row["docids"] == list(docids[:8])
        np.testing.assert_allclose(row["scores"], scores[:8], atol=1e-5)
    rows = ScoredLists(str(output), str(collection)).rows()
    assert [row.qid for row in rows] == ["q0", "q1", "q2"] and {len(row.labels) for row in rows} == {8}
    meta = yaml.safe_load((tmp_path / "t.jsonl.meta.yaml").read_text())["method"]
    assert meta["labels"] == 24 and meta["fingerprint"] and meta["schedule"] == "pointwise"
    assert {p.name for p in tmp_path.iterdir() if p.name.startswith((".", "t."))} == {
        output.name,
        "t.jsonl.meta.yaml",
    }


def test_lists_with_texts_need_no_dataset(collection: Path, model: Path, tmp_path: Path) -> None:
    output = tmp_path / "t.jsonl.gz"
    assert distill(collection, output, "--model", str(model), "--texts") == 0
    (first, *_) = ScoredLists(str(output)).rows()
    data = open_dataset(str(collection))
    assert first.query == data.queries[first.qid]
    assert first.texts(np.array([1])) == (data.documents.text(first.docids[1]),)


def test_a_schedule_and_an_aggregator_can_be_the_teacher_of_a_list(
    collection: Path, model: Path, tmp_path: Path
) -> None:
    flags = ("--model", str(model), "--schedule", "all", "--aggregator", "pagerank", "--order", "given")
    assert distill(collection, tmp_path / "t.jsonl", *flags) == 0
    assert all(np.diff(row["scores"]).max() <= 0 for row in lists(tmp_path / "t.jsonl"))


def test_a_run_can_be_its_own_teacher(collection: Path, tmp_path: Path) -> None:
    run = read_run(collection / "first.run")
    assert distill(collection, tmp_path / "t.jsonl", "--depth", "5") == 0
    for row in lists(tmp_path / "t.jsonl"):
        docids, scores = run[str(row["qid"])]
        assert row["docids"] == list(docids[:5]) and row["scores"] == scores[:5].tolist()
    assert (
        distill(collection, tmp_path / "p.parquet", "--schedule", "neighbours(delta=1)", "--order", "given") == 0
    )
    said = read_preferences(tmp_path / "p.parquet", run, 100).preferences
    np.testing.assert_array_equal(said.second - said.first, 1)
    np.testing.assert_allclose(said.probability, 1 / (1 + np.exp(-0.25)), atol=1e-6)


def test_pairs_are_neighbours_in_rank(collection: Path, model: Path, tmp_path: Path) -> None:
    output = tmp_path / "p.parquet"
    assert distill(collection, output, "--model", str(model), "--schedule", "neighbours(delta=3, count=20)") == 0
    stored = read_preferences(output, read_run(collection / "first.run"), 100)
    said = stored.preferences
    assert np.diff(said.offsets).tolist() == [20] * 3
    assert set(np.abs(said.first - said.second).tolist()) == {1, 2, 3}
    assert stored.details["schedule"] == "neighbours(delta=3, count=20)"


@pytest.mark.parametrize("n", [0, 1, 2, 4, 100])
def test_neighbours_draws_distinct_near_pairs(n: int) -> None:
    groups = list(registry.schedules.parse("neighbours").rounds(np.zeros(n), np.random.default_rng(0)))
    near = [(i, j) for i in range(n) for j in range(i + 1, min(n, i + 6))]
    drawn = [tuple(pair) for group in groups for pair in group.tolist()]
    assert len(set(drawn)) == len(drawn) == min(100, len(near)) and set(drawn) <= set(near)


def test_every_sampling_strategy_proposes_for_every_topic(collection: Path, tmp_path: Path) -> None:
    run, data = read_run(collection / "first.run"), open_dataset(str(collection))
    top = samplers.parse("top(k=4)").sample(run, data, 0, "cpu")
    assert all(top[qid][0] == run[qid][0][:4] for qid in run)
    drawn = samplers.parse("random(k=10)").sample(run, data, 0, "cpu")
    again = samplers.parse("random(k=10)").sample(run, data, 0, "cpu")
    for qid in run:
        assert len(set(drawn[qid][0])) == 10 and drawn[qid][0] == again[qid][0]
    assert set(drawn["q0"][0]) != set(drawn["q1"][0])
    nested = samplers.parse("kde(gold='g.jsonl', of=random(k=3))")
    assert len(nested.sample(run, data, 0, "cpu")["q0"][0]) == 3
    assert samplers.parse(str(nested)) == nested


def test_semantic_sampling_searches_an_index(collection: Path, tmp_path: Path, model: Path) -> None:
    from tiny_models import save_bi_encoder

    encoder, index = save_bi_encoder(tmp_path), tmp_path / "IX"
    flags = ["--dataset", str(collection), "--model", str(encoder)]
    assert main(["index", *flags, "--output", str(index)]) == 0
    assert main(["search", *flags, "--output", str(tmp_path / "s.run"), "--depth", "5"]) == 0
    spec = f"semantic(index={str(index)!r}, k=5)"
    assert distill(collection, tmp_path / "t.jsonl", "--model", str(model), "--sampling", spec) == 0
    found = read_run(tmp_path / "s.run")
    assert all(set(row["docids"]) == set(found[str(row["qid"])][0]) for row in lists(tmp_path / "t.jsonl"))


def test_kde_keeps_the_smaller_of_both_densities() -> None:
    from scipy.stats import norm

    rng = np.random.default_rng(0)
    gold, silver = rng.normal(1, 1, 4000), rng.normal(-1, 1.5, 20000)
    chance = acceptance(gold, silver)
    assert chance.min() >= 0 and chance.max() == 1.0
    kept = silver[rng.random(len(silver)) < chance]
    x = np.linspace(-8, 8, 4001)
    wanted = np.minimum(norm.pdf(x, 1, 1), norm.pdf(x, -1, 1.5))
    assert kept.mean() == pytest.approx((x * wanted).sum() / wanted.sum(), abs=0.1)
    assert len(kept) / len(silver) == pytest.approx(wanted.sum() * (x[1] - x[0]), abs=0.03)


def test_kde_from_the_command_line(collection: Path, model: Path, tmp_path: Path) -> None:
    gold, output = tmp_path / "gold.jsonl", tmp_path / "t.jsonl"
    assert distill(collection, gold, "--model", str(model), "--depth", "3") == 0
    spec = f"kde(gold={str(gold)!r}, of=random(k=30))"
    assert distill(collection, output, "--model", str(model), "--sampling", spec) == 0
    kept = [score for row in lists(output) for score in row["scores"]]
    assert 0 < len(kept) < 90
    gold.write_text('{"scores": "many"}\n')
    assert distill(collection, tmp_path / "u.jsonl", "--model", str(model), "--sampling", spec) == 5


def test_a_named_ledger_answers_again(
    collection: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ("--model", str(model), "--ledger", str(tmp_path / "l"))
    assert distill(collection, tmp_path / "a.jsonl", *flags) == 0
    assert distill(collection, tmp_path / "b.jsonl", *flags) == 0
    assert "36 outcomes came from" in capsys.readouterr().err
    assert (tmp_path / "a.jsonl").read_bytes() == (tmp_path / "b.jsonl").read_bytes()


@pytest.mark.parametrize(
    "flags,code,message",
    [
        (("--output", "x.txt"), 2, ".jsonl"),
        (("--output", "x.parquet", "--texts"), 2, "for lists"),
        (("--sampling", "tops"), 2, "did you mean 'top'"),
        (("--sampling", "top(k=0)"), 2, "at least 1"),
        (("--schedule", "windw"), 2, "did you mean 'window'"),
        (("--model", "/no/such/model"), 4, "/no/such/model"),
        (("--output", "x.parquet", "--schedule", "pointwise", "--model", "MODEL"), 2, "compares nothing"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_wrong_flags_are_said_before_any_work(
    collection: Path, model: Path, tmp_path: Path, flags: tuple[str, ...], code: int, message: str,
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    flags = tuple(str(model) if flag == "MODEL" else flag for flag in flags)
    given = () if "--output" in flags else ("--output", "x.jsonl")
    base = ["distill", "--run", str(collection / "first.run"), "--dataset", str(collection)]
    assert main([*base, *given, *flags]) == code
    assert message in capsys.readouterr().err
    assert not list(tmp_path.glob("x.*"))


def test_dry_run_counts(collection: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert distill(collection, tmp_path / "t.jsonl", "--dry-run") == 0
    assert "3 topics, 36 candidates, schedule pointwise, teacher the run itself" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())
