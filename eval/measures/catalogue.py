"""Every measure of ir-measures by name, and our own beside them.

Measures are written as ir-measures writes them (``nDCG@10``, ``AP(rel=2)``) or as trec_eval does
(``ndcg_cut_10``). Documents are ordered as trec_eval orders them: by score, equal scores by docid descending.
"""

from __future__ import annotations

import dataclasses
import difflib
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from ...rerank.data.runs import Run
from ...rerank.errors import SparringError, UsageError
from . import ir_measures_adapter as theirs
from .definitions import ranked_grades
from .own import RankMeasure, own_measures, parse_own, printed
from .qrels import Qrels

DEFAULT_MEASURES = ("nDCG@10", "RR@10", "AP", "R@100", "Judged@10")
_BATCH = 500
T = TypeVar("T")


# ---------------------------------------------------------------------------------------------------------- names


@dataclass(frozen=True, slots=True)
class Measure:
    """A measure by its printed name: one of ir-measures (``provided``), or an `own.RankMeasure` (``own``)."""

    name: str
    own: Any = None
    provided: Any = None

    def __str__(self) -> str:
        return self.name

    @property
    def lower_is_better(self) -> bool:
        """True for measures of effort, such as the rank of the last relevant document."""
        return bool(self.own is not None and self.own.lower_is_better)

    @property
    def summed(self) -> bool:
        """True for counts such as NumRet, which are summed over topics and not averaged."""
        return self.provided is not None and theirs.is_sum(self.provided)


class Catalogue:
    """Every measure that can be computed here, ours and those of ir-measures; entries carry a description."""

    def register(self, name: str) -> Callable[[type[T]], type[T]]:
        """Class decorator: makes a frozen dataclass, an `own.RankMeasure`, known as ``name``.

        Raises UsageError as every registry does, and where ir-measures has a measure of this name.
        """
        if name in theirs.registered():
            raise UsageError(f"measure {name!r} is one of ir-measures: choose another name")
        return own_measures.register(name)

    def names(self) -> list[str]:
        """The names, as they are written before a cutoff, sorted."""
        return sorted({*own_measures.names(), *theirs.computable()}, key=str.lower)

    def __iter__(self) -> Iterator[tuple[str, type[Any]]]:
        """(name, class that describes it) of every measure; ``[@k]`` is shown behind names that take a cutoff."""
        own, provided = dict(own_measures), theirs.computable()
        for name in self.names():
            if name in own:
                yield name, own[name]
            else:
                cls = provided[name]
                shown = f"{name}[@k]" if "cutoff" in cls.SUPPORTED_PARAMS else name
                yield shown, dataclasses.make_dataclass(name, [], namespace={"__doc__": cls.__doc__})

    def parse(self, name: str) -> Measure:
        """The one measure of this name; UsageError as in `parse_measures`."""
        return parse_measures([name])[0]


measures = Catalogue()


def parse_measures(names: Sequence[str]) -> list[Measure]:
    """The measures of these names, each once; UsageError says everything that is wrong with all of them."""
    found: dict[str, Measure] = {}
    problems = []
    for name in names:
        try:
            found.update({measure.name: measure for measure in _parse(name.strip())})
        except SparringError as error:
            problems.append(str(error))
    if problems:
        raise UsageError("\n".join(problems))
    return list(found.values())


def _parse(text: str) -> list[Measure]:
    match = re.fullmatch(r"(\w+)(?:\((.*)\))?(?:@([\w.+-]+))?", text)
    if match and match[1] in own_measures.names():
        component = parse_own(match[1], match[2], match[3])
        return [Measure(printed(component), own=component)]
    word = re.split(r"\W", text)[0]
    if word not in theirs.registered() or re.fullmatch(r"\w+\.[\d.,]+", text):
        parsed = _trec_names(text)
    else:
        try:
            parsed = [theirs.parse(text)]
        except ValueError as error:
            raise UsageError(f"measure {text!r}: {error}") from None
    for measure in parsed:
        _check_provided(text, measure)
    return [Measure(str(measure), provided=measure) for measure in parsed]


