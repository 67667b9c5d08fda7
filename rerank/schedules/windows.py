"""Windows over the first-stage order: structured pairs, and lists that slide from the bottom to the top."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from .. import registry
from .asking import Rounds, once, pairs, require

register = registry.schedules.register


@register("window")
@dataclass(frozen=True)
class Window:
    """Every candidate against those skip, 2 skip, ... m skip ranks below, wrapping around (ICTIR 2022).

    n * m pairs. A skip that shares a divisor with n would come back to the same opponents early, so the next
    larger one that does not is taken. Up to m = (n-1)/2 no pair is asked in both orders.

    Args:
        m: opponents per candidate.
        skip: distance between two opponents; 1 is the plain window.
        calls: stop after so many pairs; the last opponents are then met from the top down only.
    """

    m: int = 5
    skip: int = 1
    calls: int | None = None
    width: ClassVar[int | None] = 2
    oriented: ClassVar[bool] = False

    def __post_init__(self) -> None:
        require(self.m >= 1 and self.skip >= 1, "m and skip must be at least 1")
        require(self.calls is None or self.calls >= 0, "calls must not be negative")

    def rounds(self, prior: NDArray[np.float64], rng: np.random.Generator) -> Rounds[None]:
        n = len(prior)
        steps = np.arange(1, min(self.m, n - 1) + 1)
        skip = next(skip for skip in itertools.count(self.skip) if math.gcd(skip, max(n, 1)) == 1)
        return once(_at_offsets(steps * skip % max(n, 1), n)[: self.calls])

    def at_budget(self, calls: int, n: int) -> Window:
        """The same skip with ``calls`` comparisons of ``n`` candidates."""
        return replace(self, m=_opponents(calls, n), calls=None if calls % max(n, 1) == 0 else calls)


@register("biased_window")
@dataclass(frozen=True)
class BiasedWindow:
    """Like `window`, with opponents at log-spaced distances: dense nearby, sparse far away.

    Args:
        m: opponents per candidate; fewer where the distances round to the same rank.
        reach: the largest distance; half of the list where absent.
        calls: stop after so many pairs, nearest opponents first.
    """

    m: int = 5
    reach: int | None = None
    calls: int | None = None
    width: ClassVar[int | None] = 2
    oriented: ClassVar[bool] = False

    def __post_init__(self) -> None:
        require(self.m >= 1 and (self.reach is None or self.reach >= 1), "m and reach must be at least 1")
        require(self.calls is None or self.calls >= 0, "calls must not be negative")

    def rounds(self, prior: NDArray[np.float64], rng: np.random.Generator) -> Rounds[None]:
        n = len(prior)
        return once(_at_offsets(self._offsets(n), n)[: self.calls])

    def at_budget(self, calls: int, n: int) -> BiasedWindow:
        """As many opponents as ``calls`` comparisons of ``n`` candidates pay for."""
        return replace(self, m=_opponents(calls, n), calls=calls)

    def _offsets(self, n: int) -> NDArray[np.int64]:
        farthest = max(1, min((n - 1) // 2 if self.reach is None else self.reach, n - 1))
        return np.unique(np.geomspace(1, farthest, self.m).round().astype(np.int64))


@register("sliding")
@dataclass(frozen=True)
class Sliding:
    """A list-wise window that moves from the bottom to the top and carries its best with it (RankGPT).

    One call per window and round. Returns the final order.

    Args:
        size: candidates per window.
        stride: how far the window moves up; the upper ``size - stride`` are carried along.
        passes: how often the whole list is gone through.
    """

    size: int = 20
    stride: int = 10
    passes: int = 1
    width: ClassVar[int | None] = None
    oriented: ClassVar[bool] = True

    def __post_init__(self) -> None:
        require(self.size >= 2 and self.passes >= 1, "size must be at least 2 and passes at least 1")
        require(1 <= self.stride <= self.size, "stride must lie between 1 and size")

    def rounds(self, prior: NDArray[np.float64], rng: np.random.Generator) -> Rounds[NDArray[np.int32]]:
        order = np.arange(len(prior), dtype=np.int32)
        tops = range(max(len(order) - self.size, 0), -self.stride, -self.stride) if len(order) else ()
        for top in [max(top, 0) for _ in range(self.passes) for top in tops]:
            window = order[top : top + self.size]
            scores = (yield window[None, :].copy())[0]
            if not np.isnan(scores).all():
                order[top : top + self.size] = window[
                    np.argsort(-np.nan_to_num(scores, nan=-np.inf), kind="stable")
                ]
        return order


def _opponents(calls: int, n: int) -> int:
    """Opponents per candidate that use up ``calls``, the last ones in part."""
    return min(max(1, -(-calls // max(n, 1))), max(1, n - 1))


def _at_offsets(offsets: NDArray[np.integer], n: int) -> NDArray[np.int32]:
    """Everyone against the candidate each offset below, offset by offset, from the top down."""
    if n < 2 or not len(offsets):
        return np.empty((0, 2), np.int32)
    first = np.tile(np.arange(n), len(offsets))
    second = (first + np.repeat(offsets, n)) % n
    return pairs(first, second)
