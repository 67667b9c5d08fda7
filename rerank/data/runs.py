"""TREC runs: read strictly and fast, held in columns, written so that every evaluator sees one order.

A run line is ``qid Q0 docid rank score tag``, fields separated by any white space. Ids are opaque strings. Inside
a topic documents are ordered by score descending, then by the rank column, then by docid.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..arrays import ragged
from ..console import log
from ..errors import InputError, UsageError
from ..registry import unknown
from .atomic import atomic_write
from .text import odd_character
from .trec import read_columns

Topic = tuple[str, Sequence[str], ArrayLike]
"""(qid, docids, scores): what a run is made of and written from."""


@dataclass(frozen=True, slots=True, eq=False)
class Run:
    """A ranking of every topic, in columns; topics in file order, documents best first.

    Args:
        qids: topic ids, (Q,).
        offsets: documents of topic ``t`` are rows ``offsets[t]:offsets[t+1]``, int64 (Q+1,).
        docids: an Arrow large_string array, (N,).
        scores: finite or infinite, never NaN, (N,).
        tag: the last tag of the file, as trec_eval prints it.
    """

    qids: tuple[str, ...]
    offsets: NDArray[np.int64]
    docids: Any
    scores: NDArray[np.float64]
    tag: str = "sparring"
    _position: dict[str, int] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_position", {qid: t for t, qid in enumerate(self.qids)})

    @staticmethod
    def from_topics(
        topics: Mapping[str, tuple[Sequence[str], ArrayLike]] | Iterable[Topic], tag: str = "sparring"
    ) -> Run:
        """A run from (qid, docids, scores) triples, or a mapping qid → (docids, scores).

        Documents are ordered by score; equal scores keep the order given. Raises InputError for a NaN score, a
        topic or a document given twice, or lengths that differ.
        """
        import pyarrow as pa

        items = [(q, *v) for q, v in topics.items()] if isinstance(topics, Mapping) else topics
        qids, sizes, docids, scores = [], [0], [], []
        for qid, ids, values in items:
            names, numbers = _checked(qid, ids, values)
            order = np.argsort(-numbers, kind="stable")
            qids.append(qid)
            sizes.append(len(names))
            docids.append(pa.array([names[i] for i in order.tolist()], pa.large_string()))
            scores.append(numbers[order])
        if len(set(qids)) < len(qids):
            raise InputError("a topic is given twice: a run holds one ranking of each topic")
        column = pa.chunked_array(docids, pa.large_string()).combine_chunks()
        column = column if isinstance(column, pa.Array) else pa.array([], pa.large_string())
        return Run(tuple(qids), np.cumsum(sizes), column, np.concatenate([*scores, np.empty(0)]), tag)

    def topics(self) -> list[str]:
        """The topic ids, in file order."""
        return list(self.qids)

    def __len__(self) -> int:
        return len(self.qids)

    def __iter__(self) -> Iterator[str]:
        return iter(self.qids)

    def __contains__(self, qid: object) -> bool:
        return qid in self._position

    def __getitem__(self, qid: str) -> tuple[tuple[str, ...], NDArray[np.float64]]:
        """(docids, scores) of one topic, best first; KeyError for a topic that is not in the run."""
        topic = self._position[qid]
        start, stop = int(self.offsets[topic]), int(self.offsets[topic + 1])
        ids = self.docids.slice(start, stop - start).to_numpy(zero_copy_only=False)
        return tuple(ids.tolist()), self.scores[start:stop]

    def items(self) -> Iterator[tuple[str, tuple[str, ...], NDArray[np.float64]]]:
        """(qid, docids, scores) of every topic: what `write_run` and `from_topics` take."""
        for qid in self.qids:
            yield (qid, *self[qid])

    def top(self, depth: int) -> Run:
        """The run cut to the first ``depth`` documents of each topic."""
        sizes = np.diff(self.offsets)
        keep = ragged(np.zeros_like(sizes), sizes) < depth
        offsets = np.concatenate([[0], np.cumsum(np.minimum(sizes, depth))])
        return Run(self.qids, offsets, self.docids.filter(keep), self.scores[keep], self.tag)

    def tied(self) -> NDArray[np.bool_]:
        """For each topic, whether two of its documents have equal scores, (Q,)."""
        same = self.scores[1:] == self.scores[:-1]
        same[self.offsets[1:-1] - 1] = False
        return np.diff(np.concatenate([[0], np.cumsum(same), [same.sum()]])[self.offsets]) > 0


def _checked(qid: str, ids: Sequence[str], values: ArrayLike) -> tuple[list[str], NDArray[np.float64]]:
    names, numbers = list(ids), np.asarray(values, dtype=np.float64)
    if numbers.shape != (len(names),):
        raise InputError(f"topic {qid}: {len(names)} docids but scores of shape {numbers.shape}")
    if np.isnan(numbers).any():
        raise InputError(f"topic {qid}: the score of {names[int(np.isnan(numbers).argmax())]} is NaN")
    if len(set(names)) < len(names):
        raise InputError(f"topic {qid}: document {_repeated(names)} is given twice")
    return names, numbers


def _repeated(names: Iterable[str]) -> str | None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            return name
        seen.add(name)
    return None


def read_run(
    path: Path,
    *,
    dedup: Literal["error", "max", "first"] = "error",
    on_error: Literal["stop", "skip"] = "stop",
    encoding: str = "utf-8",
    encoding_errors: str = "strict",
) -> Run:
    """Reads a TREC run, or an MS MARCO run of three columns (qid, docid, rank), plain or gzip.

    Blank lines, ``#`` comments, tabs, CRLF and a byte-order mark are accepted. Scores decide the order; the rank
    column breaks ties and is compared with it once. Of an MS MARCO run the score is minus the rank.

    Args:
        dedup: what to do with a (qid, docid) that comes twice: refuse it, keep the best score, or the first line.
        on_error: "stop" raises InputError with every problem (the first 20 and their number) as ``path:line:``;
            "skip" leaves such lines out, and says so.
        encoding, encoding_errors: as in ``open``; anything but UTF-8 must be asked for.

    Raises:
        InputError: malformed lines, NaN scores, duplicates, ids with white space inside, no topic at all, a
            truncated file. MissingResourceError: no such file.
    """
    for name, value, known in (
        ("dedup", dedup, ("error", "max", "first")),
        ("on_error", on_error, ("stop", "skip")),
    ):
        if value not in known:
            raise UsageError(unknown(name, value, known))
    run = Run(*read_columns(path, dedup, on_error, encoding, encoding_errors))
    if tied := int(run.tied().sum()):
        log.info("%s: tied scores in %d of %d topics: ordered by rank, then docid", path, tied, len(run))
    return run


def with_rest(
    run: Run, qid: str, docids: Sequence[str], scores: NDArray[np.float64]
) -> tuple[str, tuple[str, ...], NDArray[np.float64]]:
    """A topic whose first candidates were ranked anew, (qid, docids, scores), with the rest of the run below.

    The rest is what the run holds of the topic beyond ``docids``, for want of depth or of a score. It keeps its
    order, strictly below the lowest of ``scores``, (n,).
    """
    seen = set(docids)
    rest = tuple(name for name in run[qid][0] if name not in seen)
    lowest = scores.min() if len(scores) else 0.0
    below = lowest - 1.0 - np.arange(len(rest))
    return qid, (*docids, *rest), np.concatenate([scores, below])


def ranked(scores: ArrayLike) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """The total order of one topic whose candidates are given in first-stage order.

    NaN means not scored (beyond the depth, or quarantined): these stay strictly below, in first-stage order.
    Equal scores keep first-stage order. This order is contract 2 of every run that is written.

    Args:
        scores: final score of every candidate, NaN where it has none, (n,).

    Returns:
        order (n,): positions, best first; scores (n,): in that order, finite and strictly decreasing in float32.
    """
    values = np.asarray(scores, dtype=np.float64)
    missing = np.isnan(values)
    order = np.lexsort((-np.where(missing, 0.0, values), missing))
    final = values[order]
    known = len(values) - int(missing.sum())
    floor = final[known - 1] if known and np.isfinite(final[known - 1]) else 0.0
    final[known:] = floor - 1.0 - np.arange(len(values) - known)
    return order, separated(final)


def separated(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Makes descending scores strictly descending in float32, changing as few as possible, (n,).

    A score that is not below its predecessor in float32 is lowered to the next float32 value below it (subnormal
    numbers are skipped). Where that cannot be done (infinite or huge scores) all become n, n-1, ..., 1.
    """
    with np.errstate(over="ignore"):
        single = scores.astype(np.float32)
    if not np.isfinite(single).all():
        return np.arange(len(scores), 0, -1, dtype=np.float64)
    if (np.diff(single) < 0).all():
        return scores
    bits = single.view(np.int32).astype(np.int64)
    smallest = 0x00800000  # the bits of the smallest normal number: keys count normal numbers from zero
    size = np.maximum((bits & 0x7FFFFFFF) - smallest + 1, 0)
    key = np.where(bits < 0, -size, size)
    steps = np.arange(len(key))
    lowered = np.minimum.accumulate(key + steps) - steps
    if len(lowered) and lowered[-1] < -(0x7F7FFFFF - smallest + 1):
        return np.arange(len(scores), 0, -1, dtype=np.float64)
    magnitude = np.abs(lowered)
    pattern = np.where(magnitude > 0, magnitude + smallest - 1, 0).astype(np.int32)
    replaced = np.copysign(pattern.view(np.float32).astype(np.float64), lowered)
    return np.where((lowered == key) & (magnitude > 0), scores, replaced)


