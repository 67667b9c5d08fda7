"""A model of another kind is never taken for one that a command can use: one line says what it is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sparring.rerank.cli import main
from sparring.rerank.data.runs import read_run
from tiny_commands import write_collection
from tiny_models import SIZES, save_classifier
from tiny_modular import save_body, save_logit_score, save_modular, set_json, theirs

HIDDEN = SIZES["hidden_size"]


def dense(folder: Path) -> tuple[Any, Any]:
    from sentence_transformers.base.modules import Transformer
    from sentence_transformers.sentence_transformer.modules import Pooling

    return Transformer(str(save_body(folder / "body", "bert"))), Pooling(HIDDEN, "mean")


def splade(folder: Path) -> Path:
    from sentence_transformers import SparseEncoder
    from sentence_transformers.base.modules import Transformer
    from sentence_transformers.sparse_encoder.modules import SpladePooling
    from transformers import BertConfig, BertForMaskedLM

    body = save_body(folder / "body", "bert")
    BertForMaskedLM(BertConfig.from_pretrained(body)).save_pretrained(body)
    modules = [Transformer(str(body), transformer_task="fill-mask"), SpladePooling()]
    SparseEncoder(modules=modules, device="cpu").save_pretrained(str(folder / "model"), create_model_card=False)
    return folder / "model"


def contrastive(folder: Path) -> Path:
    from sentence_transformers import SparseEncoder
    from sentence_transformers.sparse_encoder.modules import SparseAutoEncoder

    modules = [*dense(folder), SparseAutoEncoder(HIDDEN, 64, 8)]
    SparseEncoder(modules=modules, device="cpu").save_pretrained(str(folder / "model"), create_model_card=False)
    return folder / "model"


def multi_vector(folder: Path) -> Path:
    from sentence_transformers import MultiVectorEncoder

    model = MultiVectorEncoder(str(save_body(folder / "body", "bert")), device="cpu")
    model.save_pretrained(str(folder / "model"), create_model_card=False)
    return folder / "model"


def router(folder: Path) -> Path:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.base.modules import Router

    paths = {"query": list(dense(folder / "a")), "document": list(dense(folder / "b"))}
    model = SentenceTransformer(modules=[Router(paths)], device="cpu")
    model.save_pretrained(str(folder / "model"), create_model_card=False)
    return folder / "model"


def static(folder: Path) -> Path:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding
    from tiny_models import wordpiece

    model = SentenceTransformer(modules=[StaticEmbedding(wordpiece(), embedding_dim=16)], device="cpu")
    model.save_pretrained(str(folder / "model"), create_model_card=False)
    return folder / "model"


def undeclared(folder: Path) -> Path:
    path = save_modular(folder)
    (path / "config_sentence_transformers.json").unlink()
    return path


def colbert(folder: Path) -> Path:
    path = save_body(folder / "model", "bert")
    set_json(path / "config.json", architectures=["HF_ColBERT"])
    return path


OTHERS: dict[str, tuple[Callable[[Path], Path], str]] = {
    "splade": (splade, "a SparseEncoder of sentence-transformers (Transformer, SpladePooling)"),
    "contrastive": (contrastive, "a SparseEncoder of sentence-transformers (Transformer, Pooling, SparseAuto"),
    "multi-vector": (multi_vector, "a multi-vector model (ColBERT"),
    "colbert": (colbert, "a multi-vector model (HF_ColBERT)"),
    "router": (router, "a SentenceTransformer of sentence-transformers with a Router"),
    "static": (static, "does not begin with one Transformer (StaticEmbedding)"),
    "undeclared": (undeclared, "does not call it a CrossEncoder"),
}


@pytest.fixture(scope="module")
def collection(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_collection(tmp_path_factory.mktemp("collection"))


def refused(capsys: pytest.CaptureFixture[str], words: str, *flags: object) -> bool:
    """Whether a command stops with one line that holds these words."""
    capsys.readouterr()
    code = main([str(flag) for flag in flags])
    said = [line for line in capsys.readouterr().err.splitlines() if "error:" in line]
    assert code in (2, 4, 5) and len(said) == 1 and words in said[0], (code, said, words)
    return True


def commands(collection: Path, model: Path, tmp_path: Path) -> dict[str, list[object]]:
    """Every command that loads a model, up to its output."""
    data: list[object] = ["--dataset", collection, "--device", "cpu"]
    out = tmp_path / "out"
    source = f"judged(dataset='{collection}', run='{collection / 'first.run'}')"
    train: list[object] = ["--output-dir", out / "t", "--max-steps", 1, "--device", "cpu", "--data", source]
    return {
        "index": ["index", *data, "--model", model, "--output", out / "ix"],
        "search": ["search", *data, "--model", model, "--output", out / "s.run"],
        "rerank": [
            "rerank",
            *data,
            "--model",
            model,
            "--run",
            collection / "first.run",
            "--output",
            out / "r.run",
        ],
        "serve": ["serve", "--model", model, "--device", "cpu", "--dry-run"],
        "pointwise": ["train", "--model-name-or-path", model, "--family", "pointwise", *train],
        "bi_encoder": ["train", "--model-name-or-path", model, "--family", "bi_encoder", *train],
    }


@pytest.mark.parametrize("name", OTHERS)
def test_models_that_no_command_runs(
    collection: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    make, words = OTHERS[name]
    model = make(tmp_path / "made")
    for command, flags in commands(collection, model, tmp_path).items():
        assert refused(capsys, words, *flags), command
    assert not (tmp_path / "out").exists() or not any((tmp_path / "out").iterdir())


@pytest.mark.parametrize("make", [save_modular, save_logit_score])
def test_a_cross_encoder_of_modules_ranks_and_is_refused_elsewhere(
    collection: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], make: Callable[[Path], Path]
) -> None:
    model = make(tmp_path / "made")
    found = commands(collection, model, tmp_path)
    for command in ("index", "search", "pointwise", "bi_encoder"):
        assert refused(capsys, "is a CrossEncoder of sentence-transformers (Transformer, ", *found[command]), (
            command
        )
    assert main([*map(str, found["serve"])]) == 0
    assert main([*map(str, found["rerank"]), "--dtype", "float32"]) == 0
    ranked = read_run(tmp_path / "out" / "r.run")
    first = read_run(collection / "first.run")
    texts = dict(
        line[8:-3].split('", "text": "') for line in (collection / "corpus.jsonl").read_text().splitlines(True)
    )
    for line in (collection / "queries.tsv").read_text().splitlines():
        qid, query = line.split("\t")
        names = list(first[qid][0])
        topic: Any = type("Topic", (), {"query": query, "texts": [texts[name] for name in names]})
        said = dict(zip(names, theirs(model, [topic]), strict=True))
        np.testing.assert_allclose(ranked[qid][1], [said[name] for name in ranked[qid][0]], atol=1e-4)


def test_a_plain_cross_encoder_has_no_embeddings(
    collection: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = save_classifier(tmp_path / "plain", "bert")
    found = commands(collection, model, tmp_path)
    for command in ("index", "search"):
        assert refused(capsys, "is a cross-encoder: it reranks", *found[command])
    model = save_logit_score(tmp_path / "made") / ".." / "body"
    found = commands(collection, model, tmp_path)
    for command in ("index", "search"):
        assert refused(capsys, "is a reranker (Qwen3ForCausalLM), not a bi-encoder", *found[command])


def test_prompts_by_flags(collection: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prompts = {"web": "search the web: ", "best": "Which of these passages answers best? "}
    model = save_modular(tmp_path / "made", prompts=prompts, default="web")
    base = [*map(str, commands(collection, model, tmp_path)["rerank"][:-1])]
    runs = {}
    for name, flags in (("default", ()), ("best", ("--prompt-name", "best")), ("off", ("--no-prompt",))):
        output = tmp_path / f"{name}.run"
        assert main([*base, str(output), *flags]) == 0
        runs[name] = [tuple(read_run(output)[qid][1]) for qid in read_run(output)]
    assert len({str(scores) for scores in runs.values()}) == 3
    assert main(["serve", "--model", str(model), "--device", "cpu", "--dry-run", "--prompt-name", "best"]) == 0
    plain = save_classifier(tmp_path / "plain", "bert")
    assert refused(capsys, "has no prompt 'x'", *base, tmp_path / "x.run", "--prompt-name", "x")
    serve = ["serve", "--model", plain, "--device", "cpu", "--dry-run"]
    assert refused(capsys, "prompt_name", *serve, "--prompt-name", "web")
