"""A second implementation of BM25, by a sparse product: what `sparring.rerank.search.bm25` is compared with."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

WORD = re.compile(r"\w+")
STOP = frozenset(
    """a an and are as at be but by for if in into is it no not of on or such that the their then there these they
    this to was will with""".split()  # noqa: SIM905
)
"""The stop words of Lucene's English analyser."""
CHUNK = 256
"""Queries that are scored at once."""


def words(text: str) -> list[str]:
    """Lower-case runs of word characters without stop words; no stemming."""
    return [word for word in WORD.findall(text.lower()) if word not in STOP]


@dataclass(frozen=True, eq=False)
class Oracle:
    """Term weights of every document, in Lucene's form of BM25 (without the constant factor k1 + 1).

    weight(t, d) = ln(1 + (N - df + .5) / (df + .5)) * tf / (tf + k1 (1 - b + b |d| / mean |d|));
    a query's score is the sum over its words, repeated ones counted. Source: Robertson and Zaragoza, The
    Probabilistic Relevance Framework, 2009; Kamphuis et al., Which BM25 Do You Mean?, ECIR 2020.
    """

    vocabulary: dict[str, int]
    weights: Any
    """Sparse, (words, documents)."""
    split: Callable[[str], list[str]] = words

    @staticmethod
    def of(
        texts: Iterable[str], k1: float = 0.9, b: float = 0.4, split: Callable[[str], list[str]] = words
    ) -> Oracle:
        """Weights of the documents with these texts, in their order."""
        vocabulary: dict[str, int] = {}
        terms: list[int] = []
        counts: list[int] = []
        distinct: list[int] = []
        for text in texts:
            found = Counter(split(text))
            terms.extend(vocabulary.setdefault(word, len(vocabulary)) for word in found)
            counts.extend(found.values())
            distinct.append(len(found))
        total = len(distinct)
        term, tf = np.array(terms, np.int64), np.array(counts, np.float64)
        document = np.repeat(np.arange(total), distinct)
        length = np.bincount(document, tf, total)
        df = np.bincount(term, minlength=len(vocabulary))
        idf = np.log1p((total - df + 0.5) / (df + 0.5))
        norm = k1 * (1 - b + b * length / max(length.mean(), 1e-9)) if total else length
        values = (idf[term] * tf / (tf + norm[document])).astype(np.float32)
        return Oracle(
            vocabulary, sparse.csr_array((values, (term, document)), shape=(len(vocabulary), total)), split
        )

    def scores(self, queries: Sequence[str]) -> NDArray[np.float32]:
        """The score of every document for every query, (queries, documents)."""
        found = [Counter(word for word in self.split(query) if word in self.vocabulary) for query in queries]
        columns = [self.vocabulary[word] for query in found for word in query]
        rows = np.repeat(np.arange(len(found)), [len(query) for query in found])
        values = [float(number) for query in found for number in query.values()]
        asked = sparse.csr_array(
            (np.array(values, np.float32), (rows, np.array(columns, np.int64))),
            shape=(len(queries), len(self.vocabulary)),
        )
        dense: NDArray[np.float32] = (asked @ self.weights).toarray()
        return dense

    def search(
        self, queries: Sequence[str], depth: int, allowed: NDArray[np.int64] | None = None
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Positions and scores of the best documents, best first, each (queries, depth).

        Documents that share no word with the query are not found: -1 fills their places. Equal scores keep the
        collection's order. ``allowed`` are the only positions that may be found.
        """
        total = self.weights.shape[1]
        depth = min(depth, total)
        closed = np.ones(total, np.bool_)
        closed[slice(None) if allowed is None else allowed] = False
        places = np.empty((len(queries), depth), np.int64)
        scores = np.empty((len(queries), depth), np.float32)
        for start in range(0, len(queries), CHUNK):
            part = self.scores(queries[start : start + CHUNK])
            part[:, closed] = 0.0
            for row, values in enumerate(part, start):
                near = np.argpartition(-values, depth - 1)[:depth] if depth < total else np.arange(total)
                tied = np.flatnonzero(values == values[near].min())  # those at the cut, in collection order
                near = np.concatenate([near[values[near] > values[near].min()], tied])
                order = near[np.lexsort((near, -values[near]))][:depth]
                places[row] = np.where(values[order] > 0, order, -1)
                scores[row] = values[order]
        return places, scores