@dataclass(frozen=True, slots=True)
class Written:
    """What `write_run` wrote; ``separated`` topics had scores that were equal in float32 (or not finite)."""

    topics: int
    lines: int
    separated: int


def write_run(path: Path, run: Run | Iterable[Topic], tag: str | None = None) -> Written:
    """Writes a TREC run, topic by topic as they arrive; the file appears whole or not at all (``.gz`` packs it).

    Documents are ordered by score, equal scores in the order given, and their scores made strictly decreasing in
    float32; numbers are printed so that they read back exactly. Topics without documents are left out. Raises
    InputError for NaN scores, documents or topics given twice, and ids or tags that TREC files cannot hold.
    """
    tag = tag if tag is not None else run.tag if isinstance(run, Run) else "sparring"
    if not tag or odd_character(tag):
        raise UsageError(f"run tag {tag!r} must be one word without white space: choose another --tag")
    seen: set[str] = set()
    rows = changed = 0
    with atomic_write(path) as stream:
        for qid, ids, values in run.items() if isinstance(run, Run) else run:
            names, numbers = _checked(qid, ids, values)
            if qid in seen:
                raise InputError(f"topic {qid} is given twice: a run holds one ranking of each topic")
            _check_ids(qid, names)
            if not names:
                log.warning("topic %s has no candidates: it is absent from %s", qid, path)
                continue
            seen.add(qid)
            order, final = ranked(numbers)
            changed += not np.array_equal(final, numbers[order])
            stream.write(_topic_lines(qid, names, order, final, tag))
            rows += len(names)
    return Written(len(seen), rows, changed)


def _topic_lines(
    qid: str, names: list[str], order: NDArray[np.int64], scores: NDArray[np.float64], tag: str
) -> str:
    pairs = zip(order.tolist(), scores.tolist(), strict=True)
    return "".join(
        f"{qid} Q0 {names[position]} {rank} {score!r} {tag}\n" for rank, (position, score) in enumerate(pairs, 1)
    )


def _check_ids(qid: str, names: list[str]) -> None:
    if qid.startswith("#"):
        raise InputError(f"topic id {qid!r} starts with '#', which marks a comment in TREC files: rename it")
    if not qid or odd_character(qid):
        raise InputError(f"topic id {qid!r} is empty or holds white space: TREC files cannot hold it; rename it")
    if len(" ".join(names).split()) == len(names) and "".join(names).isprintable():
        return
    for name in names:
        if not name or odd_character(name):
            raise InputError(
                f"topic {qid}: docid {name!r} is empty or holds white space ({odd_character(name)}): "
                "TREC files cannot hold it; rename the documents"
            )
