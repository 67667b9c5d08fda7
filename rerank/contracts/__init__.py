"""What components promise, as checks that anyone can call: ours run in the test suite, yours in your own.

    from sparring.rerank.contracts import check_schedule

    def test_my_schedule() -> None:
        check_schedule(MySchedule(m=3))

A check raises `ContractError`, an AssertionError that says what was promised and what was found. Losses and data
sources are checked by `sparring.train.contracts`, measures by `sparring.eval.contracts`.
"""

from __future__ import annotations

from .aggregators import check_aggregator
from .component import ContractError, check_component
from .families import check_family
from .passages import check_passages
from .schedules import check_schedule

__all__ = [
    "ContractError",
    "check_aggregator",
    "check_component",
    "check_family",
    "check_passages",
    "check_schedule",
]