def _trec_names(text: str) -> list[Any]:
    """Measures in trec_eval's spelling, such as ndcg_cut_10 or P_5; UsageError with the nearest known name."""
    if not re.fullmatch(r"all_trec|official|set", text):
        try:
            return theirs.parse_trec(text)
        except ValueError:
            pass
    word = re.split(r"[(@]", text)[0]
    folded = {name.lower(): theirs.name_of(cls) for name, cls in theirs.registered().items()}
    folded |= {name.lower(): name for name in own_measures.names()}
    near = difflib.get_close_matches(word.lower(), folded, n=1)
    hint = f" (did you mean {text.replace(word, folded[near[0]], 1)!r}?)" if near else ""
    raise UsageError(f"unknown measure {text!r}{hint}; `sparring list measures` shows all")


def _check_provided(text: str, measure: Any) -> None:
    cutoff = measure.params.get("cutoff")
    if isinstance(cutoff, int) and cutoff < 1:
        raise UsageError(f"measure {text!r}: the cutoff behind @ must be at least 1")
    if how := theirs.missing(measure):
        raise UsageError(f"measure {text!r} cannot be computed here: {how}")


# --------------------------------------------------------------------------------------------------------- values


def measure_run(chosen: Sequence[Measure], qrels: Qrels, run: Run) -> NDArray[np.float64]:
    """The value of every measure for every judged topic, (measures, topics), topics in the order of ``qrels``.

    Topics that the run lacks have the value of an empty ranking (0 for nearly all measures); topics of the run
    that are not judged are ignored. Equal scores are ordered as trec_eval does, by docid descending, whichever
    package computes the measure.
    """
    values = np.zeros((len(chosen), len(qrels)))
    groups = _provided(chosen)
    for row, measure in enumerate(chosen):
        if measure.provided is not None:
            values[row] = theirs.default(measure.provided)
    column = {qid: t for t, qid in enumerate(qrels.grades)}
    judged, highest = [qid for qid in qrels if qid in run], qrels.highest
    for start in range(0, len(judged), _BATCH):
        batch = judged[start : start + _BATCH]
        order = {qid: trec_order(*run[qid]) for qid in batch}
        for row, measure in enumerate(chosen):
            if measure.own is not None:
                for qid in batch:
                    values[row, column[qid]] = _own_value(measure.own, order[qid], qrels.grades[qid])
        for with_negative, rows in groups:
            grades = {
                qid: qrels.grades[qid] | (qrels.negative.get(qid, {}) if with_negative else {}) for qid in batch
            }
            wanted = {chosen[row].provided: row for row in rows}
            for provided, qid, value in theirs.calculate(list(wanted), grades, order, highest):
                values[wanted[provided], column[qid]] = value
    return values


def _provided(chosen: Sequence[Measure]) -> list[tuple[bool, list[int]]]:
    """Rows of the measures that ir-measures computes: infAP must see negative grades, all others must not."""
    rows = [row for row, measure in enumerate(chosen) if measure.provided is not None]
    inferred = [row for row in rows if chosen[row].name.startswith("infAP")]
    groups = [(True, inferred), (False, [row for row in rows if row not in inferred])]
    return [group for group in groups if group[1]]


def _own_value(measure: RankMeasure, docids: Sequence[str], grades: dict[str, int]) -> float:
    return float(measure(ranked_grades(docids, grades), sum(grade >= measure.rel for grade in grades.values())))


def trec_order(docids: Sequence[str], scores: NDArray[np.float64]) -> list[str]:
    """Documents as trec_eval orders them: by score descending, equal scores by docid descending (as bytes)."""
    ids = list(docids)
    if (np.diff(scores) < 0).all():
        return ids
    keys = sorted(zip((-scores).tolist(), range(len(ids)), strict=True), key=lambda k: k[0])
    ordered: list[str] = []
    start = 0
    for stop in range(1, len(keys) + 1):
        if stop == len(keys) or keys[stop][0] != keys[start][0]:
            ordered += sorted((ids[i] for _, i in keys[start:stop]), reverse=True)
            start = stop
    return ordered


def aggregate(measure: Measure, values: NDArray[np.float64]) -> float:
    """The mean over topics, or the sum for counts; NaN without topics."""
    if measure.summed:
        return float(values.sum())
    return float(values.mean()) if len(values) else float("nan")
