"""The checks that strangers call, over our own components that no other test of a contract holds, and what they find."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
from places import ROOT
from sparring.rerank.contracts import (
    ContractError,
    check_aggregator,
    check_family,
    check_passages,
    check_schedule,
)
from sparring.rerank.contracts import schedules as promises
from sparring.rerank.registry import aggregators, families, passages, schedules
from tiny_generators import save_t5
from tiny_models import save_classifier


@pytest.mark.parametrize("name", passages.names())
def test_ways_of_scoring_long_documents(name: str) -> None:
    check_passages(passages.parse(name))


@pytest.mark.parametrize("name", [name for name in aggregators.names() if name != "tsp"])
def test_aggregators_whole(name: str) -> None:
    check_aggregator(aggregators.parse(name), tries=2)


@pytest.mark.parametrize("name", ["all", "pointwise", "whole", "swiss", "heapsort"])
def test_schedules_whole(name: str) -> None:
    check_schedule(schedules.parse(name))


@pytest.mark.parametrize("spec", ["sequence_classification", "duo", "t5(kind=mono)", "set_encoder"])
def test_families(spec: str, tmp_path: Path) -> None:
    golden = ROOT / "tests" / "rerank" / "models" / "families" / "encoders" / "golden" / "set_encoder-bert"
    folders = {
        "sequence_classification": lambda: save_classifier(tmp_path, "electra"),
        "duo": lambda: save_classifier(tmp_path, "bert", labels=2),
        "t5(kind=mono)": lambda: save_t5(tmp_path),
        "set_encoder": lambda: golden,
    }
    check_family(families.parse(spec), folders[spec]())


@dataclass(frozen=True)
class Careless:
    """A schedule with a fault."""

    fault: str = "none"
    width: ClassVar[int | None] = 2
    oriented: ClassVar[bool] = False
    spec_name: ClassVar[str] = "careless"

    def rounds(self, prior, rng):
        n = len(prior)
        if self.fault == "rng":
            rng = np.random.default_rng()
        if n < 2:
            return None
        groups = np.array([[a, b] for a, b in rng.permutation(n)[: n - n % 2].reshape(-1, 2)], np.int32)
        if self.fault == "dtype":
            groups = groups.astype(np.int64)
        if self.fault == "beyond":
            groups = groups + 1
        if self.fault == "itself":
            groups[:, 1] = groups[:, 0]
        if self.fault == "twice":
            groups = np.concatenate([groups, groups])
        if self.fault == "swapped":
            groups = np.concatenate([groups, groups[:, ::-1]])
        yield groups
        return np.arange(n - 1, dtype=np.int32) if self.fault == "short" else None


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("rng", "equal seeds ask equal questions"),
        ("dtype", "groups are int32"),
        ("beyond", "positions of 5 candidates lie in -1 .. 4"),
        ("itself", "nobody is in a group twice"),
        ("twice", "no group is asked twice"),
        ("swapped", "pairs are"),
        ("short", "final order, int32, has each of"),
    ],
)
def test_a_fault_is_named(fault: str, message: str) -> None:
    schedule = Careless(fault)
    with pytest.raises(ContractError, match=message):
        promises.check_groups(schedule, 5)
        promises.check_seeds(schedule)
        promises.check_swaps(schedule)
    promises.check_groups(Careless(), 5)


def test_what_is_not_registered_is_said() -> None:
    with pytest.raises(ContractError, match="it is registered as a schedule"):
        check_schedule(Careless())
