"""The embedded collection as training data: summaries of docstrings are queries, their bodies the positives."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ...rerank.errors import InputError
from ..data.mixture import Row, Sampling, sources

Negatives = tuple[NDArray[np.int64], NDArray[np.float32]]
"""Positions of other documents in the collection, and their labels."""


@sources.register("docstrings")
@dataclass(frozen=True)
class Docstrings:
    """The embedded collection: a docstring's summary is a query, its body the positive, others are negatives.

    Without an ``index`` labels are 1 and 0, and negatives are neighbours in name and random bodies. With one (a
    folder made by ``sparring index`` of this collection) negatives are the nearest documents of the summary, and
    labels are the bi-encoder's similarities and ``words`` times BM25, the positive ``lead`` above the best:
    distillation. ``limit`` takes so many docstrings, evenly spread over the collection; 0 takes all.
    """

    index: str | None = None
    negatives: int = 50
    words: float = 0.0
    lead: float = 0.1
    limit: int = 0
    scale: float = 1.0
    share: float = 1.0
    sampling: Sampling = "spread"

    def rows(self) -> list[Row]:
        """One row per docstring with a summary."""
        from ...rerank.data.pydocs.collection import documents, training_pairs

        collection = documents()
        pairs = [(place, *pair) for place, item in enumerate(collection) for pair in training_pairs([item])]
        if 0 < self.limit < len(pairs):
            pairs = [pairs[place * len(pairs) // self.limit] for place in range(self.limit)]
        names = [item.docid for item in collection]
        texts = [f"{item.title} {item.text}" for item in collection]
        near = self._near(pairs, names) if self.index is None else self._nearest(pairs, names, texts)
        found = []
        for (own, summary, body), (others, labels) in zip(pairs, near, strict=True):
            docids = (names[own], *(names[i] for i in others))
            values = np.array([labels.max(initial=0.0) + self.lead if self.index else 1.0, *labels], np.float32)
            found.append(Row(docids[0], summary, docids, values, [body, *(texts[i] for i in others)]))
        return found

    def _near(self, pairs: list[tuple[int, str, str]], names: list[str]) -> Iterator[Negatives]:
        rng = np.random.default_rng(len(names))
        for own, _, _ in pairs:
            near = np.arange(own - self.negatives // 4, own + self.negatives // 4 + 1) % len(names)
            far = rng.integers(len(names), size=self.negatives - self.negatives // 2)
            others = np.setdiff1d(np.concatenate([near, far]), [own])
            yield others, np.zeros(len(others), np.float32)

    def _nearest(
        self, pairs: list[tuple[int, str, str]], names: list[str], texts: list[str]
    ) -> Iterator[Negatives]:
        from ...rerank.search.bi_encoder import BiEncoder
        from ...rerank.search.bm25 import BM25
        from ...rerank.search.index import Index, read_manifest

        folder = Path(str(self.index))
        encoder = BiEncoder(str(read_manifest(folder)["encoder"]["model"]))
        index = Index.open(folder, encoder=encoder.identity)
        summaries = [summary for _, summary, _ in pairs]
        vectors = encoder.queries(summaries)
        lexical = BM25.of(texts).scores(summaries) if self.words else None
        places, scores = index.search(vectors, self.negatives + 1)
        here = {docid: place for place, docid in enumerate(names)}
        for number, ((own, _, _), row, values) in enumerate(zip(pairs, places, scores, strict=True)):
            docids = [index.ids[int(place)] for place in row if place >= 0]
            if unknown_ids := [docid for docid in docids if docid not in here]:
                raise InputError(f"{folder}: {unknown_ids[0]!r} is not in pydocs: index this collection")
            others = np.array([here[docid] for docid in docids])
            labels = values[: len(others)].astype(np.float32)
            if lexical is not None:
                labels += np.float32(self.words) * lexical[number, others]
            yield others[others != own], labels[others != own]
