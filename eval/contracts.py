"""What measures promise, as a check that anyone can call: see `sparring.rerank.contracts`."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..rerank.contracts.component import ContractError, check_component, promise
from .measures.own import own_measures

__all__ = ["ContractError", "check_measure"]


def check_measure(measure: Any, tries: int = 20) -> None:
    """Puts made-up rankings to a measure of ours or yours; raises ContractError where it breaks a promise.

    Its value is a finite float, also of nothing ranked or nothing relevant; the best order is worth at least as
    much as any other (at most, where ``lower_is_better``); the same ranking is worth the same each time.
    """
    check_component(measure, own_measures)
    promise(measure.rel >= 1, measure, "rel, the least relevant grade, is at least 1", measure.rel)
    empty = np.empty(0, np.int64)
    for what, grades, relevant in (
        ("nothing ranked", empty, 0),
        ("nothing ranked of 3 relevant", empty, 3),
        ("nothing relevant", np.zeros(4, np.int64), 0),
        ("nothing relevant found", np.zeros(4, np.int64), 3),
        ("one document", np.array([measure.rel]), 1),
    ):
        _value(measure, what, grades, relevant)
    sign = -1 if measure.lower_is_better else 1
    for seed in range(tries):
        rng = np.random.default_rng(seed)
        grades = rng.integers(0, measure.rel + 3, size=1 + 3 * seed)
        relevant = int((grades >= measure.rel).sum() + rng.integers(3))
        best = np.sort(grades)[::-1]
        found, most = (_value(measure, f"grades {g.tolist()}", g, relevant) for g in (grades, best))
        better = sign * most >= sign * found - 1e-12
        promise(better, measure, f"the best order of {grades.tolist()} is worth no less than it, {found}", most)


def _value(measure: Any, what: str, grades: NDArray[np.int64], relevant: int) -> float:
    value, again = (measure(grades.copy(), relevant) for _ in range(2))
    promise(isinstance(value, float), measure, f"{what}: its value is a float", type(value).__name__)
    promise(math.isfinite(value), measure, f"{what}: its value is finite", value)
    promise(value == again, measure, f"{what}: its value is the same each time", f"{value} and {again}")
    return float(value)
