"""`sparring mine`: which documents become negatives, the same as sentence-transformers', and what training reads."""

from __future__ import annotations

import json
import random
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from sparring.rerank.cli import main
from sparring.rerank.data.datasets import open_dataset
from sparring.train.data.hard_negatives import Choice
from sparring.train.sources.lists import ScoredLists
from sparring.train.sources.triples import Triples
from tiny_models import save_bi_encoder, save_classifier, sentence


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_bi_encoder(tmp_path_factory.mktemp("bi"))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_classifier(tmp_path_factory.mktemp("model") / "tiny", "bert")


@pytest.fixture(scope="module")
def collection(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 documents (d39 repeats d00), 4 queries with two positives and a judged negative each, a run."""
    folder = tmp_path_factory.mktemp("collection")
    rng = random.Random(5)
    texts = {f"d{i:02}": sentence(rng, rng.randint(4, 20)) for i in range(39)}
    texts["d39"] = texts["d00"].upper()
    rows = [json.dumps({"id": name, "text": text}) for name, text in texts.items()]
    (folder / "corpus.jsonl").write_text("\n".join(rows) + "\n")
    (folder / "queries.tsv").write_text("".join(f"q{i}\t{sentence(rng, 6)}\n" for i in range(4)))
    qrels = [f"q{i} 0 d{i * 2 + j:02} {2 - j}\n" for i in range(4) for j in range(3)]
    (folder / "qrels.txt").write_text("".join(qrels))
    run = [f"q{i} Q0 d{place:02} {place + 1} {40 - place} bm25\n" for i in range(4) for place in range(40)]
    (folder / "first.run").write_text("".join(run))
    return folder


def mine(collection: Path, output: Path, *flags: str) -> int:
    return main(["mine", "--dataset", str(collection), "--output", str(output), "--dtype", "float32", *flags])


def lists(path: Path) -> dict[str, tuple[list[str], list[float]]]:
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    return {row["qid"]: (row["docids"], row["scores"]) for row in rows}


def test_a_window_of_a_run_without_positives_and_their_copies(collection: Path, tmp_path: Path) -> None:
    output = tmp_path / "hard.jsonl"
    flags = ("--run", str(collection / "first.run"), "--first", "2", "--last", "4", "--negatives", "9")
    assert mine(collection, output, *flags) == 0
    found = lists(output)
    assert found["q0"] == (["d00", "d01", "d03", "d04", "d05"], [2, 1, 0, 0, 0])
    assert found["q1"] == (["d02", "d03", "d01", "d04", "d05"], [2, 1, 0, 0, 0])
    assert mine(collection, output, *flags[:2], "--negatives", "99", "--overwrite") == 0
    assert "d39" not in lists(output)["q0"][0] and "d39" in lists(output)["q1"][0]
    rows = ScoredLists(str(output), str(collection)).rows()
    assert len(rows) == 4 and rows[0].labels.max() == 2


def test_triples_are_what_training_reads(collection: Path, tmp_path: Path) -> None:
    output = tmp_path / "t.tsv"
    assert mine(collection, output, "--run", str(collection / "first.run"), "--negatives", "2") == 0
    assert output.read_text().splitlines()[:3] == ["q0\td00\td02", "q0\td00\td03", "q0\td01\td02"]
    rows = Triples(str(output), str(collection)).rows()
    assert [row.labels.tolist() for row in rows] == [[1, 0, 0, 1]] * 4


def test_an_index_and_its_encoder_give_the_same(collection: Path, encoder: Path, tmp_path: Path) -> None:
    index = tmp_path / "IX"
    assert main(["index", "--dataset", str(collection), "--model", str(encoder), "--output", str(index)]) == 0
    flags = ("--negatives", "5", "--labels", "scores", "--relative-margin", "0.01")
    assert mine(collection, tmp_path / "a.jsonl", "--index", str(index), *flags) == 0
    assert mine(collection, tmp_path / "b.jsonl", "--model", str(encoder), *flags) == 0
    assert (tmp_path / "a.jsonl").read_bytes() == (tmp_path / "b.jsonl").read_bytes()
    for docids, scores in lists(tmp_path / "a.jsonl").values():
        lowest = min(scores[:2])
        assert len(docids) == len(scores) and all(s <= lowest - 0.01 * abs(lowest) for s in scores[2:])


@pytest.mark.parametrize("options", [{"relative_margin": 0.003}, {"absolute_margin": 0.005}, {}])
def test_the_choice_is_that_of_sentence_transformers(
    collection: Path, encoder: Path, tmp_path: Path, options: dict[str, float]
) -> None:
    import datasets
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.util import mine_hard_negatives

    data = open_dataset(str(collection))
    texts = {docid: text for docid, text in data.documents.items() if docid != "d39"}
    pairs = [(data.queries[f"q{i}"], texts[f"d{i * 2 + j:02}"]) for i in range(4) for j in range(2)]
    mined = mine_hard_negatives(
        datasets.Dataset.from_dict({"query": [q for q, _ in pairs], "doc": [d for _, d in pairs]}),
        SentenceTransformer(str(encoder), device="cpu", local_files_only=True),
        corpus=list(texts.values()), num_negatives=4, range_max=37, verbose=False,
        output_format="triplet", **options,
    )  # fmt: skip
    theirs: dict[str, set[str]] = {}
    for row in mined:
        theirs.setdefault(row["query"], set()).add(row["negative"])
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in options.items()]
    folder = tmp_path / "c"
    folder.mkdir()
    rows = [json.dumps({"id": name, "text": text}) for name, text in texts.items()]
    (folder / "corpus.jsonl").write_text("\n".join(rows) + "\n")
    for name in ("queries.tsv", "qrels.txt"):
        (folder / name).write_text((collection / name).read_text())
    output = tmp_path / "a.jsonl"
    assert mine(folder, output, "--model", str(encoder), "--negatives", "4", *flags, "--last", "37") == 0
    found = lists(output)
    assert {data.queries[q]: {texts[d] for d in docids[2:]} for q, (docids, _) in found.items()} == theirs


def test_a_cross_encoder_filters_and_labels(
    collection: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ("--run", str(collection / "first.run"), "--cross-encoder", str(model), "--labels", "scores")
    ledger = ("--ledger", str(tmp_path / "l"))
    assert mine(collection, tmp_path / "a.jsonl", *flags, "--negatives", "40", *ledger) == 0
    everything = lists(tmp_path / "a.jsonl")
    assert mine(collection, tmp_path / "b.jsonl", *flags, "--absolute-margin", "0.05", *ledger) == 0
    assert "outcomes came from" in capsys.readouterr().err
    for qid, (docids, scores) in lists(tmp_path / "b.jsonl").items():
        known = dict(zip(*everything[qid], strict=True))
        assert scores == [known[docid] for docid in docids]
        assert max(scores[2:]) <= min(scores[:2]) - 0.05
    meta = yaml.safe_load((tmp_path / "b.jsonl.meta.yaml").read_text())["method"]
    assert meta["removed"]["absolute_margin"] > 0 and meta["cross_encoder"] == str(model)


numbers = st.lists(st.floats(-5, 5), min_size=1, max_size=30).map(np.array)


@settings(deadline=None, max_examples=60)
@given(
    scores=numbers,
    positives=numbers,
    margin=st.none() | st.floats(0, 1),
    relative=st.none() | st.floats(0, 0.5),
    low=st.none() | st.floats(-3, 0),
    high=st.none() | st.floats(0, 3),
    how=st.sampled_from(["top", "random"]),
)
def test_what_is_chosen_meets_every_condition(
    scores: np.ndarray, positives: np.ndarray, margin: float | None, relative: float | None,
    low: float | None, high: float | None, how: str,
) -> None:  # fmt: skip
    choice = Choice(5, 1, 100, high, low, margin, relative, how)
    removed: Counter[str] = Counter()
    chosen = choice(scores, positives, np.random.default_rng(0), removed)
    lowest = positives.min()
    fits = np.ones(len(scores), bool)
    for bound, holds in (
        (margin, scores + (margin or 0) <= lowest), (relative, scores <= lowest - abs(lowest) * (relative or 0)),
        (low, scores >= (low or 0)), (high, scores <= (high or 0)),
    ):  # fmt: skip
        fits &= holds if bound is not None else True
    assert fits[chosen].all() and len(set(chosen.tolist())) == len(chosen) == min(5, fits.sum())
    assert (np.diff(scores[chosen]) <= 0).all()
    assert removed.total() == (~fits).sum()
    if how == "top" and len(chosen):
        assert scores[chosen].min() >= np.sort(scores[fits])[-len(chosen) :].min()


@pytest.mark.parametrize(
    "flags,code,message",
    [
        ((), 2, "nothing to mine from"),
        (("--run", "RUN", "--model", "x"), 2, "leave --index and --model out"),
        (("--run", "RUN", "--relative-margin", "0.1"), 2, "--cross-encoder"),
        (("--run", "RUN", "--first", "5", "--last", "4"), 2, "is empty"),
        (("--run", "RUN", "--negatives", "0"), 2, "at least one"),
        (("--run", "RUN", "--output", "x.run"), 2, ".jsonl"),
        (("--run", "RUN", "--positive", "9"), 5, "lower --positive"),
        (("--run", "RUN", "--first", "90", "--last", "99"), 5, "no negative is left"),
        (("--run", "RUN", "--max-score", "-1"), 5, "max_score"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_what_cannot_work_is_said(
    collection: Path, tmp_path: Path, flags: tuple[str, ...], code: int, message: str,
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    flags = tuple(str(collection / "first.run") if flag == "RUN" else flag for flag in flags)
    given = () if "--output" in flags else ("--output", "x.jsonl")
    assert main(["mine", "--dataset", str(collection), *given, *flags]) == code
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_topics_with_instructions_are_not_scored_without_them(
    collection: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    topics = tmp_path / "topics.jsonl"
    rows = [{"id": f"q{i}", "text": "river bread", "instruction": "find recipes"} for i in range(4)]
    topics.write_text("".join(json.dumps(row) + "\n" for row in rows))
    flags = ("--run", str(collection / "first.run"), "--queries", str(topics), "--cross-encoder", str(model))
    assert mine(collection, tmp_path / "hard.jsonl", *flags) == 2
    assert "4 topics carry an instruction" in capsys.readouterr().err
