"""Cheap blocks for everyone, then pairs where it matters."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from .. import registry
from ..pairs.dense_newton import fit
from ..vocabulary import Outcomes
from .asking import Rounds, answered, require
from .bayes import Bayes
from .blocks import Blocks
from .swiss import zscore


@registry.schedules.register("two_level")
@dataclass(frozen=True)
class TwoLevel:
    """A schedule of groups, whose rankings become the first stage of a schedule of pairs.

    The rankings inside the groups are aggregated by Bradley-Terry around the first-stage scores; the second
    schedule sees the candidates in that order and with those strengths. Returns its order, or that of the
    groups where it returns none.

    Args:
        first: asks groups; blocks of ten by default.
        second: asks pairs, which reach the model as groups of two; `bayes` by default.
    """

    first: Any = field(default_factory=Blocks)
    second: Any = field(default_factory=Bayes)
    width: ClassVar[int | None] = None
    oriented: ClassVar[bool] = True

    def __post_init__(self) -> None:
        require(getattr(self.first, "width", 0) is None, "first must be a schedule of groups, such as blocks")
        require(getattr(self.second, "width", 0) == 2, "second must be a schedule of pairs, such as bayes")

    def rounds(self, prior: NDArray[np.float64], rng: np.random.Generator) -> Rounds[NDArray[np.int32]]:
        rankings = yield from _recorded(self.first.rounds(prior, rng))
        strength = _strength(prior, rankings)
        order = np.argsort(-strength, kind="stable").astype(np.int32)
        pairs = self.second.rounds(strength[order], rng)
        final = None
        try:
            asked = next(pairs)
            while True:
                coin = rng.random(len(asked)) < 0.5
                flip = coin[:, None] & (not self.second.oriented)
                outcomes = yield order[np.where(flip, asked[:, ::-1], asked)]
                win = _probability(outcomes)
                asked = pairs.send(np.where(flip[:, 0], 1 - win, win))
        except StopIteration as stop:
            final = stop.value
        finally:
            pairs.close()
        return order if final is None else order[final]


def _recorded(rounds: Rounds[Any]) -> Rounds[list[tuple[NDArray[np.int32], Outcomes]]]:
    """Passes rounds through and returns all of them with what was said."""
    said: list[tuple[NDArray[np.int32], Outcomes]] = []
    try:
        groups = next(rounds)
        while True:
            outcomes = yield groups
            said.append((groups, outcomes))
            groups = rounds.send(outcomes)
    except StopIteration:
        return said
    finally:
        rounds.close()


def _strength(
    prior: NDArray[np.float64], rankings: list[tuple[NDArray[np.int32], Outcomes]]
) -> NDArray[np.float64]:
    first, second, won = [np.empty(0, np.int32)], [np.empty(0, np.int32)], [np.empty(0)]
    for groups, scores in rankings:
        left, right = np.triu_indices(groups.shape[1], 1)
        margin = scores[:, left] - scores[:, right]
        known = ~np.isnan(margin)
        first.append(groups[:, left][known])
        second.append(groups[:, right][known])
        won.append(0.5 + 0.5 * np.sign(margin[known]))
    edges = sum(map(len, won))
    posterior = fit(
        np.array([0, edges]),
        np.concatenate(first),
        np.concatenate(second),
        np.concatenate(won),
        zscore(prior)[None, :],
    )
    return np.asarray(posterior.strength[0])


def _probability(outcomes: Outcomes) -> NDArray[np.float64]:
    """P(first is better) of groups of two: shares of a won game if they add up to one, else scores."""
    if outcomes.ndim == 1:
        return answered(outcomes)
    first, second = outcomes.T
    shares = np.isclose(first + second, 1.0) & (np.minimum(first, second) >= 0)
    return answered(np.where(shares, first, 0.5 * (1 + np.tanh((first - second) / 2))))
