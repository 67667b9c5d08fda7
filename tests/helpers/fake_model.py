"""A model whose score is arithmetic on the token ids."""

from __future__ import annotations

from typing import Any

import numpy as np
import tiny_models
import torch
from sparring.rerank.engine.batches import Batch
from sparring.rerank.engine.templates import Constant, Template, Text, Truncation


class Fake:
    """A model whose score is arithmetic on the ids: it checks what the engine hands to models."""

    def __init__(self, width: int | None, score: Any = None, largest: int | None = None) -> None:
        self.name, self.width, self.fingerprint = "fake", width, f"fake {width}"
        self.tokenizer = tiny_models.wordpiece()
        texts = (Text("passage", 0), Constant((3,))) + ((Text("passage", 1), Constant((3,))) if width == 2 else ())
        self.template = Template((Constant((2,)), Text("query"), Constant((3,)), *texts), per_member=width is None)
        self.truncation = Truncation(64)
        self.first_position, self.packed = 0, True
        self.score, self.largest = score, largest
        self.dtypes: list[torch.dtype] = []

    def place(self, device: torch.device, dtype: torch.dtype, deterministic: bool = False) -> None:
        self.dtypes.append(dtype)

    def forward(self, batch: Batch) -> torch.Tensor:
        if self.largest is not None and len(batch.input_ids) > self.largest:
            raise torch.OutOfMemoryError("made up")
        weights = batch.input_ids * (batch.positions + 1.0)
        parts = [weights[a:b].sum() / 1000 for a, b in zip(batch.boundaries, batch.boundaries[1:], strict=False)]
        scores = torch.stack(parts).float()
        if self.width is None:  # a set model: every member hears of its whole group
            sums = [scores[a:b].sum() for a, b in zip(batch.groups, batch.groups[1:], strict=False)]
            scores = scores + torch.stack(sums).repeat_interleave(torch.tensor(np.diff(batch.groups)))
        return scores if self.score is None else self.score(self, scores)
