"""What is used of ir-measures that a release may move: each failure names the release and the file to mend."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from sparring.eval.measures import ir_measures_adapter as adapter
from sparring.rerank.errors import InputError

ir_measures = pytest.importorskip("ir_measures")
BROKEN = f"ir-measures {ir_measures.__version__} moved what eval/measures/ir_measures_adapter.py uses"


def test_private_names_are_where_they_were() -> None:
    pipeline = ir_measures.DefaultPipeline
    assert isinstance(ir_measures.measures.registry, dict), f"{BROKEN}: measures.registry"
    assert ir_measures.measures.registry["MAP"] is ir_measures.measures.registry["AP"], f"{BROKEN}: aliases"
    for name in ("supports", "providers"):
        assert hasattr(pipeline, name), f"{BROKEN}: DefaultPipeline.{name}"
    for provider in pipeline.providers:
        assert provider.is_available() in (True, False), f"{BROKEN}: {provider}.is_available"
        assert provider.install_instructions() is None or provider.install_instructions(), BROKEN
    assert callable(ir_measures.util.parse_trec_measure), f"{BROKEN}: util.parse_trec_measure"


def test_sums_are_told_from_means() -> None:
    from ir_measures.measures import MeanAgg, SumAgg

    for aggregator, expected in ((SumAgg(), 3.0), (MeanAgg(), 1.5)):
        aggregator.add(1.0)
        aggregator.add(2.0)
        assert aggregator.result() == expected, f"{BROKEN}: {type(aggregator).__name__}"
    assert adapter.is_sum(ir_measures.NumRet), f"{BROKEN}: SumAgg of NumRet"
    assert not adapter.is_sum(ir_measures.nDCG @ 10), f"{BROKEN}: MeanAgg of nDCG"


def test_measures_carry_what_is_read_of_them() -> None:
    measure = adapter.parse("ERR@10")
    assert (measure.NAME, measure.params) == ("ERR", {"cutoff": 10}), f"{BROKEN}: NAME or params"
    assert adapter.default(measure) == 0.0, f"{BROKEN}: DEFAULT"
    assert adapter.parse("nDCG@10")["dcg"] == "log2", f"{BROKEN}: the default of dcg"
    assert "cutoff" in type(measure).SUPPORTED_PARAMS, f"{BROKEN}: SUPPORTED_PARAMS"
    with pytest.raises(ValueError, match="it needs a cutoff"):
        adapter.parse("P")


GRADES = {"3": {"a": 4, "b": 0, "c": 2}, "12": {"a": 1, "d": 3, "e": 1}, "20": {"a": 0}}
RANKED = {"3": ["b", "c", "x", "a"], "12": ["e", "a", "b"], "20": ["a", "b"]}


@pytest.mark.skipif(shutil.which("perl") is None, reason="gdeval is written in Perl")
@pytest.mark.parametrize("name", ["ERR@1", "ERR@3", "ERR@10", "nDCG(dcg='exp-log2')@2", "nDCG(dcg='exp-log2')@10"])
def test_definitions_equal_gdeval_where_it_works(name: str) -> None:
    measure = adapter.parse(name)
    scored = {qid: {d: -float(i) for i, d in enumerate(ids)} for qid, ids in RANKED.items()}
    theirs = {m.query_id: m.value for m in ir_measures.gdeval.iter_calc([measure], GRADES, scored)}
    ours = {qid: value for _, qid, value in adapter.calculate([measure], GRADES, RANKED, 4)}
    assert ours == pytest.approx(theirs, abs=5.1e-6), f"{BROKEN}: or its gdeval"  # it prints five decimals


@pytest.mark.parametrize("name", ["Accuracy", "Accuracy@2", "Accuracy(rel=2)", "Accuracy(rel=2)@3"])
def test_accuracy_equals_the_library_where_it_divides(name: str) -> None:
    measure = adapter.parse(name)
    scored = {qid: {d: -float(i) for i, d in enumerate(ids)} for qid, ids in RANKED.items()}
    ours = {qid: value for _, qid, value in adapter.calculate([measure], GRADES, RANKED, 4)}
    for qid in RANKED:
        try:
            theirs = [m.value for m in ir_measures.accuracy.iter_calc([measure], {qid: GRADES[qid]}, scored)]
        except ZeroDivisionError:
            assert ours[qid] == 1.0
        else:
            assert ours[qid] == pytest.approx(theirs[0] if theirs else 0.0), f"{BROKEN}: or its accuracy"


ODD = {"007": (5, 4), "7": (2, 2), "wt-1": (0, 1), "q é": (10_000, 2), "1.0": (1, 0), "-1": (3, 3), "1e3": (0, 0)}


def test_every_measure_takes_every_topic() -> None:
    """Names that look like numbers, letters, high grades, only relevant documents or none: each alone and all."""
    grades = {qid: {"a": one, "b": other} for qid, (one, other) in ODD.items()} | {"empty": {}}
    ranked = {qid: ["b", "a"] for qid in grades}
    chosen = []
    for name, cls in adapter.computable().items():
        for options in ({}, {"cutoff": 10}, {"recall": 0.1}):
            measure = cls(**options)
            try:
                measure.validate_params()
            except AssertionError:
                continue
            if adapter.missing(measure) is None:
                chosen.append((name, measure))
                break
    assert {"ERR", "Accuracy", "nDCG", "AP", "infAP", "Judged", "Compat"} <= {name for name, _ in chosen}
    for name, measure in chosen:
        together = {q: v for _, q, v in adapter.calculate([measure], grades, ranked, 10_000)}
        assert set(together) == set(grades) and np.isfinite(list(together.values())).all(), name
        for qid in grades:
            alone = list(adapter.calculate([measure], {qid: grades[qid]}, {qid: ranked[qid]}, 10_000))
            assert [value for _, _, value in alone] == [pytest.approx(together[qid])], (name, qid)


def test_a_provider_that_gives_up_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def give_up(*_: object) -> None:
        raise ZeroDivisionError("float division by zero")

    monkeypatch.setattr(ir_measures, "iter_calc", give_up)
    with pytest.raises(InputError, match=r"cannot compute AP here \(ZeroDivisionError: float division by zero\)"):
        list(adapter.calculate([adapter.parse("AP")], GRADES, RANKED, 4))
