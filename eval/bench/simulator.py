"""A simulated judge of pairs: a utility per document and noise per pair, calibrated to published statistics.

With grade g of a document and standard normal e (document), a (pair, antisymmetric) and o (order), the pair (i, j)
with i shown first has

    logit P[i, j] = u_i - u_j + pair_error * a_ij + order_error * o_ij + order_bias
    u             = grade * g + document_error * e

so that errors of documents cannot be averaged away by asking more, those of pairs can by asking about others, and
those of orders by asking in both. What comes out is a simulation, and every file that holds it says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from ...rerank.pairs.diagnostics import TIE
from ...rerank.rounds import topic_rng
from ...rerank.vocabulary import Preferences
from ..measures.batched import Judged, RankValue, pad

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Judge:
    """How good a simulated judge is, in logits: what a grade is worth, and the sizes of its errors."""

    grade: float = 1.0
    document_error: float = 1.0
    pair_error: float = 1.0
    order_error: float = 1.0
    order_bias: float = 0.3


@dataclass(frozen=True)
class Statistics:
    """What is known of a judge.

    ``flip_rate`` and ``correlation`` (of P_ab and 1 - P_ba) are as in `diagnose`; ``min_transitivity`` is the
    share of ordered triples with min(P_ab, P_bc) <= P_ac, each pair in the order written; ``ndcg`` is nDCG@10 of
    all pairs (mean probability). The defaults resemble duoT5-3B on TREC DL 2019.
    """

    flip_rate: float = 0.31
    correlation: float = 0.57
    min_transitivity: float = 0.76
    ndcg: float = 0.70

    def as_dict(self) -> dict[str, float]:
        """The four numbers by name, rounded."""
        return {item.name: round(float(getattr(self, item.name)), 4) for item in fields(self)}


@dataclass(frozen=True, slots=True)
class World:
    """One topic of a simulation: grades of its candidates, all judged grades, and what chance has in store.

    ``error`` is standard normal, (n,); ``pair`` antisymmetric and ``order`` free standard normals, (n, n).
    """

    qid: str
    docids: tuple[str, ...]
    grades: Ints
    pool: Ints
    error: Floats = field(repr=False)
    pair: Floats = field(repr=False)
    order: Floats = field(repr=False)

    def matrix(self, judge: Judge) -> Floats:
        """P(i beats j), i shown first, (n, n); NaN on the diagonal."""
        utility = judge.grade * np.maximum(self.grades, 0) + judge.document_error * self.error
        logits = utility[:, None] - utility + judge.order_bias
        matrix: Floats = expit(logits + judge.pair_error * self.pair + judge.order_error * self.order)
        np.fill_diagonal(matrix, np.nan)
        return matrix


def make_world(
    qid: str,
    docids: Sequence[str],
    grades: dict[str, int],
    seed: int,
    scores: Floats | None = None,
    shared_error: float = 0.6,
) -> World:
    """Draws a topic's errors from (seed, qid).

    With first-stage ``scores``, (n,), the judge's document errors correlate by ``shared_error`` with those of the
    first stage, which are what the grades leave unexplained of its scores: neural models err alike.
    """
    rng = topic_rng(seed, qid)
    n = len(docids)
    own = np.array([max(grades.get(docid, 0), 0) for docid in docids], np.int64)
    error = rng.standard_normal(n)
    pair = rng.standard_normal((n, n))
    order = rng.standard_normal((n, n))
    if scores is not None and n > 2:
        rest = _residual(scores, own.astype(np.float64))
        error = shared_error * rest + np.sqrt(1 - shared_error**2) * error
    antisymmetric = np.triu(pair, 1) - np.triu(pair, 1).T
    return World(qid, tuple(docids), own, np.array(list(grades.values()), np.int64), error, antisymmetric, order)


def _residual(scores: Floats, grades: Floats) -> Floats:
    """What a linear fit on grades leaves of the scores, standardised; zeros where nothing is left."""
    design = np.stack([np.ones(len(grades)), grades], axis=1)
    rest = scores - design @ np.linalg.lstsq(design, scores, rcond=None)[0]
    spread = rest.std()
    return np.asarray(rest / spread) if spread > 1e-12 else np.zeros(len(scores))


def measure(worlds: Sequence[World], judge: Judge) -> Statistics:
    """The statistics that this judge has on these topics, pooled over them."""
    judged = Judged.from_topics([world.grades for world in worlds], [world.pool for world in worlds])
    return _measure(worlds, judge, judged)


def _measure(worlds: Sequence[World], judge: Judge, judged: Judged) -> Statistics:
    there, back, transitive, triples, orders = [], [], 0, 0, []
    for world in worlds:
        matrix = world.matrix(judge)
        n = len(matrix)
        upper = np.triu_indices(n, 1)
        there.append(matrix[upper])
        back.append(matrix.T[upper])
        known = np.nan_to_num(matrix, nan=2.0)  # the diagonal never is the smaller of two
        middle = np.arange(0, n, max(1, n // 12))  # every so many b suffice
        weaker = np.minimum(known[:, middle, None], known[None, middle, :])
        fine = weaker <= known[:, None, :] + TIE  # the same allowance as `diagnose`
        a, b, c = np.ix_(np.arange(n), middle, np.arange(n))
        real = (a != b) & (b != c) & (a != c)
        transitive += int((fine & real).sum())
        triples += int(real.sum())
        wins = np.nansum(matrix, axis=1) + np.nansum(1 - matrix, axis=0)
        orders.append(np.argsort(-wins, kind="stable"))
    p, q = np.concatenate(there), np.concatenate(back)
    left, right = np.concatenate([p, q]), 1 - np.concatenate([q, p])
    placed = pad(orders, -1)
    ranked = np.where(placed >= 0, np.take_along_axis(judged.grades, np.maximum(placed, 0), axis=1), -2)
    return Statistics(
        flip_rate=float(((p - 0.5) * (q - 0.5) > 0).mean()),
        correlation=float(np.corrcoef(left, right)[0, 1]),
        min_transitivity=transitive / max(triples, 1),
        ndcg=float(RankValue("nDCG", cutoff=10)(ranked, judged).mean()),
    )


def calibrate(worlds: Sequence[World], wanted: Statistics, start: Judge | None = None, steps: int = 250) -> Judge:
    """The judge whose statistics on these topics come nearest to ``wanted`` (Nelder-Mead on log sizes).

    The chance is that of the worlds, so the same worlds and wishes give the same judge. `measure` says what was
    reached: a utility model cannot have every combination of statistics.
    """
    from scipy import optimize

    judged = Judged.from_topics([world.grades for world in worlds], [world.pool for world in worlds])
    names = [item.name for item in fields(Judge)]
    first = start or Judge()

    def judge(x: Floats) -> Judge:
        return Judge(**dict(zip(names, np.exp(x).tolist(), strict=True)))

    def miss(x: Floats) -> float:
        got = _measure(worlds, judge(x), judged).as_dict()
        aim = wanted.as_dict()
        spread = float(np.square(np.clip(np.abs(x) - 3, 0, None)).sum())  # nothing beyond e^3 logits
        return float(sum(((got[name] - aim[name]) / 0.01) ** 2 for name in aim) + spread)

    x = np.log([getattr(first, name) for name in names])
    simplex = np.concatenate([x[None], x + 0.7 * np.eye(len(x))])
    found = optimize.minimize(
        miss, x, method="Nelder-Mead", options={"maxfev": steps, "fatol": 1e-3, "initial_simplex": simplex}
    )
    return judge(found.x)


def first_stage(worlds: Sequence[World], ndcg: float, seed: int, shared_error: float = 0.6) -> list[Floats]:
    """Scores of a simulated first stage whose nDCG@10 is ``ndcg``, as near as error alone can bring it, (n,) each.

    A score is the grade plus an error that correlates by ``shared_error`` with that of the judge.
    """
    judged = Judged.from_topics([world.grades for world in worlds], [world.pool for world in worlds])
    errors = [
        shared_error * world.error
        + np.sqrt(1 - shared_error**2)
        * topic_rng(seed, f"first stage of {world.qid}").standard_normal(len(world.error))
        for world in worlds
    ]
    value = RankValue("nDCG", cutoff=10)

    def scores(size: float) -> list[Floats]:
        return [np.asarray(world.grades + size * error) for world, error in zip(worlds, errors, strict=True)]

    def reached(size: float) -> float:
        orders = pad([np.argsort(-s, kind="stable") for s in scores(size)], -1)
        ranked = np.where(orders >= 0, np.take_along_axis(judged.grades, np.maximum(orders, 0), axis=1), -2)
        return float(value(ranked, judged).mean())

    low, high = 0.01, 50.0
    for _ in range(30):  # quality falls as the error grows, up to chance
        middle = float(np.sqrt(low * high))
        low, high = (middle, high) if reached(middle) > ndcg else (low, middle)
    return scores(float(np.sqrt(low * high)))


def label(judge: Judge, wanted: Statistics, reached: Statistics, seed: int) -> dict[str, Any]:
    """What a file of simulated preferences says about itself."""
    return {
        "simulation": True,
        "note": "simulated preferences on real qrels; no model was asked",
        "judge": {item.name: round(float(getattr(judge, item.name)), 4) for item in fields(judge)},
        "wanted": wanted.as_dict(),
        "reached": reached.as_dict(),
        "seed": seed,
    }


def preferences(world: World, judge: Judge) -> Preferences:
    """All ordered pairs of a topic."""
    matrix = world.matrix(judge)
    n = len(matrix)
    first, second = (side.astype(np.int32) for side in np.nonzero(~np.eye(n, dtype=bool)))
    return Preferences(np.array([n]), np.array([0, len(first)]), first, second, matrix[first, second])
