"""What every registered schedule promises, whatever it is, for any number of candidates."""

import dataclasses

import numpy as np
import pytest
from playing import collection, nothing_known, play, utility_oracle
from sparring.rerank import registry
from sparring.rerank.vocabulary import Groups, Schedule

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
SIZES = [0, 1, 2, 3, 5, 21]


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("spec", SPECS)
def test_groups_are_well_formed(spec: str, n: int) -> None:
    schedule = registry.schedules.parse(spec)
    assert isinstance(schedule, Schedule)
    utility, prior = collection(n)
    for oracle in (utility_oracle(utility, 0.5), nothing_known):
        asked, final = play(schedule, prior, oracle)
        seen: set[tuple[int, ...]] = set()
        for groups in asked:
            assert groups.dtype == np.int32 and groups.ndim == 2 and len(groups)
            assert schedule.width is None or groups.shape[1] == schedule.width
            assert groups.min() >= -1 and groups.max() < n
            for group in groups:
                members = group[group >= 0]
                assert len(members) and len(set(members.tolist())) == len(members)
                assert schedule.width is None or len(members) == schedule.width
                assert schedule.width is None or tuple(group) not in seen
                seen.add(tuple(group.tolist()))
        if final is not None:
            assert final.dtype == np.int32 and sorted(final.tolist()) == list(range(n))


@pytest.mark.parametrize("spec", SPECS)
def test_equal_seeds_ask_equal_questions(spec: str) -> None:
    utility, prior = collection(30)
    schedule = registry.schedules.parse(spec)
    one, first = play(schedule, prior, utility_oracle(utility, 0.5), seed=7)
    two, second = play(schedule, prior, utility_oracle(utility, 0.5), seed=7)
    assert len(one) == len(two) and all(np.array_equal(a, b) for a, b in zip(one, two, strict=True))
    assert np.array_equal(first, second) if first is not None else second is None


@pytest.mark.parametrize("spec", SPECS)
def test_a_pair_comes_back_swapped_only_beyond_half_of_all(spec: str) -> None:
    schedule = registry.schedules.parse(spec)
    utility, prior = collection(24)
    asked, _ = play(schedule, prior, utility_oracle(utility, 0.5))
    if schedule.width != 2:
        return
    pairs = np.concatenate(asked)
    unordered = np.unique(np.sort(pairs, axis=1), axis=0)
    assert len(unordered) == min(len(pairs), 24 * 23 // 2)


@pytest.mark.parametrize("spec", SPECS)
def test_stopping_after_any_round_is_allowed(spec: str) -> None:
    schedule = registry.schedules.parse(spec)
    utility, prior = collection(20)
    for rounds in (1, 2):
        asked, _ = play(schedule, prior, utility_oracle(utility), rounds=rounds)
        assert len(asked) <= rounds


@pytest.mark.parametrize("n", [1, 2, 10, 50])
@pytest.mark.parametrize("spec", [s for s in SPECS if hasattr(registry.schedules.parse(s), "at_budget")])
def test_a_budget_is_respected_and_used(spec: str, n: int) -> None:
    for calls in (n, 3 * n, 9 * n):
        schedule = registry.schedules.parse(spec).at_budget(calls, n)
        assert type(schedule) is type(registry.schedules.parse(spec))
        utility, prior = collection(n)
        asked, _ = play(schedule, prior, utility_oracle(utility, 0.5))
        cost = sum(pair_calls(groups) for groups in asked)
        smallest = registry.schedules.parse(spec).at_budget(0, n)
        assert cost <= calls or schedule == smallest  # the pipeline cuts what no options can make smaller


def pair_calls(groups: Groups) -> int:
    sizes = (groups >= 0).sum(axis=1)
    return int((sizes * (sizes - 1) // 2).sum())


@pytest.mark.parametrize("name", NAMES)
def test_specs_print_back_as_they_were_written(name: str) -> None:
    cls = dict(registry.schedules)[name]
    assert str(registry.schedules.parse(name)) == name
    for field in dataclasses.fields(cls):
        if type(field.default) in (int, float) and not isinstance(field.default, bool):
            spec = f"{name}({registry.option_name(field)}={field.default!r})"
            assert registry.schedules.parse(spec) == registry.schedules.parse(name)
