"""Schedules played by hand: oracles that answer, and made-up utilities with their first stage."""

from collections.abc import Callable

import numpy as np
from sparring.rerank.vocabulary import Groups, Outcomes, Schedule

Oracle = Callable[[Groups, int | None], Outcomes]


def utility_oracle(utility: np.ndarray, noise: float = 0.0) -> Oracle:
    """Prefers the higher utility, surely or with a logistic softness."""

    def ask(groups: Groups, width: int | None) -> Outcomes:
        if width == 2:
            margin = utility[groups[:, 0]] - utility[groups[:, 1]]
            return (margin > 0).astype(float) if noise == 0 else 1 / (1 + np.exp(-margin / noise))
        return np.where(groups >= 0, utility[groups], np.nan)

    return ask


def nothing_known(groups: Groups, width: int | None) -> Outcomes:
    return np.full(len(groups) if width == 2 else groups.shape, np.nan)


def play(
    schedule: Schedule, prior: np.ndarray, oracle: Oracle, seed: int = 0, rounds: int | None = None
) -> tuple[list[Groups], np.ndarray | None]:
    """All rounds that were asked, and the final order."""
    generator = schedule.rounds(prior, np.random.default_rng(seed))
    asked: list[Groups] = []
    reply = None
    try:
        while rounds is None or len(asked) < rounds:
            groups = next(generator) if reply is None else generator.send(reply)
            asked.append(groups.copy())
            reply = oracle(groups, schedule.width)
    except StopIteration as stop:
        return asked, stop.value
    generator.close()
    return asked, None


def collection(n: int, seed: int = 0, noise: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Utilities and a correlated first-stage score, in first-stage order."""
    rng = np.random.default_rng([n, seed])
    utility = rng.normal(size=n)
    prior = utility + noise * rng.normal(size=n)
    order = np.argsort(-prior)
    return utility[order], prior[order]
