"""What every schedule promises, whatever it is, for any number of candidates."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from ..registry import schedules
from ..vocabulary import Groups, Outcomes, Schedule
from .component import check_component, promise

Oracle = Callable[[Groups, int | None], Outcomes]
SIZES = (0, 1, 2, 3, 5, 21)


def check_schedule(schedule: Any) -> None:
    """Plays a schedule on made-up topics of 0 to 50 candidates; raises ContractError where it breaks a promise.

    Groups are int32 positions of its width, of different candidates, asked once; a final order has everyone;
    equal seeds ask equal questions; a pair comes back swapped only when all have been asked; it may be stopped
    after any round. One that has ``at_budget`` keeps to the budget and uses it.
    """
    check_component(schedule, schedules)
    check_width(schedule)
    for n in SIZES:
        check_groups(schedule, n)
    check_seeds(schedule)
    check_swaps(schedule)
    check_stopping(schedule)
    if adjustable(schedule):
        for n in (1, 2, 10, 50):
            check_budget(schedule, n)


def check_width(schedule: Any) -> None:
    """Its width is 1, 2 or None, and ``oriented`` is a bool."""
    promise(schedule.width in (1, 2, None), schedule, "its width is 1, 2 or None (any)", repr(schedule.width))
    promise(isinstance(schedule.oriented, bool), schedule, "oriented is True or False", repr(schedule.oriented))


def check_groups(schedule: Any, n: int) -> None:
    """Groups and the final order are well formed, whether the model is sure, unsure or silent."""
    utility, prior = made_up(n)
    for oracle in (answers(utility, 0.5), silence):
        _, final = played(schedule, prior, _strict(schedule, n, oracle))
        if final is not None:
            whole = final.dtype == np.int32 and sorted(final.tolist()) == list(range(n))
            promise(whole, schedule, f"its final order, int32, has each of {n} candidates once", final)


def _strict(schedule: Any, n: int, oracle: Oracle) -> Oracle:
    """A model that looks at what it is asked before it answers."""
    seen: set[tuple[int, ...]] = set()

    def say(groups: Groups, width: int | None) -> Outcomes:
        array = isinstance(groups, np.ndarray) and groups.dtype == np.int32 and groups.ndim == 2
        promise(array, schedule, "groups are int32, (g, width)", groups)
        promise(len(groups) > 0, schedule, "it ends instead of asking nothing")
        inside = groups.min() >= -1 and groups.max() < n
        promise(inside, schedule, f"positions of {n} candidates lie in -1 .. {n - 1}", groups)
        for group in groups:
            _check_group(schedule, group, seen)
        return oracle(groups, width)

    return say


def _check_group(schedule: Any, group: NDArray[np.int32], seen: set[tuple[int, ...]]) -> None:
    members = group[group >= 0]
    promise(len(members) > 0, schedule, "no group is empty", group)
    promise(len(set(members.tolist())) == len(members), schedule, "nobody is in a group twice", group)
    if schedule.width is None:
        return
    promise(len(members) == schedule.width, schedule, f"its groups have {schedule.width} members", group)
    promise(tuple(group.tolist()) not in seen, schedule, "no group is asked twice", group)
    seen.add(tuple(group.tolist()))


def check_seeds(schedule: Any) -> None:
    """Equal seeds ask equal questions, and nothing is kept from one topic to the next."""
    utility, prior = made_up(30)
    (one, first), (two, second) = (played(schedule, prior, answers(utility, 0.5), seed=7) for _ in range(2))
    equal = len(one) == len(two) and all(np.array_equal(a, b) for a, b in zip(one, two, strict=True))
    promise(equal, schedule, "equal seeds ask equal questions: draw from the rng that it is given, keep nothing")
    same = second is None if first is None else second is not None and np.array_equal(first, second)
    promise(same, schedule, "equal seeds and answers give equal orders")


def check_swaps(schedule: Any) -> None:
    """A pair comes back swapped only beyond half of all ordered pairs."""
    if schedule.width != 2:
        return
    utility, prior = made_up(24)
    asked, _ = played(schedule, prior, answers(utility, 0.5))
    pairs = np.concatenate([*asked, np.empty((0, 2), np.int32)])
    different = len(np.unique(np.sort(pairs, axis=1), axis=0))
    expected = min(len(pairs), 24 * 23 // 2)
    promise(different == expected, schedule, f"{len(pairs)} pairs are {expected} different ones", different)


def check_stopping(schedule: Any) -> None:
    """It may be closed after any round."""
    utility, prior = made_up(20)
    for rounds in (1, 2):
        asked, _ = played(schedule, prior, answers(utility, 0.0), rounds=rounds)
        promise(len(asked) <= rounds, schedule, f"it asks one round at a time, {rounds} at most", len(asked))


def adjustable(schedule: Any) -> bool:
    """Whether a schedule can be set to a budget: ``at_budget(calls, n)`` is optional."""
    return callable(getattr(schedule, "at_budget", None))


def check_budget(schedule: Any, n: int) -> None:
    """``at_budget(calls, n)`` asks at most ``calls`` pairs, and more than half of what it could.

    A schedule that cannot ask so little may ask the least it can (its budget 0); the pipeline cuts the rest.
    The model is silent here, so that no schedule stops early because it has seen enough.
    """
    least, most = (schedule.at_budget(calls, n) for calls in (0, n * n))
    possible = max(cost(most, n), cost(schedule, n))
    for calls in (n, 3 * n, 9 * n):
        suited = schedule.at_budget(calls, n)
        promise(type(suited) is type(schedule), schedule, "at_budget returns a schedule of its own kind", suited)
        spent = cost(suited, n)
        kept = spent <= calls or suited == least
        promise(kept, schedule, f"{suited} asks at most {calls} pairs of {n} candidates", spent)
        could = min(calls, possible)
        promise(2 * spent > could or not could, schedule, f"{suited} uses its {could} pairs of {n}", spent)


def cost(schedule: Any, n: int, seed: int = 0) -> int:
    """How many pairs a schedule asks of ``n`` candidates that nothing is said about; groups count their pairs."""
    asked, _ = played(schedule, made_up(n)[1], silence, seed)
    sizes = np.concatenate([(groups >= 0).sum(axis=1) for groups in asked] + [np.empty(0, np.int64)])
    return int((sizes * (sizes - 1) // 2).sum())


def answers(utility: NDArray[np.float64], noise: float = 0.0) -> Oracle:
    """A model that prefers the higher utility: surely (``noise`` 0), or the more softly the higher the noise."""

    def say(groups: Groups, width: int | None) -> Outcomes:
        if width != 2:
            return np.where(groups >= 0, utility[groups], np.nan)
        margin = utility[groups[:, 0]] - utility[groups[:, 1]]
        return np.asarray(margin > 0, np.float64) if noise == 0 else expit(margin / noise)

    return say


def silence(groups: Groups, width: int | None) -> Outcomes:
    """A model that could score nothing: all its outcomes are quarantined."""
    return np.full(len(groups) if width == 2 else groups.shape, np.nan)


def played(
    schedule: Schedule, prior: NDArray[np.float64], oracle: Oracle, seed: int = 0, rounds: int | None = None
) -> tuple[list[Groups], NDArray[np.int32] | None]:
    """All rounds that a schedule asks, or the first ``rounds``, and its final order."""
    generator = schedule.rounds(prior.copy(), np.random.default_rng(seed))
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


def made_up(n: int, seed: int = 0, noise: float = 1.0) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Utilities and a correlated first-stage score of ``n`` candidates, in first-stage order."""
    rng = np.random.default_rng([n, seed])
    utility = rng.normal(size=n)
    prior = utility + noise * rng.normal(size=n)
    order = np.argsort(-prior)
    return utility[order], prior[order]
