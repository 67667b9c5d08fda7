"""BM25 over a collection in memory, by bm25s: a first stage without a model, for collections that fit there."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any

import bm25s
import numpy as np
import Stemmer
from numpy.typing import NDArray

K1, B = 0.9, 0.4
"""Anserini's parameters."""
WORD = re.compile(r"\w+")
STOP = frozenset(
    """a an and are as at be but by for if in into is it no not of on or such that the their then there these they
    this to was will with""".split()  # noqa: SIM905
)
"""The stop words of Lucene's English analyser."""


@lru_cache(1 << 20)
def _stem(word: str) -> str:
    stem: str = _porter().stemWord(word) if len(word) > 2 else word  # as Lucene; of "s" nothing would be left
    return stem


@cache
def _porter() -> Any:
    return Stemmer.Stemmer("porter")


def words(text: str) -> list[str]:
    """Lower-case runs of word characters without stop words, each cut to its stem (Porter's, as in Lucene)."""
    return [_stem(word) for word in WORD.findall(text.lower()) if word not in STOP]


@dataclass(frozen=True, eq=False)
class BM25:
    """Term weights of every document, in Lucene's form of BM25 (without the constant factor k1 + 1).

    weight(t, d) = ln(1 + (N - df + .5) / (df + .5)) * tf / (tf + k1 (1 - b + b |d| / mean |d|));
    a query's score is the sum over its words, repeated ones counted. Source: Robertson and Zaragoza, The
    Probabilistic Relevance Framework, 2009; Kamphuis et al., Which BM25 Do You Mean?, ECIR 2020.
    """

    vocabulary: dict[str, int]
    size: int
    index: Any
    """What bm25s knows of the collection; None where no document has a word."""

    @staticmethod
    def of(texts: Iterable[str], k1: float = K1, b: float = B) -> BM25:
        """Weights of the documents with these texts, in their order."""
        vocabulary: dict[str, int] = {}
        documents = [[vocabulary.setdefault(word, len(vocabulary)) for word in words(text)] for text in texts]
        index = None
        if vocabulary:
            index = bm25s.BM25(k1=k1, b=b, method="lucene", backend="numpy")
            index.index((documents, vocabulary), create_empty_token=False, show_progress=False)
        return BM25(vocabulary, len(documents), index)

    def scores(self, queries: Sequence[str]) -> NDArray[np.float32]:
        """The score of every document for every query, (queries, documents)."""
        dense = np.zeros((len(queries), self.size), np.float32)
        for row, query in zip(dense, queries, strict=True):
            row[:] = self._scores(query)
        return dense

    def search(
        self, queries: Sequence[str], depth: int, allowed: NDArray[np.int64] | None = None
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Positions and scores of the best documents, best first, each (queries, depth).

        Documents that share no word with the query are not found: -1 fills their places. Equal scores keep the
        collection's order, which is why bm25s's own selection is not used. ``allowed`` are the only positions
        that may be found.
        """
        depth = min(depth, self.size)
        closed = np.ones(self.size, np.bool_)
        closed[slice(None) if allowed is None else allowed] = False
        places = np.empty((len(queries), depth), np.int64)
        scores = np.empty((len(queries), depth), np.float32)
        for row, query in enumerate(queries):
            values = np.where(closed, np.float32(0), self._scores(query))
            order = _best(values, depth)
            places[row] = np.where(values[order] > 0, order, -1)
            scores[row] = values[order]
        return places, scores

    def _scores(self, query: str) -> NDArray[np.float32]:
        known = [self.vocabulary[word] for word in words(query) if word in self.vocabulary]
        if not known:
            return np.zeros(self.size, np.float32)
        found: NDArray[np.float32] = self.index.get_scores_from_ids(known)
        return found


def _best(values: NDArray[np.float32], depth: int) -> NDArray[np.int64]:
    """Positions of the highest values, (depth,); equal values in their order, also at the cut."""
    if not depth:
        return np.empty(0, np.int64)
    least = np.partition(values, len(values) - depth)[len(values) - depth]
    near = np.flatnonzero(values >= least)
    return near[np.argsort(-values[near], kind="stable")][:depth]
