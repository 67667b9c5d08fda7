"""All pairs of five, and checkpoints of pair models."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import tiny_models
import torch
from sparring.rerank.models.pair_head import PairHead
from tiny_models import save_classifier

PAIRS = np.array([(i, j) for i in range(5) for j in range(5) if i != j], np.int32)


def state_family(folder: Path, spec: str, **config: Any) -> Path:
    """Writes into the config what family a checkpoint is of."""
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | config | {"sparring_family": spec}))
    return folder


def save_duo(folder: Path, kind: str, segments: int, labels: int = 2) -> Path:
    """A tiny random duoBERT of any architecture; three segments need a third token type."""
    from transformers import AutoModelForSequenceClassification

    save_classifier(folder, kind, labels=labels)
    if segments == 3:
        config = tiny_models.classifier_config(kind, len(tiny_models.wordpiece()), labels)
        config.type_vocab_size = 3
        torch.manual_seed(1)
        model = AutoModelForSequenceClassification.from_config(config)
        tiny_models.enlarge(model)
        model.save_pretrained(folder)
    return state_family(folder, "duo")


def logit(probability: np.ndarray) -> np.ndarray:
    return np.log(probability) - np.log1p(-probability)


def save_late_pair(folder: Path, kind: str = "electra", rank: int = 3) -> Path:
    """A tiny random encoder with a pair head."""
    from transformers import AutoModel

    tokenizer = tiny_models.TOKENIZERS[kind]()
    config = tiny_models.classifier_config(kind, len(tokenizer), pad=tokenizer.pad_token_id)
    torch.manual_seed(5)
    body = AutoModel.from_config(config)
    tiny_models.enlarge(body)
    body.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    head = PairHead(config.hidden_size, width=6, rank=rank)
    tiny_models.enlarge(head, 3.0)
    head.save(folder)
    return state_family(folder, "late_pair")
