"""Nothing said about length: the usual one, or what the model reads where that is less."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from sparring.rerank.cli import main
from sparring.rerank.errors import UsageError
from sparring.train.rankers.kinds import USUAL_LENGTH, Start, kinds
from sparring.train.retrievers.model import BiEncoderKind, Retriever
from tiny_models import save_bi_encoder, save_classifier
from tiny_training import arguments, write_collection


def test_a_short_model_has_its_own_limit(tmp_path: Path) -> None:
    start = save_classifier(tmp_path / "start", "bert")
    limit = json.loads((start / "config.json").read_text())["max_position_embeddings"]
    assert limit < USUAL_LENGTH
    assert kinds.parse("pointwise").start(Start(str(start))).layout.truncation.max_length == limit
    with pytest.raises(UsageError, match=f"max_length 256 is outside 8 .. {limit}"):
        kinds.parse("pointwise").start(Start(str(start), 256))
    (tmp_path / "data").mkdir()
    command = arguments(
        write_collection(tmp_path / "data"), start, tmp_path / "m", "--max-steps=1", "--eval-steps=1"
    )
    assert main([flag for flag in command if not flag.startswith("--max-length")]) == 0


def test_a_short_retriever_too(tmp_path: Path) -> None:
    start = save_bi_encoder(tmp_path / "start")
    own = Retriever(str(start), BiEncoderKind(), None, None).body.max_seq_length
    assert 8 <= own < USUAL_LENGTH
    with pytest.raises(UsageError, match="max_length 999 is outside"):
        Retriever(str(start), BiEncoderKind(), 999, None)
