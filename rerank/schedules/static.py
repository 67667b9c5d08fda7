"""Schedules that ask everything in one round, and do not look at the answers."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from .. import registry
from .asking import Rounds, once, pairs, require

register = registry.schedules.register


@register("pointwise")
@dataclass(frozen=True)
class Pointwise:
    """Every candidate by itself, once."""

    width: ClassVar[int | None] = 1
    oriented: ClassVar[bool] = True

    def rounds(self, prior: NDArray[np.float64], rng: np.random.Generator) -> Rounds[None]:
        return once(np.arange(len(prior), dtype=np.int32)[:, None])


@register("whole")
@dataclass(frozen=True)
class Whole:
    """All candidates as one list, for models that take lists of any length."""

    width: ClassVar[int | None] = None
    oriented: ClassVar[bool] = True

    def rounds(self, prior: NDArray[np.float64], rng: np.random.Generator) -> Rounds[None]:
        return once(np.arange(len(prior), dtype=np.int32)[None, :][: len(prior)])


@register("all")
@dataclass(frozen=True)
class All:
    """All n(n-1) ordered pairs, those of the best-placed candidates first."""

    width: ClassVar[int | None] = 2
    oriented: ClassVar[bool] = True

    def rounds(self, prior: NDArray[np.float64], rng: np.random.Generator) -> Rounds[None]:
        n = len(prior)
        first, second = np.divmod(np.arange(n * n), max(n, 1))
        order = np.argsort(np.maximum(first, second), kind="stable")
        order = order[first[order] != second[order]]
        return once(pairs(first[order], second[order]))


@register("random")
@dataclass(frozen=True)
class Random:
    """Every document as first meets the same number of random opponents (Sparse Pairwise, ICTIR 2022).

    Args:
        rate: share of the n(n-1) ordered pairs. Where it does not give every document a whole number of
            opponents, random documents get one more. A pair comes back swapped only beyond half of all.
    """

    rate: float = 0.1
    width: ClassVar[int | None] = 2
    oriented: ClassVar[bool] = False

    def __post_init__(self) -> None:
        _check_rate(self.rate)

    def rounds(self, prior: NDArray[np.float64], rng: np.random.Generator) -> Rounds[None]:
        return once(_per_document(np.ones((len(prior), len(prior))), self.rate, rng))

    def at_budget(self, calls: int, n: int) -> Random:
        """The same schedule with at most ``calls`` comparisons of ``n`` candidates."""
        return replace(self, rate=_rate(calls, n))


@register("biased_random")
@dataclass(frozen=True)
class BiasedRandom:
    """Random opponents, preferring close pairs and pairs near the top (Sparse Pairwise, ICTIR 2022).

    With s counting from 0 for the last to n-1 for the first candidate, a pair is drawn in proportion to
    (1 - |s_a - s_b| / n)^spread * ((s_a + s_b) / 2n)^bias.

    Args:
        rate: share of the ordered pairs, dealt out as in `random`.
        spread: how much close pairs are preferred.
        bias: how much pairs near the top are preferred.
    """

    rate: float = 0.1
    spread: float = 1.0
    bias: float = 1.0
    width: ClassVar[int | None] = 2
    oriented: ClassVar[bool] = False

    def __post_init__(self) -> None:
        _check_rate(self.rate)

    def rounds(self, prior: NDArray[np.float64], rng: np.random.Generator) -> Rounds[None]:
        n = len(prior)
        s = np.arange(n - 1.0, -1.0, -1.0)
        closeness = 1 - np.abs(s[:, None] - s) / max(n, 1)
        height = np.maximum((s[:, None] + s) / max(2 * n, 1), 0.5 / max(2 * n, 1))  # only a self-pair has 0
        return once(_per_document(closeness**self.spread * height**self.bias, self.rate, rng))

    def at_budget(self, calls: int, n: int) -> BiasedRandom:
        """The same schedule with at most ``calls`` comparisons of ``n`` candidates."""
        return replace(self, rate=_rate(calls, n))


@register("random_global")
@dataclass(frozen=True)
class RandomGlobal:
    """One draw over all pairs, in proportion to a power of their distance in first-stage rank.

    Args:
        rate: share of the n(n-1) ordered pairs. A pair comes back swapped only beyond half of all.
        exponent: above 0 prefers distant pairs, below 0 close ones, 0 none.
    """

    rate: float = 0.1
    exponent: float = 0.0
    width: ClassVar[int | None] = 2
    oriented: ClassVar[bool] = False

    def __post_init__(self) -> None:
        _check_rate(self.rate)

    def rounds(self, prior: NDArray[np.float64], rng: np.random.Generator) -> Rounds[None]:
        n = len(prior)
        upper, lower = np.triu_indices(n, 1)
        keys = rng.standard_exponential(len(upper)) / (lower - upper).astype(np.float64) ** self.exponent
        order = np.argsort(keys)  # exponential races draw without replacement in proportion to the weights
        every = np.concatenate([pairs(upper[order], lower[order]), pairs(lower[order], upper[order])])
        return once(every[: round(self.rate * n * (n - 1))])

    def at_budget(self, calls: int, n: int) -> RandomGlobal:
        """The same schedule with at most ``calls`` comparisons of ``n`` candidates."""
        return replace(self, rate=_rate(calls, n))


@register("grouped")
@dataclass(frozen=True)
class Grouped:
    """All pairs inside each of several groups, and between each group and the one before (ICTIR 2022).

    With p = n / groups that is groups * p(p-1)/2 + (groups-1) * p^2 pairs, each once.

    Args:
        groups: into how many equal parts the candidates are cut.
        shuffle: cut a random order, not that of the first stage.
        ends: also compare the first group with the last.
    """

    groups: int = 5
    shuffle: bool = True
    ends: bool = False
    width: ClassVar[int | None] = 2
    oriented: ClassVar[bool] = False

    def __post_init__(self) -> None:
        require(self.groups >= 1, "groups must be at least 1")

    def rounds(self, prior: NDArray[np.float64], rng: np.random.Generator) -> Rounds[None]:
        n = len(prior)
        group = np.arange(n) * self.groups // max(n, 1)
        first, second = np.triu_indices(n, 1)
        gap = group[second] - group[first]
        wanted = (gap <= 1) | (self.ends & (gap == self.groups - 1))
        label = rng.permutation(n) if self.shuffle else np.arange(n)
        return once(pairs(label[first[wanted]], label[second[wanted]]))

    def at_budget(self, calls: int, n: int) -> Grouped:
        """The fewest groups that need at most ``calls`` comparisons of ``n`` candidates, else n groups."""
        for groups in range(1, n):
            group = np.arange(n) * groups // n
            sizes = np.bincount(group, minlength=groups)
            cost = (sizes * (sizes - 1) // 2).sum() + (sizes[1:] * sizes[:-1]).sum()
            if cost + (sizes[0] * sizes[-1] if self.ends and groups > 2 else 0) <= calls:
                return replace(self, groups=groups)
        return replace(self, groups=max(n, 1))


@register("anchors")
@dataclass(frozen=True)
class Anchors:
    """Everyone against a few anchors around the cut-off, first-stage ranks k/2 to 2k.

    Args:
        count: how many anchors.
        k: the cut-off that matters.
    """

    count: int = 5
    k: int = 10
    width: ClassVar[int | None] = 2
    oriented: ClassVar[bool] = False

    def __post_init__(self) -> None:
        require(self.count >= 1 and self.k >= 1, "count and k must be at least 1")

    def rounds(self, prior: NDArray[np.float64], rng: np.random.Generator) -> Rounds[None]:
        n = len(prior)
        count = min(self.count, n)
        low = min(max(self.k // 2, 0), n - count)
        high = max(min(2 * self.k, n) - 1, low + count - 1)
        anchors = np.linspace(low, high, count).round().astype(np.int64)
        is_anchor = np.isin(np.arange(n), anchors)
        candidate, anchor = (x.ravel() for x in np.meshgrid(np.arange(n), anchors, indexing="ij"))
        # two anchors meet once, and nobody meets themselves
        wanted = (candidate < anchor) | ((candidate > anchor) & ~is_anchor[candidate])
        return once(pairs(candidate[wanted], anchor[wanted]))

    def at_budget(self, calls: int, n: int) -> Anchors:
        """As many anchors as ``calls`` comparisons of ``n`` candidates pay for, at least one."""
        counts = np.arange(1, max(n, 2))
        affordable = counts[counts * (n - counts) + counts * (counts - 1) // 2 <= calls]
        return replace(self, count=int(affordable[-1]) if len(affordable) else 1)


def _check_rate(rate: float) -> None:
    require(0 <= rate <= 1, f"rate must lie between 0 and 1, found {rate}")


def _rate(calls: int, n: int) -> float:
    return round(min(1.0, calls / max(n * (n - 1), 1)), 9)


def _per_document(weights: NDArray[np.float64], rate: float, rng: np.random.Generator) -> NDArray[np.int32]:
    """Opponents of every document as first, drawn without replacement in proportion to ``weights``, shuffled."""
    n = len(weights)
    total = round(rate * n * (n - 1))
    if not total:
        return np.empty((0, 2), np.int32)
    quota = np.full(n, total // n)
    quota[rng.permutation(n)[: total % n]] += 1
    keys = rng.standard_exponential((n, n)) / np.maximum(weights, 1e-300)
    met = np.eye(n, dtype=np.bool_)
    drawn = []
    for a in rng.permutation(n):
        # opponents already met come back, swapped, only when there is nobody else
        order = np.lexsort((keys[a], met[a] | met[:, a]))
        opponents = order[order != a][: quota[a]]
        met[a, opponents] = True
        drawn.append(pairs(np.full(len(opponents), a), opponents))
    return rng.permutation(np.concatenate(drawn))
