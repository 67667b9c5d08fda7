"""Measures that are computed here, from the grades of one ranking: ours, and those that plugins register."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from ...rerank.registry import Registry

own_measures = Registry("measure", "sparring.eval.measures.screening")
"""Register with `sparring.eval.measures.catalogue.measures`, which refuses the names of ir-measures too."""


class RankMeasure(Protocol):
    """A measure computed from the grades of one ranking; the field ``at`` is what is written behind ``@``.

    Attributes:
        rel: the least grade that counts as relevant.
        lower_is_better: True for measures of effort, such as the rank of the last relevant document.
    """

    rel: int
    lower_is_better: ClassVar[bool]

    def __call__(self, grades: NDArray[np.int64], relevant: int) -> float:
        """``grades`` in rank order, 0 where unjudged, (N,); ``relevant`` is R."""
        ...


def takes_cutoff(cls: type[Any]) -> bool:
    """Whether something can be written behind ``@``."""
    return any(field.name == "at" for field in dataclasses.fields(cls))


def printed(measure: Any) -> str:
    """The name of a measure as it is written: ``WSS(rel=2)@95``."""
    options = [
        f"{field.name}={getattr(measure, field.name)!r}"
        for field in dataclasses.fields(measure)
        if field.name != "at" and getattr(measure, field.name) != field.default
    ]
    cutoff = f"@{measure.at:g}" if takes_cutoff(type(measure)) else ""
    return str(measure.spec_name) + (f"({', '.join(options)})" if options else "") + cutoff


def parse_own(name: str, options: str | None, cutoff: str | None) -> Any:
    """The measure of a name, its options and what is behind ``@``, each as it was written."""
    given = ", ".join(part for part in (options, f"at={cutoff}" if cutoff else "") if part)
    return own_measures.parse(f"{name}({given})")
