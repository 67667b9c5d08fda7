"""`sparring train` of bi-encoders and poly-encoders: measured, resumed, shared between processes."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sparring.rerank.cli import main
from sparring.rerank.engine.model import ScorerOptions
from sparring.train.data.mixture import Mixture, sources
from sparring.train.retrievers.data import ColumnCollator, EncodedCollator
from sparring.train.retrievers.losses import parse
from tiny_models import save_bi_encoder, save_classifier, sentence
from tiny_training import log_of
from torch import Tensor


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_bi_encoder(tmp_path_factory.mktemp("start"), prompts=True)


def arguments(collection: Path, start: Path, output: Path, *more: str) -> list[str]:
    """A training of four steps, measured and saved every second one; ``more`` replaces flags."""
    flags = [
        "--family=bi-encoder", f"--model-name-or-path={start}", f"--output-dir={output}", "--list-size=5",
        "--per-device-train-batch-size=3", "--max-steps=4", "--eval-steps=2", "--save-steps=2", "--logging-steps=1",
        "--max-length=32", f"--dev-run={collection}/first.run", f"--dev-dataset={collection}", "--dev-holdout=3",
        "--device=cpu", "--dtype=float32", "--learning-rate=1e-3", "--warmup-ratio=0",
    ]  # fmt: skip
    replaced = {flag.partition("=")[0] for flag in more}
    kept = [flag for flag in flags if flag.partition("=")[0] not in replaced]
    return ["train", *kept, *more, "--data", f"judged(dataset='{collection}', holdout=3)"]


@pytest.fixture(scope="module")
def trained(collection: Path, start: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("trained") / "model"
    assert main(arguments(collection, start, output, "--loss=kl")) == 0
    return output


def test_retrievers_are_measured_before_and_during_training(trained: Path) -> None:
    assert [int(row["step"]) for row in log_of(trained) if row["value"]] == [0, 2, 4]
    assert all(float(row["constant_loss"]) > 0 for row in log_of(trained) if row["loss"])
    assert int(log_of(trained)[-1]["pairs"]) == 4 * 3 * 5
    card = (trained / "README.md").read_text()
    assert "judged(" in card and "nDCG@10" in card and "SentenceTransformer(" in card


def test_saved_retriever_gives_the_same_vectors_everywhere(trained: Path, start: Path) -> None:
    from safetensors.torch import load_file
    from sentence_transformers import SentenceTransformer
    from sparring.rerank.models.loading import load
    from sparring.rerank.search.bi_encoder import BiEncoder

    texts = [sentence(random.Random(i), 3 + 4 * i) for i in range(5)]
    plain = SentenceTransformer(str(trained / "checkpoints/checkpoint-4"), device="cpu")
    assert plain.prompts == SentenceTransformer(str(start), device="cpu").prompts
    assert any(
        not torch.equal(value, load_file(start / "model.safetensors")[name])
        for name, value in load_file(trained / "checkpoints/checkpoint-4/model.safetensors").items()
    )
    expected = plain.encode_document(texts, normalize_embeddings=True)
    folder = str(trained / "checkpoints/checkpoint-4")
    np.testing.assert_allclose(BiEncoder(folder, device="cpu").documents(texts), expected, atol=1e-5)
    scorer = load(folder).scorer(ScorerOptions(device="cpu", dtype="float32"))  # type: ignore[union-attr]
    np.testing.assert_allclose(scorer.encode(texts), plain.encode_document(texts), atol=1e-5)
    SentenceTransformer(str(trained), device="cpu")


LOSSES = [
    "in_batch(infonce)", "in_batch(multi_similarity, scale=1)", "in_batch(nce)", "pair", "pair_distill",
    "MultipleNegativesRankingLoss", "CachedMultipleNegativesRankingLoss(mini_batch_size=4)", "MarginMSELoss",
    "DistillKLDivLoss",
]  # fmt: skip


@pytest.mark.parametrize("loss", LOSSES)
def test_training_lowers_every_loss(collection: Path, start: Path, loss: str) -> None:
    """Twelve steps on one batch, through the library's collator and features."""
    from sentence_transformers.sentence_transformer.data_collator import SentenceTransformerDataCollator
    from sparring.train.retrievers.model import BiEncoderKind, Retriever
    from sparring.train.retrievers.training import Objective, RetrieverTrainer

    retriever, component = Retriever(str(start), BiEncoderKind(), 32, 0.0), parse(loss)
    columns = SentenceTransformerDataCollator(retriever.model.preprocess)
    if hasattr(component, "module"):
        collator: Any = ColumnCollator(columns, 4, component.labelled)
        module = component.module(retriever.model)
    else:
        collator, module = EncodedCollator(columns), Objective(retriever, component, 100, False)
    mixture = Mixture([sources.parse(f"judged(dataset='{collection}')")], 4, seed=0, total=4)
    features, labels = RetrieverTrainer.collect_features(
        None, collator([{"example": mixture[p]} for p in range(4)])
    )
    optimizer = torch.optim.AdamW(module.train().parameters(), lr=1e-3)
    values = []
    for _ in range(12):
        value = module([dict(part) for part in features], labels)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        values.append(float(value.detach()))
    assert values[-1] < 0.9 * values[0]


@pytest.mark.slow
@pytest.mark.parametrize("loss", LOSSES)
def test_every_loss_is_trained_by_the_command(collection: Path, start: Path, tmp_path: Path, loss: str) -> None:
    assert main(arguments(collection, start, tmp_path / "model", f"--loss={loss}")) == 0
    assert len([row for row in log_of(tmp_path / "model") if row["loss"]]) == 4


