"""Where schedules play without a model: stored outcomes of all ordered pairs, the first stage, and judgements."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...rerank.console import log
from ...rerank.data.preferences import Stored, read_preferences
from ...rerank.data.runs import Run
from ...rerank.errors import InputError, UsageError
from ...rerank.pairs.diagnostics import Diagnostics, diagnose
from ...rerank.vocabulary import Candidates, Groups, Outcomes, Preferences, Sink
from ..measures.batched import Judged
from ..measures.qrels import Qrels

Matrix = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class StoredScorer:
    """A `Judge` that looks outcomes up: ``matrices[qid][i, j]`` is P(i beats j) with i shown first."""

    matrices: dict[str, Matrix]
    width: int = 2
    fingerprint: str = "stored"

    def __call__(
        self, topics: Sequence[Candidates], groups: Sequence[Groups], sink: Sink | None = None
    ) -> list[Outcomes]:
        return [
            self.matrices[topic.qid][asked[:, 0], asked[:, 1]] for topic, asked in zip(topics, groups, strict=True)
        ]


@dataclass(frozen=True, slots=True)
class Arena:
    """Topics with every ordered pair answered.

    Args:
        topics: candidates in first-stage order, with its scores; equal scores (0) where there is no first stage.
        scorer: the stored outcomes.
        judged: grades of the candidates; None where the all-pairs ranking is the reference.
        pointwise: scores of a pointwise model for every candidate, per topic, or None.
        pair_tokens: mean tokens of one comparison, NaN where unknown.
        first_stage: whether the topics' scores mean anything.
        simulated: whether the outcomes come from `simulator`, not from a model.
        details: what the file says of its judge.
        consistency: diagnostics of the outcomes.
    """

    topics: tuple[Candidates, ...]
    scorer: StoredScorer
    judged: Judged | None
    pointwise: tuple[Matrix, ...] | None = None
    pair_tokens: float = float("nan")
    first_stage: bool = True
    simulated: bool = False
    details: dict[str, Any] = field(default_factory=dict)
    consistency: Diagnostics | None = None


def open_arena(
    preferences: Path,
    run: Run | None,
    qrels: Qrels | None,
    depth: int | None = None,
    pointwise: Run | None = None,
    pair_tokens: float | None = None,
) -> Arena:
    """Reads stored preferences and sets them beside first stage, judgements and pointwise scores.

    A pair that was asked in one order only is taken to be the same in the other. Topics that are not judged are
    left out with a note.

    Raises:
        InputError: a topic lacks comparisons, or no topic is judged.
    """
    stored = read_preferences(preferences, run, depth)
    keep = [t for t, qid in enumerate(stored.qids) if qrels is None or qid in qrels]
    if not keep:
        raise InputError(f"{preferences}: none of its {len(stored.qids)} topics is judged: do the files match?")
    if len(keep) < len(stored.qids):
        log.info("%d topics are not judged and are left out", len(stored.qids) - len(keep))
    topics, matrices = [], {}
    for t in keep:
        qid, docids = stored.qids[t], stored.docids[t]
        matrices[qid] = _matrix(preferences, stored, t)
        prior = stored.preferences.topic(t).prior
        texts = [""] * len(docids)
        topics.append(Candidates(qid, "", docids, texts, np.zeros(len(docids)) if prior is None else prior))
    judged = None if qrels is None else _judged(topics, qrels)
    scores = None if pointwise is None else tuple(_pointwise(topic, pointwise) for topic in topics)
    tokens = _pair_tokens(preferences) if pair_tokens is None else pair_tokens
    simulated = bool(stored.details.get("simulation"))
    return Arena(
        tuple(topics),
        StoredScorer(matrices),
        judged,
        scores,
        tokens,
        run is not None,
        simulated,
        stored.details,
        diagnose(stored.preferences if len(keep) == len(stored.qids) else _kept(stored, keep)),
    )


def _kept(stored: Stored, keep: Sequence[int]) -> Preferences:
    return Preferences.join(stored.preferences.topic(t) for t in keep)


def stored_matrix(said: Preferences) -> Matrix:
    """P(i beats j), i shown first, of one topic, (n, n): the mean over repeated comparisons.

    A pair that was compared in one order only is taken to be the same in the other; NaN where it was in neither.
    """
    n = int(said.sizes[0])
    weight = np.ones(len(said.first)) if said.weight is None else said.weight
    flat = said.first.astype(np.int64) * n + said.second
    games = np.bincount(flat, weight, n * n).reshape(n, n)
    wins = np.bincount(flat, weight * said.probability, n * n).reshape(n, n)
    share = np.divide(wins, games, out=np.full((n, n), np.nan), where=games > 0)
    matrix: Matrix = np.where(np.isnan(share), 1 - share.T, share)
    return matrix


def _matrix(path: Path, stored: Stored, t: int) -> Matrix:
    matrix = stored_matrix(stored.preferences.topic(t))
    n = len(matrix)
    missing = int(np.isnan(matrix[~np.eye(n, dtype=bool)]).sum()) // 2
    if missing:
        raise InputError(
            f"{path}: topic {stored.qids[t]} lacks {missing} of its {n * (n - 1) // 2} pairs: a bench needs all "
            "of them (sparring compare --schedule all; --depth as there)"
        )
    return matrix


def _judged(topics: Sequence[Candidates], qrels: Qrels) -> Judged:
    grades = [np.array([qrels[topic.qid].get(docid, -1) for docid in topic.docids], np.int64) for topic in topics]
    return Judged.from_topics(grades, [np.array(list(qrels[topic.qid].values()), np.int64) for topic in topics])


def _pointwise(topic: Candidates, run: Run) -> Matrix:
    if topic.qid not in run:
        raise UsageError(f"the pointwise run lacks topic {topic.qid}")
    scores = dict(zip(*run[topic.qid], strict=True))
    lacking = [docid for docid in topic.docids if docid not in scores]
    if lacking:
        raise UsageError(
            f"the pointwise run lacks {len(lacking)} candidates of topic {topic.qid}, such as {lacking[0]}: "
            "rerank the same run to the same depth"
        )
    return np.array([scores[docid] for docid in topic.docids], np.float64)


def _pair_tokens(preferences: Path) -> float:
    """Mean tokens of a comparison, from the meta file that `sparring compare` left; NaN without one."""
    import yaml

    meta = preferences.with_name(preferences.name + ".meta.yaml")
    if not meta.is_file():
        return float("nan")
    method = (yaml.safe_load(meta.read_text(encoding="utf-8")) or {}).get("method") or {}
    tokens, count = method.get("tokens"), method.get("groups")
    return float(tokens) / float(count) if tokens and count else float("nan")
