"""What ir_datasets has for training: judgments and pairs of documents."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ...rerank.data.datasets import Dataset
from ...rerank.data.irds import fetching
from ...rerank.errors import MissingResourceError


def judgments(data: Dataset) -> Iterator[tuple[str, str, int]]:
    """(qid, docid, grade) of a dataset named ``irds:<id>``; nothing of any other, or where it has none."""
    if data.irds is not None and (dataset := _load(data.irds)).has_qrels():
        with fetching(data.irds):
            for judgment in dataset.qrels_iter():
                yield judgment.query_id, judgment.doc_id, int(judgment.relevance)


def document_pairs(data: Dataset) -> Iterator[tuple[str, str, str]]:
    """(qid, docid of the better, docid of the worse); MissingResourceError where the dataset has no docpairs."""
    if data.irds is None or not (dataset := _load(data.irds)).has_docpairs():
        raise MissingResourceError(
            f"{data.name} has no docpairs: name a subset of ir_datasets that has them, such as "
            "irds:msmarco-passage/train/triples-small"
        )
    with fetching(data.irds):
        for pair in dataset.docpairs_iter():
            yield pair.query_id, pair.doc_id_a, pair.doc_id_b


def _load(name: str) -> Any:
    import ir_datasets

    return ir_datasets.load(name)
