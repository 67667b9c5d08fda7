"""Adaptive schedules: what to compare next, given a Gaussian belief about the strengths."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import logit

from .. import registry
from ..pairs.beliefs import Belief, believe
from .asking import Rounds, require
from .swiss import zscore

register = registry.schedules.register
Array = NDArray[np.float64]
Positions = NDArray[np.int64]

CONTENDERS = 256
"""Pairs are sought among so many candidates at most: those whose place is least settled."""


@register("bayes")
@dataclass(frozen=True)
class Bayes:
    """Few large rounds of the comparisons that say most about the top k. Returns the posterior order.

    Strengths are Gaussian around the first stage and seen through noisy log-odds (see `pairs.beliefs`); how far
    the first stage is trusted, how noisy the comparator is and how much it favours whoever is shown first is
    learned from the outcomes of the topic. What is wanted are the discounts 1/log2(rank + 1) inside the top k. A
    comparison is worth the variance that it is expected to take from them, by linear prediction: with d the
    difference of strengths, v its variance and D the discounts, |cov(D, d)|^2 / (v + noise^2). Pairs are chosen
    one after another as if those before had been answered, so that a round does not ask the same thing twice.
    Both orders of a pair are never asked; who is shown first is balanced.

    Args:
        calls: comparisons in all; 2.5 per candidate where absent.
        rounds: in how many equal rounds.
        k: the cut-off that matters.
        clip: outcomes are moved into [clip, 1 - clip], so that log-odds are finite.
        stop: ends when the expected share of the discounts that is still misplaced falls below this.
        samples: posterior samples behind the covariances of discounts; each is used with its mirror image.
        rule: ``discounts`` as above; ``information`` takes the most uncertain difference, whatever its rank;
            ``deviation`` the same among candidates that may still be in the top k.
    """

    calls: int | None = None
    rounds_: int = 4
    k: int = 10
    clip: float = 0.005
    stop: float = 0.02
    samples: int = 128
    rule: Literal["discounts", "information", "deviation"] = "discounts"
    width: ClassVar[int | None] = 2
    oriented: ClassVar[bool] = True

    def __post_init__(self) -> None:
        require(self.calls is None or self.calls >= 1, "calls must be at least 1")
        require(self.rounds_ >= 1 and self.k >= 1, "rounds and k must be at least 1")
        require(0 < self.clip < 0.5, "clip must lie between 0 and 0.5")
        require(self.samples >= 2, "samples must be at least 2")

    def rounds(self, prior: Array, rng: np.random.Generator) -> Rounds[NDArray[np.int32]]:
        n = len(prior)
        first, second = np.empty(0, np.int64), np.empty(0, np.int64)
        said = np.empty(0)
        standard = zscore(prior)
        belief = _believe(first, second, said, standard)
        fresh = np.triu(np.ones((n, n), np.bool_), 1)
        for size in self._sizes(n):
            drawn = _draw(belief, self.samples, rng)
            discount = _discounts(belief.strength[0][:, None] + drawn, self.k)
            if _misplaced(discount, belief.strength[0], self.k) < self.stop:
                break
            pairs = self._pick(belief, drawn, discount, fresh, size)
            pairs = _in_order(pairs, np.bincount(first, minlength=n) - np.bincount(second, minlength=n), rng)
            fresh[pairs.min(axis=1), pairs.max(axis=1)] = False
            won = yield pairs.astype(np.int32)
            known = ~np.isnan(won)  # a quarantined outcome says nothing, not even that the two are level
            first, second = np.append(first, pairs[known, 0]), np.append(second, pairs[known, 1])
            said = np.append(said, logit(np.clip(won[known], self.clip, 1 - self.clip)))
            belief = _believe(first, second, said, standard)
        return np.argsort(-belief.strength[0], kind="stable").astype(np.int32)

    def at_budget(self, calls: int, n: int) -> Bayes:
        """The same schedule with at most ``calls`` comparisons."""
        return replace(self, calls=max(1, calls))

    def _sizes(self, n: int) -> Iterator[int]:
        """Comparisons of every round."""
        total = min(round(2.5 * n) if self.calls is None else self.calls, n * (n - 1) // 2)
        shares = np.diff(np.linspace(0, total, self.rounds_ + 1).round().astype(int))
        return (int(share) for share in shares if share)

    def _pick(
        self, belief: Belief, drawn: Array, discount: Array, fresh: NDArray[np.bool_], size: int
    ) -> Positions:
        """The ``size`` best new pairs among the contenders, best first."""
        unsettled = discount.std(axis=1)
        if self.rule == "information":
            unsettled = np.diagonal(_covariance(belief))
        elif self.rule == "deviation":
            unsettled = np.where((discount > 0).mean(axis=1) > 0.05, unsettled, -1.0)
        chosen = np.sort(np.argsort(-unsettled, kind="stable")[:CONTENDERS])
        link = (discount - discount.mean(axis=1, keepdims=True)) @ drawn[chosen].T / drawn.shape[1]
        block = np.ix_(chosen, chosen)
        open_pairs = fresh[block]
        if self.rule == "deviation":
            alive = unsettled[chosen] >= 0
            preferred = open_pairs & alive & alive[:, None]
            open_pairs = preferred if preferred.sum() >= size else open_pairs
        wanted = link if self.rule == "discounts" else None
        covariance = _covariance(belief)[block]
        # a comparator that never contradicts itself leaves no noise: what rounding leaves must not decide then
        noise = max(float(belief.noise[0]) ** 2, 1e-9 * float(np.diagonal(covariance).mean()))
        return chosen[_design(covariance, noise, wanted, open_pairs, size)]


@register("dueling")
@dataclass(frozen=True)
class Dueling:
    """Compares the most uncertain differences among candidates that may be in the top k (after VACDB, ICLR 2024).

    `bayes` with the posterior standard deviation of the difference in place of the variance of the discounts.

    Args:
        calls: comparisons in all; 2.5 per candidate where absent.
        rounds: in how many equal rounds.
        k: the cut-off that matters.
    """

    calls: int | None = None
    rounds_: int = 4
    k: int = 10
    width: ClassVar[int | None] = 2
    oriented: ClassVar[bool] = True

    def __post_init__(self) -> None:
        self._rule()

    def rounds(self, prior: Array, rng: np.random.Generator) -> Rounds[NDArray[np.int32]]:
        return self._rule().rounds(prior, rng)

    def at_budget(self, calls: int, n: int) -> Dueling:
        """The same schedule with at most ``calls`` comparisons."""
        return replace(self, calls=max(1, calls))

    def _rule(self) -> Bayes:
        return Bayes(calls=self.calls, rounds_=self.rounds_, k=self.k, rule="deviation")


def _believe(first: Positions, second: Positions, said: Array, standard: Array) -> Belief:
    return believe(np.array([0, len(first)]), first, second, said, standard[None, :], covariance=True)


def _covariance(belief: Belief) -> Array:
    """The covariance of the only topic, (n, n)."""
    if belief.covariance is None:
        raise ValueError("the belief was formed without its covariance")
    return np.asarray(belief.covariance[0])


def _draw(belief: Belief, samples: int, rng: np.random.Generator) -> Array:
    """Deviations from the posterior mean and their mirror images, (n, 2 samples)."""
    value, basis = np.linalg.eigh(_covariance(belief))
    root = (basis * np.sqrt(np.maximum(value, 0.0))) @ basis.T  # symmetric: the signs of eigenvectors cancel
    half = root @ rng.standard_normal((len(value), samples))
    return np.concatenate([half, -half], axis=1)


def _discounts(drawn: Array, k: int) -> Array:
    """The nDCG discount that every candidate would get in every sample, 0 beyond rank k, (n, samples)."""
    order = np.argsort(-drawn, axis=0, kind="stable")[:k]
    discount = np.zeros_like(drawn)
    np.put_along_axis(discount, order, 1 / np.log2(np.arange(len(order)) + 2)[:, None], axis=0)
    return discount


def _misplaced(discount: Array, strength: Array, k: int) -> float:
    """Expected share of all discounts that lies elsewhere than the present order puts it."""
    present = _discounts(strength[:, None], k)
    total = 2 * present.sum()
    return float(np.abs(discount - present).sum(axis=0).mean() / total) if total else 0.0


def _design(covariance: Array, noise: float, link: Array | None, fresh: NDArray[np.bool_], size: int) -> Positions:
    """Pairs that, answered with variance ``noise``, take most variance: each after those before, (size, 2).

    With ``link``, the covariance of what is wanted and the strengths, (w, n), that of what is wanted; without it
    the largest variance of a difference is taken next. An answer about the difference d of variance v turns the
    covariance V into V - Vdd'V / (v + noise), and ``link`` likewise; of V and of link' link only the spreads
    m_ii + m_jj - 2 m_ij are kept up to date. O(n^2) per pair.
    """
    covariance = covariance.copy()
    spread = _spread(covariance)
    gain = np.where(fresh, spread if link is None else _spread(link.T @ link), -np.inf)
    chosen = np.empty((min(size, int(fresh.sum())), 2), np.int64)
    for row in range(len(chosen)):
        value = gain if link is None else gain / (spread + noise)
        i, j = divmod(int(np.argmax(value)), len(fresh))
        chosen[row] = i, j
        moved = covariance[:, i] - covariance[:, j]
        learned = moved / (moved[i] - moved[j] + noise)
        covariance -= np.outer(moved, learned)
        gap = np.subtract.outer(learned, learned)
        taken = np.subtract.outer(moved, moved) * gap
        spread -= taken
        if link is None:
            gain -= taken
        else:
            apart = link[:, i] - link[:, j]
            pull = link.T @ apart
            gain += gap * ((apart @ apart) * gap - 2 * np.subtract.outer(pull, pull))
            link = link - np.outer(apart, learned)
        gain[i, j] = -np.inf
    return chosen


def _spread(matrix: Array) -> Array:
    """m_ii + m_jj - 2 m_ij, (n, n)."""
    diagonal = np.diagonal(matrix)
    return np.asarray(diagonal[:, None] + diagonal - 2 * matrix)


def _in_order(pairs: Positions, lead: Positions, rng: np.random.Generator) -> Positions:
    """Shows first whoever was shown first less often so far; a coin decides between equals."""
    coins = rng.random(len(pairs)) < 0.5
    lead = lead.copy()
    ordered = pairs.copy()
    for row, coin in zip(ordered, coins, strict=True):
        a, b = row
        if lead[a] > lead[b] or (lead[a] == lead[b] and coin):
            row[:] = b, a
        lead[row[0]] += 1
        lead[row[1]] -= 1
    return ordered