@pytest.mark.slow
def test_two_processes_train_one_retriever(collection: Path, start: Path, tmp_path: Path) -> None:
    """The lists of a step may be spread over processes: the same losses and measurements, up to rounding."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--master-port=29672"]
    flags = ["--dropout=0", "--loss=kl", "--per-device-train-batch-size=1"]
    command = [*launcher, "-m", "sparring.rerank.cli", *arguments(collection, start, tmp_path / "two", *flags)]
    subprocess.run(command, check=True, timeout=100)
    flags[2] = "--per-device-train-batch-size=2"
    assert main(arguments(collection, start, tmp_path / "one", *flags)) == 0
    one, two = log_of(tmp_path / "one"), log_of(tmp_path / "two")
    for name in ("loss", "constant_loss", "value"):
        np.testing.assert_allclose(*([float(row[name] or 0) for row in rows] for rows in (one, two)), atol=1e-4)


def test_poly_encoder_is_trained_and_reranks(collection: Path, start: Path, tmp_path: Path) -> None:
    output = tmp_path / "poly"
    flags = [
        "--family=poly-encoder(codes=5)",
        "--loss=in_batch(infonce)",
        "--max-steps=8",
        "--head-learning-rate=0.01",
    ]
    assert main(arguments(collection, start, output, *flags)) == 0
    values = [float(row["loss"]) for row in log_of(output) if row["loss"]]
    assert values[-1] < values[0]
    best = json.loads((output / "best.json").read_text())
    rerank = ["rerank", f"--run={collection}/first.run", f"--dataset={collection}", f"--model={output}"]
    assert main([*rerank, f"--output={tmp_path}/out.run", "--device=cpu", "--dtype=float32"]) == 0
    from sparring.eval.measures.qrels import read_qrels
    from sparring.rerank.data.runs import read_run
    from sparring.train.loop.development import Development

    development = Development.read(collection / "first.run", str(collection), None, 100, "nDCG@10", 3)
    assert len(read_qrels(collection / "qrels.txt").grades) == 6
    ranked = read_run(tmp_path / "out.run")
    scores = [dict(zip(*ranked[topic.qid], strict=True)) for topic in development.topics]
    flat = np.array([s[d] for s, topic in zip(scores, development.topics, strict=True) for d in topic.docids])
    assert development.value(flat) == pytest.approx(best["value"])


def test_poly_encoders_refuse_losses_that_compare_vectors(
    collection: Path, start: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for loss in ("pair", "MultipleNegativesRankingLoss"):
        assert main(arguments(collection, start, tmp_path / "no", "--family=poly-encoder", f"--loss={loss}")) == 2
        assert "a poly-encoder has none of its query" in capsys.readouterr().err
        assert not (tmp_path / "no").exists()


def test_resumed_training_sees_the_same_data(trained: Path, collection: Path, start: Path, tmp_path: Path) -> None:
    import shutil

    from safetensors.torch import load_file

    output = tmp_path / "model"
    assert main(arguments(collection, start, output, "--loss=kl")) == 0
    shutil.rmtree(output / "checkpoints/checkpoint-4")  # as if it had been killed after step 2
    assert main(arguments(collection, start, output, "--loss=kl", "--resume")) == 0
    for name, weights in load_file(trained / "checkpoints/checkpoint-4/model.safetensors").items():
        found = load_file(output / "checkpoints/checkpoint-4/model.safetensors")[name]
        torch.testing.assert_close(found, weights, rtol=0, atol=1e-6)
    rows = [[(row["step"], row["loss"][:6], row["value"][:6]) for row in log_of(f)] for f in (output, trained)]
    assert rows[0] == rows[1]


def test_plain_encoders_become_retrievers(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    from sentence_transformers import SentenceTransformer
    from sparring.train.retrievers.model import BiEncoderKind, Retriever

    retriever = Retriever(str(save_classifier(tmp_path / "plain", "bert")), BiEncoderKind(), 32, 0.3)
    assert "mean pooling" in caplog.text and retriever.body[0].auto_model.config.hidden_dropout_prob == 0.3
    retriever.save(tmp_path / "model")
    model = SentenceTransformer(str(tmp_path / "model"), device="cpu")
    assert type(model[1]).__name__ == "Pooling" and model.max_seq_length == 32
    np.testing.assert_allclose(model.encode(["river"]), retriever.body.encode(["river"]), atol=1e-6)


def test_gradient_caching_changes_no_gradient(start: Path) -> None:
    from sparring.train.retrievers.model import VECTOR, BiEncoderKind, Retriever, embed

    texts = [sentence(random.Random(i), 3 + 4 * i) for i in range(6)]
    found: list[Tensor] = []
    calls = [0, 0]
    for caching in (False, True):
        model = Retriever(str(start), BiEncoderKind(), 32, 0.2).model.train()
        for module in model.modules():
            module.register_forward_pre_hook(
                lambda *_, caching=caching: calls.__setitem__(caching, calls[caching] + 1)
            )
        torch.manual_seed(3)
        vectors = embed(model, model.preprocess(texts), VECTOR, 50, caching)
        (vectors**3).sum().backward()
        found.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]))
    torch.testing.assert_close(found[0], found[1], rtol=0, atol=1e-6)
    assert calls[1] > 1.5 * calls[0]  # it is computed twice indeed
