"""Stored preferences as training data: what ``sparring compare`` and ``sparring distill`` wrote as Parquet."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ...rerank import registry
from ...rerank.data.datasets import open_dataset
from ...rerank.data.preferences import Stored, read_preferences
from ...rerank.data.runs import read_run
from ...rerank.errors import InputError
from ..data.mixture import Row, Rows, Sampling, sources
from . import check_topics, held_out

SUREST = 1e-6
"""Probabilities are kept so far from 0 and 1, that their logits are finite."""


@sources.register("preferences")
@dataclass(frozen=True)
class StoredPreferences:
    """Pair probabilities of a teacher (Parquet, or CSV of left, right, winner), as pairs or as lists.

    Without an aggregator every comparison is a row of two candidates in the order shown, with the labels log-odds
    of p and 0: pair_logistic and pair_kl find p again, and ranknet its winner. With one, such as bradley_terry,
    every topic is a row with the aggregator's scores, over the candidates that were compared.

    Args:
        run: the run that was compared, whose scores are the prior of the aggregator.
    """

    path: str
    dataset: str
    queries: str | None = None
    aggregator: str | None = None
    run: str | None = None
    depth: int | None = None
    scale: float = 1.0
    share: float = 1.0
    sampling: Sampling = "spread"
    holdout: int = 0

    def rows(self) -> Rows:
        """One row per comparison, or one per topic."""
        judge = registry.aggregators.parse(self.aggregator) if self.aggregator else None
        run = read_run(Path(self.run)) if self.run else None
        stored = read_preferences(Path(self.path), run, self.depth)
        data = open_dataset(self.dataset, Path(self.queries) if self.queries else None)
        check_topics(self.path, stored.qids, data)
        names = list(dict.fromkeys(docid for docids in stored.docids for docid in docids))
        if absent := sorted(data.documents.missing(names)):
            raise InputError(
                f"{self.path}: {len(absent)} documents are not in the collection: {', '.join(absent[:5])}"
            )
        left_out = held_out(stored.qids, self.holdout)
        topics = [topic for topic, qid in enumerate(stored.qids) if qid not in left_out]

        def row(topic: int, chosen: NDArray[np.integer], labels: NDArray[np.float64]) -> Row:
            docids = tuple(stored.docids[topic][i] for i in chosen.tolist())
            qid = stored.qids[topic]
            return Row(qid, data.queries[qid], docids, labels.astype(np.float32), data.documents)

        said = stored.preferences
        owner = np.repeat(np.arange(len(stored.qids)), np.diff(said.offsets))
        if judge is not None:
            scores = np.split(judge(said), np.cumsum(said.sizes)[:-1])
            compared = [_compared(stored, topic) for topic in range(len(stored.qids))]
            return Rows.teaching(lambda t: row(t, compared[t], scores[t][compared[t]]), topics)
        odds = _log_odds(said.probability)

        def pair(place: int) -> Row:
            shown = np.array([said.first[place], said.second[place]])
            return row(int(owner[place]), shown, np.array([odds[place], 0.0]))

        places = np.flatnonzero(np.isin(owner, topics))
        return Rows(pair, places, 2 * len(places))


def _compared(stored: Stored, topic: int) -> NDArray[np.int32]:
    """Candidates of a topic that were compared at all, in their order."""
    rows = slice(int(stored.preferences.offsets[topic]), int(stored.preferences.offsets[topic + 1]))
    sides = stored.preferences.first[rows], stored.preferences.second[rows]
    return np.unique(np.concatenate(sides))


def _log_odds(probability: NDArray[np.float64]) -> NDArray[np.float64]:
    kept = np.clip(probability, SUREST, 1.0 - SUREST)
    return np.asarray(np.log(kept) - np.log1p(-kept))
