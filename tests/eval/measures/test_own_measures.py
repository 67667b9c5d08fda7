"""Measures computed here: what each promises, in a bench as in an evaluation, and names that are taken."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest
from sparring.eval.contracts import ContractError, check_measure
from sparring.eval.measures.batched import Judged, parse_value
from sparring.eval.measures.catalogue import measures
from sparring.eval.measures.own import own_measures
from sparring.rerank.errors import UsageError


@pytest.mark.parametrize("spec", [*own_measures.names(), "WSS(at=80, rel=2)", "last_rel(share=True)"])
def test_every_measure_keeps_its_promises(spec: str) -> None:
    check_measure(own_measures.parse(spec))


def test_a_measure_that_likes_bad_rankings_is_found_out() -> None:
    area = type(own_measures.parse("norm_area"))

    class Backwards(area):
        def __call__(self, grades: np.ndarray, relevant: int) -> float:
            return super().__call__(grades[::-1], relevant)

    own_measures._entries["norm_area"], kept = Backwards, own_measures._entries["norm_area"]
    Backwards.__doc__ = "Backwards."
    try:
        with pytest.raises(ContractError, match="the best order of .* is worth no less than it"):
            check_measure(Backwards())
    finally:
        own_measures._entries["norm_area"] = kept


def test_a_bench_computes_registered_measures() -> None:
    rng = np.random.default_rng(0)
    grades = [rng.integers(-1, 4, size) for size in (7, 3)]
    pools = [np.append(row[row >= 0], 3) for row in grades]
    judged = Judged.from_topics(grades, pools)
    value = parse_value("recall_percent(rel=2)@50")
    expected = [
        own_measures.parse("recall_percent(at=50, rel=2)")(np.maximum(row, 0), int((pool >= 2).sum()))
        for row, pool in zip(grades, pools, strict=True)
    ]
    np.testing.assert_allclose(value(judged.grades, judged), expected)
    assert str(value) == "recall_percent(rel=2)@50" and str(parse_value("nDCG@5")) == "nDCG@5"
    with pytest.raises(UsageError, match="less of it is better"):
        parse_value("last_rel")


def test_names_of_ir_measures_are_taken() -> None:
    @dataclass(frozen=True)
    class Mine:
        rel: int = 1
        lower_is_better: ClassVar[bool] = False

        def __call__(self, grades: np.ndarray, relevant: int) -> float:
            return 0.0

    with pytest.raises(UsageError, match="'ERR' is one of ir-measures"):
        measures.register("ERR")(Mine)
    with pytest.raises(UsageError, match="registered twice: by sparring.*WorkSaved"):
        measures.register("WSS")(Mine)
