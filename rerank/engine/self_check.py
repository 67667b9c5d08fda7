"""The check that scores depend on the document."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..errors import SparringError
from .shards import Shard


class SelfCheck:
    """Stops a run whose scores say nothing: after the first 64 sequences, or at the end of a call after 16.

    A topic counts once two different texts of it were scored; if no topic shows two different scores, the model
    does not read the document (a wrong head, a single-logit softmax, a template without the passage).
    """

    ENOUGH, LEAST = 64, 16

    def __init__(self, name: str) -> None:
        self._name = name
        self._done = False
        self._seen: list[tuple[int, tuple[int, ...], float]] = []

    def observe(self, shard: Shard, groups: NDArray[np.int64], scores: NDArray[np.float64]) -> None:
        """Looks at the scores of a batch until there are enough."""
        if self._done:
            return
        rows = shard.rows(groups)[: self.ENOUGH]
        for row, score in zip(rows.tolist(), scores.tolist(), strict=False):
            self._seen.append((int(shard.sequences.query[row]), tuple(shard.passages[row].tolist()), score))
        if len(self._seen) >= self.ENOUGH:
            self.finish()

    def finish(self) -> None:
        """Judges what was seen; raises SparringError where scores do not depend on the document."""
        if self._done:
            return
        by_query: dict[int, dict[tuple[int, ...], float]] = {}
        for query, passages, score in self._seen:
            if np.isfinite(score):
                by_query.setdefault(query, {})[passages] = score
        compared = [list(scores.values()) for scores in by_query.values() if len(scores) > 1]
        texts = sum(map(len, compared))
        if texts < self.LEAST:
            return
        self._done = True
        self._seen.clear()
        if all(max(values) - min(values) <= 1e-7 * max(1.0, abs(values[0])) for values in compared):
            raise SparringError(
                f"{self._name}: scores do not depend on the document ({texts} different passages, "
                "one score per query): the head or the template is wrong; check the checkpoint and --family"
            )
