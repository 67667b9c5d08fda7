"""Sorting algorithms as straight code: tasks that ask pairs, run side by side and never asked twice.

A task is a generator that yields the pairs it wants to know now and is sent P(first is better) of each.
`together` runs many tasks in step, so that their questions share a round; `duels` turns a task into the rounds
of a schedule and remembers every answer.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from ..vocabulary import Groups, Outcomes

T = TypeVar("T")
Pair = tuple[int, int]
Task = Generator[list[Pair], list[float], T]
Rounds = Generator[Groups, Outcomes, T]


def once(groups: Groups) -> Rounds[None]:
    """The rounds of a schedule that asks everything at once, or nothing."""
    if len(groups):
        yield groups


def duels(task: Task[T]) -> Rounds[T]:
    """Rounds of pairs that answer ``task``; each pair is asked once, in the order first wanted."""
    known: dict[Pair, float] = {}
    try:
        wanted = next(task)
        while True:
            new = list(dict.fromkeys((min(p), max(p)) for p in wanted if (min(p), max(p)) not in known))
            if new:
                said = yield np.array(new, np.int32)
                known.update(zip(new, answered(said).tolist(), strict=True))
            wanted = task.send([known[a, b] if a < b else 1 - known[b, a] for a, b in wanted])
    except StopIteration as stop:
        result: T = stop.value
        return result


def together(tasks: Iterable[Task[T]]) -> Task[list[T]]:
    """Runs tasks in step: one round asks what all of them want next. Returns their results in order."""
    running = list(tasks)
    results: dict[int, T] = {}
    wanted: dict[int, list[Pair]] = {}
    replies: dict[int, list[float] | None] = dict.fromkeys(range(len(running)))
    while replies:
        wanted.clear()
        for index, reply in replies.items():
            try:
                wanted[index] = next(running[index]) if reply is None else running[index].send(reply)
            except StopIteration as stop:
                results[index] = stop.value
        if not wanted:
            break
        said = iter((yield [pair for pairs in wanted.values() for pair in pairs]))
        replies = {index: [next(said) for _ in pairs] for index, pairs in wanted.items()}
    return [results[index] for index in range(len(running))]


def better(a: int, b: int, probability: float) -> bool:
    """Whether ``a`` beats ``b`` given P(a is better); a tie keeps the first-stage order."""
    return probability > 0.5 or (probability == 0.5 and a < b)


def answered(probability: Outcomes) -> NDArray[np.float64]:
    """Outcomes of pairs with quarantined ones as ties."""
    return np.where(np.isnan(probability), 0.5, probability)


def head_first(head: Sequence[int], n: int) -> NDArray[np.int32]:
    """A full order: ``head``, then everyone else as the first stage had them."""
    rest = np.ones(n, np.bool_)
    rest[np.asarray(head, np.int64)] = False
    return np.concatenate([np.asarray(head, np.int64), np.flatnonzero(rest)]).astype(np.int32)


def pairs(first: NDArray[np.integer], second: NDArray[np.integer]) -> Groups:
    """Two columns of positions as groups of two."""
    return np.stack([np.ravel(first), np.ravel(second)], axis=1).astype(np.int32)


def require(condition: bool, message: str) -> None:
    """Raises ValueError with ``message`` where an option does not make sense."""
    if not condition:
        raise ValueError(message)
