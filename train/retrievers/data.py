"""Lists for sentence-transformers' trainer: a dataset that is a function of position, and a batch's columns."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from ..data.mixture import Example, Mixture

QUERY, DOCUMENT = "query", "document"
Columns = Callable[[list[dict[str, Any]]], dict[str, Any]]
"""sentence-transformers' collator: rows of text columns (and ``label``) to tensors named by column."""


def as_dataset(mixture: Mixture) -> Any:
    """A ``datasets.Dataset`` whose row p is ``{"example": mixture[p]}``, drawn when it is asked for."""
    from datasets import Dataset

    def draw(rows: dict[str, list[int]]) -> dict[str, list[Example]]:
        return {"example": [mixture[position] for position in rows["position"]]}

    return Dataset.from_dict({"position": range(len(mixture))}).with_transform(draw)


class EncodedCollator:
    """Rows of `as_dataset` to the features of our losses: queries (Q), all documents (S), and where they belong.

    ``label`` is (Q, n). Beside the tokens the feature ``document`` has ``mask`` (Q, n) and ``others`` (Q, Q, n) of
    `sparring.train.retrievers.losses.Encoded`; the S documents are the True places of the mask, row by row.
    """

    def __init__(self, columns: Any) -> None:
        self.columns: Columns = columns
        self.valid_label_columns: list[str] = columns.valid_label_columns

    def __call__(self, rows: Sequence[dict[str, Example]]) -> dict[str, Any]:
        examples = [row["example"] for row in rows]
        width = max(len(example.labels) for example in examples)
        labels, mask = torch.zeros(len(examples), width), torch.zeros(len(examples), width, dtype=torch.bool)
        for number, example in enumerate(examples):
            labels[number, : len(example.labels)] = torch.from_numpy(example.labels)
            mask[number, : len(example.labels)] = True
        queries = self.columns([{QUERY: example.query} for example in examples])
        documents = self.columns([{DOCUMENT: text} for example in examples for text in example.texts])
        placed = {f"{DOCUMENT}_mask": mask, f"{DOCUMENT}_others": others(examples, width)}
        return {**queries, **documents, **placed, "label": labels}


def others(examples: Sequence[Example], width: int) -> torch.Tensor:
    """Which candidates of other lists may be negatives of a query, (Q, Q, width).

    Not those of the same query, and not those that are among the query's own candidates, by text.
    """
    found = torch.zeros(len(examples), len(examples), width, dtype=torch.bool)
    for row, example in enumerate(examples):
        own = set(example.texts)
        for column, other in enumerate(examples):
            if other.query != example.query:
                found[row, column, : len(other.texts)] = torch.tensor([text not in own for text in other.texts])
    return found


class ColumnCollator:
    """Rows of `as_dataset` to the columns of sentence-transformers' losses: query, document_1 .. document_width.

    The best candidate stands first. Lists that are too short repeat what they have, so that all are equally wide.

    Args:
        labelled: all candidates with their labels; else the first is the positive and the rest are worse.
    """

    def __init__(self, columns: Any, width: int, labelled: bool) -> None:
        self.columns: Columns = columns
        self.valid_label_columns: list[str] = columns.valid_label_columns
        self.width = width
        self.labelled = labelled

    def __call__(self, rows: Sequence[dict[str, Example]]) -> dict[str, Any]:
        return self.columns([self._row(row["example"]) for row in rows])

    def _row(self, example: Example) -> dict[str, Any]:
        order = np.argsort(-example.labels, kind="stable")
        worse = order[1:] if self.labelled else order[example.labels[order] < example.labels[order[0]]]
        # a positive that is its own negative costs a constant: nothing is learnt from a list without a negative
        repeated = np.resize(worse if len(worse) else order[:1], self.width - 1)
        chosen = [int(order[0]), *repeated.tolist()]
        row: dict[str, Any] = {QUERY: example.query}
        row |= {f"{DOCUMENT}_{place}": example.texts[i] for place, i in enumerate(chosen, start=1)}
        return row | {"label": [float(example.labels[i]) for i in chosen]} if self.labelled else row
