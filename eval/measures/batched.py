"""Measures of thousands of rankings at once, in numpy: for benches, where ir-measures would take most of the time.

All topics have the same padded shape (T, n): candidates of a topic are positions; the grade of unjudged ones is
-1, that of padding -2. Values equal those of ir-measures (a test holds 1e-9).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...rerank.errors import UsageError
from .own import own_measures, parse_own, printed

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

KNOWN = ("nDCG", "P", "RR", "AP", "R", "Judged")
_CELLS = 1 << 22


@dataclass(frozen=True, slots=True)
class Judged:
    """Grades of candidates, (T, n), -1 unjudged, -2 padded; and of everything judged, best first, (T, m)."""

    grades: Ints
    ideal: Ints

    @staticmethod
    def from_topics(grades: Sequence[Ints], pools: Sequence[Ints]) -> Judged:
        """Pads one array of candidates' grades and one of all judged grades (any order) per topic."""
        best = [np.sort(pool)[::-1] for pool in pools]
        return Judged(pad(grades, -2), pad(best, 0))


@dataclass(frozen=True, slots=True)
class RankValue:
    """One of nDCG@k, P@k, RR[@k], AP[@k], R@k and Judged@k, with (rel=r) where it counts relevant documents."""

    name: str
    rel: int = 1
    cutoff: int | None = None

    @staticmethod
    def parse(text: str) -> RankValue:
        """Reads ``nDCG@10`` or ``RR(rel=2)@10``; UsageError for measures that are not computed here."""
        match = re.fullmatch(r"(\w+?)(?:\(rel=(\d+)\))?(?:@(\d+))?", text.strip())
        if not match or match[1] not in KNOWN:
            raise UsageError(
                f"measure {text!r}: a bench computes {', '.join(KNOWN)}, written as nDCG@10 or RR(rel=2)@10, and "
                "measures that are registered; "
                "write runs with `sparring aggregate` and use `sparring evaluate` for others"
            )
        name, rel, cutoff = match[1], int(match[2] or 1), int(match[3]) if match[3] else None
        if name in ("P", "R", "Judged") and cutoff is None:
            raise UsageError(f"measure {text!r}: it needs a cutoff, such as {name}@10")
        if match[2] and name in ("nDCG", "Judged"):
            raise UsageError(f"measure {text!r}: {name} has no option rel")
        if rel < 1 or cutoff == 0:
            raise UsageError(f"measure {text!r}: rel and the cutoff must be at least 1")
        return RankValue(name, rel, cutoff)

    def __str__(self) -> str:
        rel = f"(rel={self.rel})" if self.rel != 1 else ""
        return f"{self.name}{rel}" + (f"@{self.cutoff}" if self.cutoff else "")

    def __call__(self, ranked: Ints, judged: Judged) -> Floats:
        """The value of every topic, (T,), from grades in ranked order, (T, n); 0 where nothing is relevant."""
        top = ranked[:, : self.cutoff]
        if self.name == "Judged":
            return _ratio((top >= 0).sum(axis=1).astype(np.float64), (top >= -1).sum(axis=1).astype(np.float64))
        if self.name == "nDCG":
            return _ratio(_dcg(top), _dcg(judged.ideal[:, : self.cutoff]))
        hits = top >= self.rel
        if self.name == "P":
            return np.asarray(hits.sum(axis=1) / self.cutoff, np.float64)
        if self.name == "RR":
            return np.where(hits.any(axis=1), 1.0 / (hits.argmax(axis=1) + 1), 0.0)
        relevant = (judged.ideal >= self.rel).sum(axis=1).astype(np.float64)
        if self.name == "R":
            return _ratio(hits.sum(axis=1).astype(np.float64), relevant)
        precision = np.cumsum(hits, axis=1) / np.arange(1, hits.shape[1] + 1)
        return _ratio((precision * hits).sum(axis=1), relevant)


@dataclass(frozen=True, slots=True)
class OneByOne:
    """A registered `own.RankMeasure`, computed topic by topic."""

    measure: Any

    def __str__(self) -> str:
        return printed(self.measure)

    def __call__(self, ranked: Ints, judged: Judged) -> Floats:
        """The value of every topic, (T,), as `RankValue` gives it."""
        relevant = (judged.ideal >= self.measure.rel).sum(axis=1).tolist()
        rows = zip(ranked, relevant, strict=True)
        return np.array([float(self.measure(np.maximum(row[row >= -1], 0), found)) for row, found in rows])


Value = RankValue | OneByOne


def parse_value(text: str) -> Value:
    """The measure of a bench that ``text`` names; UsageError as `RankValue.parse`, or where less is better."""
    match = re.fullmatch(r"(\w+)(?:\((.*)\))?(?:@([\w.+-]+))?", text.strip())
    if match is None or match[1] in KNOWN or match[1] not in own_measures.names():
        return RankValue.parse(text)
    measure = parse_own(match[1], match[2], match[3])
    if measure.lower_is_better:
        raise UsageError(f"measure {text!r}: less of it is better, and a bench compares measures of quality")
    return OneByOne(measure)


def _dcg(grades: Ints) -> Floats:
    gains = np.maximum(grades, 0)
    weighed = gains / np.log2(np.arange(2, gains.shape[1] + 2))  # no matrix product: its rounding depends on T
    return np.asarray(weighed.sum(axis=1))


def _ratio(part: Floats, whole: Floats) -> Floats:
    return np.divide(part, whole, out=np.zeros(len(part)), where=whole > 0)


def pad(rows: Sequence[NDArray[np.integer]], fill: int) -> Ints:
    """Ragged rows as one array, (T, longest), missing cells being ``fill``."""
    wide = np.full((len(rows), max((len(row) for row in rows), default=0)), fill, np.int64)
    for target, row in zip(wide, rows, strict=True):
        target[: len(row)] = row
    return wide


def ranks(orders: Ints) -> Ints:
    """Orders (positions, best first, -1 padding) → the rank of every position, from 0, (T, n); -1 for padding."""
    found = np.full(orders.shape, -1, np.int64)
    rows, columns = np.nonzero(orders >= 0)
    found[rows, orders[rows, columns]] = columns
    return found


def kendall_tau(one: Ints, other: Ints) -> Floats:
    """Kendall's tau of two orders without ties for every topic, (T,); NaN for fewer than two candidates."""
    result = np.empty(len(one))
    step = max(1, _CELLS // max(one.shape[1] ** 2, 1))
    for start in range(0, len(one), step):
        left, right = ranks(one[start : start + step]), ranks(other[start : start + step])
        real = left >= 0
        pair = real[:, :, None] & real[:, None, :] & np.triu(np.ones((one.shape[1],) * 2, bool), 1)
        agree = (left[:, :, None] < left[:, None, :]) == (right[:, :, None] < right[:, None, :])
        count = pair.sum(axis=(1, 2))
        with np.errstate(invalid="ignore"):
            result[start : start + step] = 2 * (agree & pair).sum(axis=(1, 2)) / count - 1
    return result


def overlap(one: Ints, other: Ints, k: int) -> Floats:
    """Share of the top k of one order that is in the top k of the other, (T,); k is at most the number there."""
    left, right = ranks(one), ranks(other)
    both = (left >= 0) & (left < k) & (right < k)
    return np.asarray(both.sum(axis=1) / np.maximum(np.minimum((left >= 0).sum(axis=1), k), 1), np.float64)
