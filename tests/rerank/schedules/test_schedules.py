"""What every registered schedule promises, by the checks that strangers can call; and what each does with a budget."""

from __future__ import annotations

from dataclasses import replace

import pytest
from sparring.rerank import registry
from sparring.rerank.contracts import ContractError
from sparring.rerank.contracts import schedules as contracts
from sparring.rerank.schedules.windows import Window
from sparring.rerank.vocabulary import Schedule

NAMES = registry.schedules.names()
SPECS = [
    *NAMES,
    "random(rate=0.8)",
    "window(m=3, skip=7)",
    "window(m=30, skip=10)",
    "blocks(size=4, replicas=3, design=latin)",
    "blocks(size=5, design=triangular)",
    "blocks(size=5, design=random)",
    "blocks(size=5, design=sliding)",
    "blocks(size=7, striped=True)",
    "mergesort(beam=6, gate=0.3)",
    "mergesort(anchors=8)",
    "knockout(brackets=3, k=2)",
    "biased_random(spread=5, bias=3)",
    "random_global(exponent=-2)",
    "two_level(second=heapsort(k=3))",
    "two_level(first=blocks(size=5, replicas=3), second=swiss(rounds=2))",
    "bayes(calls=30, rounds=7, stop=0.0)",
    "grouped(groups=3, shuffle=False, ends=True)",
]
ADJUSTABLE = [spec for spec in SPECS if contracts.adjustable(registry.schedules.parse(spec))]


@pytest.mark.parametrize("n", contracts.SIZES)
@pytest.mark.parametrize("spec", SPECS)
def test_groups_are_well_formed(spec: str, n: int) -> None:
    schedule = registry.schedules.parse(spec)
    assert isinstance(schedule, Schedule)
    contracts.check_width(schedule)
    contracts.check_groups(schedule, n)


@pytest.mark.parametrize("spec", SPECS)
def test_equal_seeds_ask_equal_questions(spec: str) -> None:
    contracts.check_seeds(registry.schedules.parse(spec))


@pytest.mark.parametrize("spec", SPECS)
def test_a_pair_comes_back_swapped_only_beyond_half_of_all(spec: str) -> None:
    contracts.check_swaps(registry.schedules.parse(spec))


@pytest.mark.parametrize("spec", SPECS)
def test_stopping_after_any_round_is_allowed(spec: str) -> None:
    contracts.check_stopping(registry.schedules.parse(spec))


@pytest.mark.parametrize("spec", SPECS)
def test_specs_print_back_as_they_were_written(spec: str) -> None:
    schedule = registry.schedules.parse(spec)
    contracts.check_component(schedule, registry.schedules)
    if spec in NAMES:
        assert str(schedule) == spec


@pytest.mark.parametrize("n", [1, 2, 10, 50])
@pytest.mark.parametrize("spec", ADJUSTABLE)
def test_a_budget_is_respected_and_used(spec: str, n: int) -> None:
    contracts.check_budget(registry.schedules.parse(spec), n)


EXACT = ("random", "biased_random", "random_global", "window", "neighbours", "bayes", "dueling")
"""These ask as many pairs as they may, where there are so many and the least they can ask is no more."""


@pytest.mark.parametrize("n", [2, 10, 50])
@pytest.mark.parametrize("spec", [spec for spec in ADJUSTABLE if spec.partition("(")[0] in EXACT])
def test_a_budget_is_used_to_the_last_pair(spec: str, n: int) -> None:
    schedule = registry.schedules.parse(spec)
    possible = contracts.cost(schedule.at_budget(n * n, n), n)
    for calls in (n, 3 * n + 1, 9 * n - 1):
        assert contracts.cost(schedule.at_budget(calls, n), n) == min(calls, possible), calls


@pytest.mark.parametrize("n", [10, 50])
@pytest.mark.parametrize(
    ("spec", "option", "step"),
    [
        ("grouped", "groups", -1),
        ("grouped(ends=True)", "groups", -1),
        ("anchors", "count", 1),
        ("knockout", "brackets", 1),
        ("swiss", "rounds_", 1),
        ("kwise", "rounds_", 1),
        ("blocks(size=5, design=sliding)", "size", 1),
    ],
)
def test_the_next_larger_option_is_not_what_the_budget_pays_for(spec: str, option: str, step: int, n: int) -> None:
    """Before pairs that were asked already are left out: those the options do not foresee."""
    schedule = registry.schedules.parse(spec)
    for calls in (n, 3 * n, 6 * n):
        suited = schedule.at_budget(calls, n)
        if suited == schedule.at_budget(n * n, n):
            continue
        larger = replace(suited, **{option: getattr(suited, option) + step})
        price = PRICES.get(spec, contracts.cost)
        assert price(suited, n) <= calls or suited == schedule.at_budget(0, n)
        assert price(larger, n) > calls or price(larger, n) == price(suited, n) == n * (n - 1) // 2


PRICES = {
    "knockout": lambda schedule, n: schedule.brackets * (n - 1),
    "swiss": lambda schedule, n: schedule.rounds_ * (n // 2),
    "kwise": lambda schedule, n: schedule.rounds_ * rounds_price(n, schedule.size),
}


def rounds_price(n: int, size: int) -> int:
    """Pairs of one round of groups, the last of which may be smaller."""
    sizes = [min(size, n - start) for start in range(0, n, size)]
    return sum(size * (size - 1) // 2 for size in sizes)


class Idle(Window):
    """A window that promises a budget and leaves it."""

    spec_name = "idle"

    def at_budget(self, calls: int, n: int) -> Idle:
        return Idle(m=1, calls=min(calls, 3))


def test_a_schedule_that_leaves_its_budget_is_found_out() -> None:
    with pytest.raises(ContractError, match=r"uses its 50 pairs of 50; found 3"):
        contracts.check_budget(Idle(), 50)
