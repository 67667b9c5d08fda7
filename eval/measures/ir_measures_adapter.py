"""The one place that touches ir-measures: its registry, its pipeline of providers, and what they get wrong.

Much of what is used here is not documented for users, so a release may move it. The tests of this file name the
release that did.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from ...rerank.errors import InputError
from .definitions import accuracy, expected_reciprocal_rank, exponential_ndcg

Topic = Mapping[str, int]
Value = Callable[[Sequence[str], Topic, int], float]
"""Documents in rank order, grades by document, the highest grade of the qrels → the value of a topic."""


def _library() -> Any:
    import ir_measures

    return ir_measures


def registered() -> dict[str, Any]:
    """The class of every measure by each of its names, aliases such as MAP included."""
    return dict(_library().measures.registry)


def computable() -> dict[str, Any]:
    """The class of every measure that an installed provider computes, by its own name."""
    return {name_of(cls): cls for cls in registered().values() if _supported(cls)}


def name_of(cls: Any) -> str:
    """The name of a measure's class, as it is written."""
    return str(cls.__name__.lstrip("_"))


def parse(text: str) -> Any:
    """The measure of ``nDCG@10`` or ``AP(rel=2)``; ValueError with the reason."""
    try:
        measure = _library().parse_measure(text)
        measure.validate_params()
    except Exception as error:  # ir-measures raises what ast, assert or a lookup happen to raise
        raise ValueError(_reason(error)) from None
    return measure


def _reason(error: Exception) -> str:
    missing = re.match(r"invalid param (\w+)=<object", str(error))
    if missing and missing[1] == "cutoff":
        return "it needs a cutoff: write it with @10, for example"
    if missing:
        return f"it needs the option {missing[1]}"
    return str(error).split("; must be")[0] + ": write Name, Name@cutoff or Name(option=value)"


def parse_trec(text: str) -> list[Any]:
    """The measures of a name in trec_eval's spelling, such as ``ndcg_cut_10``; ValueError if there is none."""
    return list(_library().util.parse_trec_measure(text))


def missing(measure: Any) -> str | None:
    """What to install so that a measure can be computed; None where it can be."""
    pipeline = _library().DefaultPipeline
    if _by_definition(measure) is not None or pipeline.supports(measure):
        return None
    installs = [
        provider.install_instructions()
        for provider in pipeline.providers
        if not provider.is_available() and provider.supports(measure)
    ]
    return " or ".join(filter(None, installs)) or "no package computes it with these options"


def _supported(cls: Any) -> bool:
    for options in ({}, {"cutoff": 10}, {"cutoff": 10, "max_rel": 1}, {"recall": 0.1}, {"max_rel": 1}):
        try:
            if missing(cls(**options)) is None:
                return True
        except Exception:  # a measure refuses options in its own way (assert, TypeError)
            continue
    return False


def is_sum(measure: Any) -> bool:
    """True for counts such as NumRet, which ir-measures adds up over topics."""
    return isinstance(measure.aggregator(), _library().measures.SumAgg)


def default(measure: Any) -> float:
    """The value of a topic for which nothing is ranked."""
    return float(measure.DEFAULT)


def calculate(
    measures: Sequence[Any], grades: Mapping[str, Topic], rankings: Mapping[str, Sequence[str]], highest: int
) -> Iterator[tuple[Any, str, float]]:
    """Yields (measure, topic, value) for topics that are judged and ranked.

    Measures that a provider computes wrongly or not at all for some topics are computed by their definition;
    ``highest`` is the highest grade of the whole qrels. Topics are handed over as 1, 2, ..., because a provider
    may read names as numbers. Raises InputError where a provider gives up, with its reason.
    """
    left = []
    for measure in measures:
        value = _by_definition(measure)
        if value is None:
            left.append(measure)
            continue
        for qid, docids in rankings.items():
            yield measure, qid, value(docids, grades[qid], highest)
    if not left:
        return
    qids = dict(enumerate(rankings, 1))
    # a topic without a grade is one that providers skip: a document that nobody ranks stands in
    judged = {str(n): dict(grades[qid]) or {"": 0} for n, qid in qids.items()}
    scored = {
        str(n): dict(zip(rankings[qid], range(len(rankings[qid]), 0, -1), strict=True)) for n, qid in qids.items()
    }
    try:
        for metric in _library().iter_calc(left, judged, scored):
            yield metric.measure, qids[int(metric.query_id)], float(metric.value)
    except Exception as error:  # providers raise whatever they happen to
        said = f"{type(error).__name__}: {error}".splitlines()[0]
        raise InputError(f"ir-measures cannot compute {', '.join(map(str, left))} here ({said})") from error


def _by_definition(measure: Any) -> Value | None:
    """The definition to use in place of a provider: gdeval, which reads topics as numbers and knows no grade
    above 4, or accuracy, which divides by zero where no non-relevant document is ranked."""
    name, cutoff = measure.NAME, measure.params.get("cutoff")
    if name == "ERR":
        return lambda docids, grades, highest: expected_reciprocal_rank(docids, grades, cutoff, highest)
    plain = "gains" not in measure.params and not measure.params.get("judged_only")
    if name == "nDCG" and measure["dcg"] == "exp-log2" and plain:
        return lambda docids, grades, _: exponential_ndcg(docids, grades, cutoff)
    if name == "Accuracy":
        return lambda docids, grades, _: accuracy(docids, grades, cutoff, measure["rel"])
    return None
