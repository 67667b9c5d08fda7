"""How consistent a judge is: what one set of preferences says about itself, before any qrels."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..vocabulary import Preferences
from .flow import edge_flow, gradient
from .graph import components
from .solving import select
from .table import Table, tally

Array = NDArray[np.float64]

CELLS = 1 << 18
"""Cells of a padded (q, n, n) array worked on at once."""

MIDDLES = 256
"""Middle candidates per batch for which min-transitivity is counted."""

TIE = 1e-9
"""How near to 0.5 a probability is a tie."""


@dataclass(frozen=True)
class Diagnostics:
    """Consistency of preferences, pooled over topics; NaN where the data cannot say (no pair in both orders ...).

    Args:
        topics, candidates, comparisons: how many there are.
        pairs: unordered pairs that were compared at least once.
        coverage: pairs / all unordered pairs.
        comparisons_per_candidate: mean number of comparisons that a candidate took part in.
        unsampled: candidates without any comparison.
        components: connected components of the comparison graphs, all topics together; one each
            is the least.
        tie_rate: share of comparisons with p = 0.5.
        first_wins: mean p, the share of games won by whoever was shown first; 0.5 without order bias if the order
            was random.
        both_orders: pairs that were asked in both orders.
        flip_rate: share of these whose verdict depends on the order (P_ab and P_ba on the same side of 0.5).
        asymmetry: mean |P_ab - (1 - P_ba)| over these.
        correlation: Pearson's correlation of P_ab and 1 - P_ba over these, each pair counted from both sides.
        triads: triples whose three pairs were all compared and none tied.
        cyclic_triads: triads a beats b beats c beats a.
        cyclic_rate: cyclic / all triads; 0.25 for coin tosses.
        min_transitivity: share of ordered triples (a, b, c), all compared, with min(p_ab, p_bc) <= p_ac; above
            256 candidates estimated from 256 evenly spaced b.
        inconsistency: Hodge ratio |Y - grad s| / |Y| of the flow Y = 2p - 1: what no scores can explain, 0 to 1.
    """

    topics: int
    candidates: int
    comparisons: int
    pairs: int
    coverage: float
    comparisons_per_candidate: float
    unsampled: int
    components: int
    tie_rate: float
    first_wins: float
    both_orders: int
    flip_rate: float
    asymmetry: float
    correlation: float
    triads: int
    cyclic_triads: int
    cyclic_rate: float
    min_transitivity: float
    inconsistency: float

    def __str__(self) -> str:
        """A few lines for people, one subject per line."""
        ragged = "every topic connected" if self.components <= self.topics else f"{self.components} components"
        alone = f"; never compared: {self.unsampled} candidates" if self.unsampled else ""
        lines = [
            f"comparisons   {self.comparisons} of {self.pairs} pairs ({_percent(self.coverage)} of all), "
            f"{self.topics} topics, {self.candidates} candidates, "
            f"{self.comparisons_per_candidate:.1f} per candidate",
            f"connectivity  {ragged}{alone}",
            f"ties          {_percent(self.tie_rate)} of comparisons",
            f"order         first wins {_percent(self.first_wins)}",
            _both_orders_line(self),
            _triads_line(self),
            f"cyclic flow   {_number(self.inconsistency)} of the flow's norm (Hodge inconsistency)",
        ]
        return "\n".join(lines)


def diagnose(preferences: Preferences) -> Diagnostics:
    """Diagnostics of all topics together, from one pass over batches of topics.

    Pairs are judged by their mean probability over all games, weighted; orders by the games shown that way.
    """
    played = _played(preferences)
    sums = np.zeros(8)
    moments: list[Array] = []
    for topics in _batches(played.sizes):
        part = select(played, topics)
        table = Table(part, np.zeros((len(topics), int(part.sizes.max()))))
        both = _both_orders(table)
        moments.append(both)
        sums += np.concatenate([_pair_sums(table), _triad_sums(table), _flow_sums(table)])
    pairs, possible, triads, cyclic, triples, transitive, residual, flow = sums
    there, back = np.concatenate([*moments, np.empty((2, 0))], axis=1)
    degree = _degree(played)
    weight = np.ones(len(played.first)) if played.weight is None else played.weight
    return Diagnostics(
        topics=len(played),
        candidates=int(played.sizes.sum()),
        comparisons=len(played.first),
        pairs=int(pairs),
        coverage=_ratio(pairs, possible),
        comparisons_per_candidate=_ratio(float(degree.sum()), len(degree)),
        unsampled=int((degree == 0).sum()),
        components=len(np.unique(components(played))),
        tie_rate=_ratio(float((np.abs(played.probability - 0.5) <= TIE).sum()), len(played.first)),
        first_wins=_ratio(float(weight @ played.probability), float(weight.sum())),
        both_orders=len(there),
        flip_rate=_ratio(float(((there - 0.5) * (back - 0.5) > 0).sum()), len(there)),
        asymmetry=_ratio(float(np.abs(there - (1 - back)).sum()), len(there)),
        correlation=_correlation(np.concatenate([there, back]), 1 - np.concatenate([back, there])),
        triads=int(triads),
        cyclic_triads=int(cyclic),
        cyclic_rate=_ratio(cyclic, triads),
        min_transitivity=_ratio(transitive, triples),
        inconsistency=float(np.sqrt(_ratio(residual, flow))),
    )


def _played(preferences: Preferences) -> Preferences:
    """The comparisons that count: those of positive weight."""
    if preferences.weight is None or (preferences.weight > 0).all():
        return preferences
    kept = preferences.weight > 0
    before = np.concatenate([[0], np.cumsum(kept)])
    return dataclasses.replace(
        preferences,
        offsets=before[preferences.offsets],
        first=preferences.first[kept],
        second=preferences.second[kept],
        probability=preferences.probability[kept],
        weight=preferences.weight[kept],
        source=None if preferences.source is None else preferences.source[kept],
    )


def _batches(sizes: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    order = np.flatnonzero(sizes)
    order = order[np.argsort(-sizes[order], kind="stable")]
    batches = []
    while len(order):
        count = max(1, int(CELLS // sizes[order[0]] ** 2))
        batches.append(order[:count])
        order = order[count:]
    return batches


def _degree(preferences: Preferences) -> NDArray[np.int64]:
    """Comparisons per candidate, (sum of sizes,)."""
    starts = np.cumsum(preferences.sizes) - preferences.sizes
    shift = np.repeat(starts, np.diff(preferences.offsets))
    ends = np.concatenate([shift + preferences.first, shift + preferences.second])
    return np.bincount(ends, minlength=int(preferences.sizes.sum()))


def _both_orders(table: Table) -> Array:
    """P_ab and P_ba of the pairs that were asked in both orders, (2, pairs)."""
    said, (count, n) = table.preferences, table.mask.shape
    cell = (table.topic * n + said.first) * n + said.second
    asked = tally(cell, table.weight, (count, n, n))
    won = tally(cell, table.weight * said.probability, (count, n, n))
    both = (asked > 0) & (asked.transpose(0, 2, 1) > 0) & np.triu(np.ones((n, n), dtype=bool))
    share = np.divide(won, asked, out=np.zeros_like(won), where=asked > 0)
    return np.stack([share[both], share.transpose(0, 2, 1)[both]])


def _pair_sums(table: Table) -> Array:
    """Pairs compared, pairs possible."""
    return np.array([(table.games > 0).sum() / 2, (table.sizes * (table.sizes - 1)).sum() / 2])


def _triad_sums(table: Table) -> Array:
    """Decided triads, cyclic ones, fully compared ordered triples, min-transitive ones.

    For a complete tournament with out-degrees d the cyclic ones are C(n, 3) - sum of C(d, 2).
    """
    games, n = table.games, table.mask.shape[1]
    met = games > 0
    share = np.divide(table.wins, games, out=np.zeros_like(games), where=met)
    beats = (met & (share > 0.5 + TIE)).astype(np.float64)
    decided = beats + beats.transpose(0, 2, 1)
    cyclic = ((beats @ beats) * beats.transpose(0, 2, 1)).sum() / 3
    triads = ((decided @ decided) * decided).sum() / 6
    triples = transitive = 0.0
    middles = np.unique(np.linspace(0, n - 1, min(n, MIDDLES)).astype(np.int64))
    for middle in middles:
        known = met[:, :, middle, None] & met[:, None, middle, :] & met
        weaker = np.minimum(share[:, :, middle, None], share[:, None, middle, :])
        triples += known.sum()
        transitive += (known & (weaker <= share + TIE)).sum()
    return np.array([triads, cyclic, triples, transitive])


def _flow_sums(table: Table) -> Array:
    """Squared norms, weighted by games, of the cyclic part of the flow and of the flow."""
    flow = edge_flow(table.wins, table.games, "linear")
    scores = gradient(flow, table.games, table, 0.0)
    rest = flow - (scores[:, :, None] - scores[:, None, :])
    return np.array([(table.games * rest**2).sum(), (table.games * flow**2).sum()])


def _correlation(left: Array, right: Array) -> float:
    if len(left) < 2 or np.ptp(left) == 0 or np.ptp(right) == 0:
        return float("nan")
    return float(np.corrcoef(left, right)[0, 1])


def _ratio(part: float, whole: float) -> float:
    return float(part / whole) if whole else float("nan")


def _percent(share: float) -> str:
    return "-" if np.isnan(share) else f"{100 * share:.1f} %"


def _number(value: float) -> str:
    return "-" if np.isnan(value) else f"{value:.3f}"


def _both_orders_line(said: Diagnostics) -> str:
    if not said.both_orders:
        return "both orders   no pair was asked in both orders"
    return (
        f"both orders   {said.both_orders} pairs: {_percent(said.flip_rate)} flip, mean |P_ab - (1 - P_ba)| "
        f"{_number(said.asymmetry)}, correlation {_number(said.correlation)}"
    )


def _triads_line(said: Diagnostics) -> str:
    if not said.triads:
        return "triads        no three candidates were all compared with one another"
    return (
        f"triads        {said.cyclic_triads} of {said.triads} cyclic ({_percent(said.cyclic_rate)}), "
        f"min-transitivity {_percent(said.min_transitivity)}"
    )
