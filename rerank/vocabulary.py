"""The nouns of the toolkit: candidates, groups, outcomes, preferences, and who consumes them.

Everything between the first stage and the final run speaks of *positions*: candidate ``i`` of a topic is
its ``i``-th document in first-stage order. Ids and texts stay with `Candidates`; qrels stay in ``eval``.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from .stats import Stats

Groups = NDArray[np.int32]
"""Candidates to look at together, as positions, (g, width); -1 pads a group that is shorter than the rest."""

Outcomes = NDArray[np.float64]
"""What the model said of each group. For pairs (width 2): (g,), the probability that the first member is
better than the second. For any other width: (g, width), one score per member, NaN where the group is padded.
A row that is all NaN was quarantined: the model could not score it, it was named, and nobody may rank by it."""


@dataclass(frozen=True, slots=True)
class Candidates:
    """One topic in first-stage order, best first; ``texts`` may be lazy, ``scores`` are first-stage (n,).

    ``instruction`` is what to judge this topic by, for models that are told; it goes before the model's own.
    """

    qid: str
    query: str
    docids: tuple[str, ...]
    texts: Sequence[str]
    scores: NDArray[np.float64]
    instruction: str | None = None

    def __len__(self) -> int:
        return len(self.docids)


@dataclass(frozen=True, slots=True)
class Preferences:
    """Outcomes of pair comparisons of one or many topics, as ragged arrays.

    The order in which a pair was asked is the order in which it is stored: ``first[e]`` was shown first.

    Args:
        sizes: candidates per topic, (Q,).
        offsets: comparisons of topic ``t`` are rows ``offsets[t]:offsets[t+1]``, (Q+1,).
        first, second: positions inside the topic, (E,).
        probability: P(first is better than second) in [0, 1]; 0.5 is a tie, (E,).
        weight: how much each comparison counts, (E,); 1 where absent.
        prior: first-stage scores of all candidates, topic after topic, (sum of sizes,). Without it,
            positions alone (which are first-stage ranks) break ties.
        source: which judge said it (a model, a prompt, a worker), (E,); all the same where absent.
    """

    sizes: NDArray[np.int64]
    offsets: NDArray[np.int64]
    first: NDArray[np.int32]
    second: NDArray[np.int32]
    probability: NDArray[np.float64]
    weight: NDArray[np.float64] | None = None
    prior: NDArray[np.float64] | None = None
    source: NDArray[np.int32] | None = None

    def __post_init__(self) -> None:
        edges = len(self.first)
        if len(self.offsets) != len(self.sizes) + 1 or self.offsets[0] != 0 or self.offsets[-1] != edges:
            raise ValueError("offsets must start at 0, end at the number of comparisons and fit the topics")
        for name in ("second", "probability", "weight", "source"):
            values = getattr(self, name)
            if values is not None and len(values) != edges:
                raise ValueError(f"{name} has {len(values)} rows, first has {edges}")
        if self.prior is not None and len(self.prior) != self.sizes.sum():
            raise ValueError(f"prior has {len(self.prior)} scores for {self.sizes.sum()} candidates")
        if edges:
            limit = np.repeat(self.sizes, np.diff(self.offsets))
            for positions in (self.first, self.second):
                if positions.min() < 0 or (positions >= limit).any():
                    raise ValueError("a comparison names a position outside its topic")
            if (self.first == self.second).any():
                raise ValueError("a candidate is compared with itself")
            if not ((self.probability >= 0) & (self.probability <= 1)).all():
                raise ValueError("probabilities must lie in [0, 1]: pass logits through a sigmoid first")

    def __len__(self) -> int:
        return len(self.sizes)

    def dense(self) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.bool_]]:
        """Wins and games as padded matrices.

        Returns:
            wins (Q, n, n): summed weight times P(i beats j), from both sides of every comparison;
            games (Q, n, n): summed weight of the comparisons of i and j, symmetric;
            mask (Q, n): True for real candidates, n being the largest topic.
        """
        count, n = len(self.sizes), int(self.sizes.max(initial=0))
        topic = np.repeat(np.arange(count), np.diff(self.offsets))
        weight = np.ones(len(self.first)) if self.weight is None else self.weight
        flat = (topic * n + self.first) * n + self.second
        back = (topic * n + self.second) * n + self.first
        size = count * n * n
        wins = np.bincount(flat, weight * self.probability, size) + np.bincount(
            back, weight * (1 - self.probability), size
        )
        games = np.bincount(flat, weight, size) + np.bincount(back, weight, size)
        mask = np.arange(n) < self.sizes[:, None]
        shape = (count, n, n)
        return wins.astype(np.float64).reshape(shape), games.astype(np.float64).reshape(shape), mask

    def ragged(self, padded: NDArray[np.float64]) -> NDArray[np.float64]:
        """Drops the padding of a (Q, n) array: scores of all candidates, topic after topic."""
        mask = np.arange(padded.shape[1]) < self.sizes[:, None]
        return padded[mask]

    def topic(self, index: int) -> Preferences:
        """The preferences of one topic alone."""
        rows = slice(int(self.offsets[index]), int(self.offsets[index + 1]))
        start = int(self.sizes[:index].sum())
        documents = slice(start, start + int(self.sizes[index]))
        return Preferences(
            sizes=self.sizes[index : index + 1],
            offsets=np.array([0, rows.stop - rows.start]),
            first=self.first[rows],
            second=self.second[rows],
            probability=self.probability[rows],
            weight=None if self.weight is None else self.weight[rows],
            prior=None if self.prior is None else self.prior[documents],
            source=None if self.source is None else self.source[rows],
        )

    @staticmethod
    def join(parts: Iterable[Preferences]) -> Preferences:
        """Many topics in one object, in the order given; optional arrays must be in all parts or in none."""
        items = list(parts)
        counts = [np.diff(p.offsets) for p in items]

        def cat(name: str, dtype: type) -> NDArray[np.generic] | None:
            arrays = [getattr(p, name) for p in items]
            if all(a is None for a in arrays):
                return None
            if any(a is None for a in arrays):
                raise ValueError(f"{name} is present in some of the preferences to join and absent in others")
            return np.concatenate([*arrays, np.empty(0, dtype)]).astype(dtype)

        empty_f, empty_i = np.empty(0), np.empty(0, np.int32)
        return Preferences(
            sizes=np.concatenate([*(p.sizes for p in items), np.empty(0, np.int64)]).astype(np.int64),
            offsets=np.concatenate([[0], np.cumsum(np.concatenate([*counts, np.empty(0, np.int64)]))]).astype(
                np.int64
            ),
            first=np.concatenate([*(p.first for p in items), empty_i]).astype(np.int32),
            second=np.concatenate([*(p.second for p in items), empty_i]).astype(np.int32),
            probability=np.concatenate([*(p.probability for p in items), empty_f]),
            weight=cat("weight", np.float64),  # type: ignore[arg-type]
            prior=cat("prior", np.float64),  # type: ignore[arg-type]
            source=cat("source", np.int32),  # type: ignore[arg-type]
        )


Sink = Callable[[NDArray[np.int64], NDArray[np.int64], Outcomes], None]
"""Receives outcomes as soon as they exist: topic index (b,), row inside that topic's groups (b,), outcomes of
these rows. A ledger listens here; the call must be cheap."""


def blank(rows: Groups, width: int | None) -> Outcomes:
    """Outcomes of groups that nobody has answered yet."""
    return np.full(len(rows) if width == 2 else rows.shape, np.nan)


def unknown_rows(outcomes: Outcomes) -> NDArray[np.bool_]:
    """Which groups have no outcome at all, (g,)."""
    unknown: NDArray[np.bool_] = np.isnan(outcomes.reshape(len(outcomes), -1)).min(axis=1, initial=True)
    return unknown


def keep(
    results: Sequence[Outcomes], topic: NDArray[np.int64], row: NDArray[np.int64], outcomes: Outcomes
) -> None:
    """Puts outcomes as a `Sink` hears them into ``results``, one array per topic; wider groups stay padded."""
    for t in np.unique(topic).tolist():
        mine, result = topic == t, results[t]
        if result.ndim == 1:
            result[row[mine]] = outcomes[mine]
        else:
            width = min(result.shape[1], outcomes.shape[1])
            result[row[mine], :width] = outcomes[mine, :width]


@runtime_checkable
class Judge(Protocol):
    """Answers groups: all that the pipeline needs of a `Scorer`, of stored outcomes, or of a model in training.

    ``width`` is 1 (pointwise), 2 (pairwise) or None (any list). ``groups[t]`` are groups of ``topics[t]``;
    the answer has one `Outcomes` per topic, rows in the order asked. Scores are raw fp32 values; pairs are
    probabilities.
    """

    @property
    def width(self) -> int | None: ...

    def __call__(self, topics: Sequence[Candidates], groups: Sequence[Groups]) -> list[Outcomes]: ...


@runtime_checkable
class Scorer(Protocol):
    """A `Judge` at work: a model on a device, a pool of them, a ledger in front of one.

    Attributes:
        fingerprint: what outcomes are stored under; any change of weights, precision, template or length changes
            it.
        description: what the fingerprint stands for, in readable fields.
        stats: what has been counted so far.
        remembers: what it computed in one call serves later ones, so that the last bits of an answer depend on the
            calls before it.
    """

    @property
    def width(self) -> int | None: ...

    @property
    def fingerprint(self) -> str: ...

    @property
    def description(self) -> Mapping[str, object]: ...

    @property
    def stats(self) -> Stats: ...

    @property
    def remembers(self) -> bool: ...

    def __call__(
        self,
        topics: Sequence[Candidates],
        groups: Sequence[Groups],
        sink: Sink | None = None,
        known: Sequence[Outcomes] | None = None,
    ) -> list[Outcomes]:
        """Outcomes of the groups of each topic.

        Args:
            sink: hears outcomes as soon as they exist.
            known: outcomes of an earlier, interrupted call on the same groups, NaN where there are none; they are
                returned as they are. Work is planned as if nothing were known, then what is known is left out of
                it, so that a call that goes on gives the bits of an uninterrupted one.
        """
        ...

    def close(self) -> None:
        """Ends processes and gives memory back; a closed scorer answers no more."""
        ...


@runtime_checkable
class Schedule(Protocol):
    """Decides what to look at next; sees positions and first-stage scores, never texts, ids or qrels.

    ``width`` is 1, 2, or None for groups of any width. ``rounds`` yields the groups of one round and is sent
    their outcomes; it may return a final order (positions, best first), else an aggregator ranks.
    ``oriented`` says that the order inside a yielded pair was chosen on purpose and must not be flipped.
    """

    @property
    def width(self) -> int | None: ...

    @property
    def oriented(self) -> bool: ...

    def rounds(
        self, prior: NDArray[np.float64], rng: np.random.Generator
    ) -> Generator[Groups, Outcomes, NDArray[np.int32] | None]: ...


@runtime_checkable
class Aggregator(Protocol):
    """Turns sparse preferences of many topics into a finite score for every candidate, (sum of sizes,)."""

    def __call__(self, preferences: Preferences) -> NDArray[np.float64]: ...
