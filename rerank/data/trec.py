"""TREC run lines into columns: Arrow's parser for regular blocks, line by line with exact messages otherwise."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..console import log
from ..errors import InputError
from .text import Block, Problems, blocks, odd_character

RUN_FIELDS = "qid Q0 docid rank score tag"
SHORT_FIELDS = "qid docid rank"

_SPACES = bytes.maketrans(b"\t\r\x0b\x0c", b"    ")
_PLAIN = bytes(range(33, 127)) + b" \t\n\r\x0b\x0c"
_NUMBER = re.compile(rb"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?|[+-]?inf(inity)?", re.IGNORECASE)
_HEADER = (b"qid", b"query", b"query_id", b"topic", b"topic_id")


class Columns(NamedTuple):
    """A whole run, as `runs.Run` holds it: topic ``t`` is rows ``offsets[t]:offsets[t+1]``, best first."""

    qids: tuple[str, ...]
    offsets: NDArray[np.int64]
    docids: Any
    scores: NDArray[np.float64]
    tag: str


@dataclass(slots=True)
class _Rows:
    """Rows gathered block by block: topic codes, ranks and scores as arrays, docids as Arrow chunks."""

    codes: dict[str, int]
    topic: list[NDArray[np.int32]]
    rank: list[NDArray[np.int64]]
    score: list[NDArray[np.float64]]
    docid: list[Any]
    tag: str = "run"


def read_columns(path: Path, dedup: str, on_error: str, encoding: str, encoding_errors: str) -> Columns:
    """Reads a run file; see `runs.read_run` for what is accepted, refused and said."""
    problems, rows = Problems(path), _Rows({}, [], [], [], [])
    width = 0
    for block in blocks(path, encoding, encoding_errors):
        width = width or _width(block)
        if width and not (width == 6 and _read_fast(block, rows)):
            _read_slowly(block, width, rows, problems)
    if on_error == "skip" and problems.count:
        log.warning("%d lines of %s were skipped:\n%s", problems.count, path, problems.text())
    else:
        problems.check()
    if not rows.codes:
        content = "it has no well-formed line" if width else "it is empty, or holds comments only"
        raise InputError(f"0 topics read from {path}: {content}")
    if width == 3:
        log.info("%s: an MS MARCO run of three columns: scores are minus the rank", path)
    columns, order = _assemble(path, rows, width)
    if dedup == "error" and on_error == "stop":
        _name_duplicates(path, columns, encoding, encoding_errors)
        return columns
    return _without_duplicates(path, columns, order, "max" if dedup == "max" else "first")


def _width(block: Block) -> int:
    """3 where most of the first lines have three fields, 6 otherwise, 0 without any line to judge by."""
    counts = []
    for _, line in block.lines():
        fields = line.split()
        if fields and not fields[0].startswith(b"#"):
            counts.append(len(fields))
        if len(counts) == 20:
            break
    return 0 if not counts else 3 if 2 * counts.count(3) > len(counts) else 6


def _read_fast(block: Block, rows: _Rows) -> bool:
    """Reads a block with Arrow's CSV parser; False, with nothing kept, if anything at all is unusual in it."""
    import pyarrow as pa
    from pyarrow import csv

    if odd := block.data.translate(None, _PLAIN):
        if any(byte < 32 or byte == 127 for byte in set(odd)):
            return False
        if re.search(r"[^\S\t\n\r\x0b\x0c ]", block.data.decode()):
            return False
    text = block.data.translate(_SPACES)
    if b"#" in text:
        text = re.sub(rb"(?m)^ *#.*$", b"", text)
    if b"  " in text:
        text = re.sub(rb" {2,}", b" ", text)
    text = text.replace(b" \n", b"\n").replace(b"\n ", b"\n").strip(b" \n")
    if not text:
        return True
    names = RUN_FIELDS.split()
    try:
        table = csv.read_csv(
            pa.BufferReader(text),
            read_options=csv.ReadOptions(column_names=names),
            parse_options=csv.ParseOptions(delimiter=" ", quote_char=False, escape_char=False),
            convert_options=csv.ConvertOptions(
                include_columns=["qid", "docid", "rank", "score"],
                column_types={
                    "qid": pa.dictionary(pa.int32(), pa.string()),
                    "docid": pa.large_string(),
                    "rank": pa.int64(),
                    "score": pa.float64(),
                },
                null_values=[],
                check_utf8=False,
            ),
        )
    except pa.ArrowInvalid:
        return False
    score = table["score"].to_numpy()
    if np.isnan(score).any():
        return False
    for chunk in table["qid"].chunks:
        known = [rows.codes.setdefault(qid, len(rows.codes)) for qid in chunk.dictionary.to_pylist()]
        rows.topic.append(np.array(known, np.int32)[chunk.indices.to_numpy()])
    rows.rank.append(table["rank"].to_numpy())
    rows.score.append(score)
    rows.docid += table["docid"].chunks
    rows.tag = text[text.rfind(b" ") + 1 :].decode()
    return True


def _read_slowly(block: Block, width: int, rows: _Rows, problems: Problems) -> None:
    """Reads a block line by line and names the problems of each."""
    import pyarrow as pa

    topics, docids, ranks, scores = [], [], [], []
    for number, line in block.lines():
        fields = line.split()
        if not fields or fields[0].startswith(b"#"):
            continue
        wrong = _wrong(fields, width)
        if wrong:
            problems.add(number, wrong)
            continue
        qid, docid = fields[0].decode(), fields[2 if width == 6 else 1].decode()
        rank = int(float(fields[3 if width == 6 else 2]))
        topics.append(rows.codes.setdefault(qid, len(rows.codes)))
        docids.append(docid)
        ranks.append(rank)
        scores.append(float(fields[4]) if width == 6 else -float(rank))
        if width == 6:
            rows.tag = fields[5].decode()
    rows.topic.append(np.array(topics, np.int32))
    rows.rank.append(np.array(ranks, np.int64))
    rows.score.append(np.array(scores, np.float64))
    rows.docid.append(pa.array(docids, pa.large_string()))


def _wrong(fields: list[bytes], width: int) -> str | None:
    """What is wrong with the fields of a line, and what to do about it; None if nothing is."""
    if fields[0].lower() in _HEADER and fields[-2 if width == 6 else -1].lower() in (b"score", b"rank"):
        return "this is a header: TREC runs have none; remove the line"
    if len(fields) != width:
        return f"expected {width} fields ({RUN_FIELDS if width == 6 else SHORT_FIELDS}), found {len(fields)}"
    rank = fields[3 if width == 6 else 2]
    for name, raw in (("qid", fields[0]), ("docid", fields[2 if width == 6 else 1])):
        if odd := odd_character(raw.decode()):
            return f"{name} {raw.decode()!r} holds {odd}, at which other tools split the line: rename it"
    if width == 6 and (wrong := _wrong_score(fields[4])):
        return wrong
    if not _NUMBER.fullmatch(rank) or not float(rank).is_integer() or abs(float(rank)) > 2**53:
        return f"rank {rank.decode()!r} is not a whole number (are rank and score swapped?)"
    return None


def _wrong_score(raw: bytes) -> str | None:
    text = raw.decode()
    if _NUMBER.fullmatch(raw):
        return None
    if text.lower().lstrip("+-") == "nan":
        return "score is NaN: it has no place in an order; remove the line or repair the model's output"
    comma = " (a decimal comma? write a point)" if re.fullmatch(r"[+-]?\d+,\d+", text) else ""
    return f"score {text!r} is not a number{comma}"


def _assemble(path: Path, rows: _Rows, width: int) -> tuple[Columns, NDArray[np.int64]]:
    """Sorts the rows by topic, score, rank and docid; returns them with their places in the file."""
    import pyarrow as pa

    topic, rank, score = np.concatenate(rows.topic), np.concatenate(rows.rank), np.concatenate(rows.score)
    rows.topic, rows.rank, rows.score = [], [], []
    docid = pa.chunked_array(rows.docid, pa.large_string()).combine_chunks()
    rows.docid = []
    order = np.arange(len(topic))
    if not _in_order(topic, rank, score):
        order = np.lexsort((rank, -score, topic))
        topic, rank, score = topic[order], rank[order], score[order]
    order = _settled(topic, rank, score, docid, order)
    if (np.diff(order) < 0).any():
        docid = docid.take(pa.array(order))
    if width == 6:
        _compare_ranks(path, topic, rank, len(rows.codes))
    if infinite := int(np.isinf(score).sum()):
        log.warning("%s: %d infinite scores: they count for the order only", path, infinite)
    offsets = np.searchsorted(topic, np.arange(len(rows.codes) + 1)).astype(np.int64)
    return Columns(tuple(rows.codes), offsets, docid, score, rows.tag), order


def _in_order(topic: NDArray[np.int32], rank: NDArray[np.int64], score: NDArray[np.float64]) -> bool:
    """True if the rows are sorted by topic, then score descending, then rank, as almost every run file is."""
    if (topic[1:] < topic[:-1]).any():
        return False
    worse = (score[1:] < score[:-1]) | ((score[1:] == score[:-1]) & (rank[1:] >= rank[:-1]))
    return bool((worse | (topic[1:] > topic[:-1])).all())


def _settled(
    topic: NDArray[np.int32],
    rank: NDArray[np.int64],
    score: NDArray[np.float64],
    docid: Any,
    order: NDArray[np.int64],
) -> NDArray[np.int64]:
    """Orders by docid the rows that topic, score and rank leave tied."""
    tied = (topic[1:] == topic[:-1]) & (score[1:] == score[:-1]) & (rank[1:] == rank[:-1])
    if not tied.any():
        return order
    order = order.copy()
    edges = np.flatnonzero(np.diff(np.concatenate([[False], tied, [False]]).astype(np.int8)))
    for start, stop in zip(edges[::2].tolist(), (edges[1::2] + 1).tolist(), strict=True):
        names = docid.take(order[start:stop]).to_pylist()
        inside = sorted(range(stop - start), key=names.__getitem__)
        order[start:stop] = order[start:stop][inside]
    return order


def _compare_ranks(path: Path, topic: NDArray[np.int32], rank: NDArray[np.int64], topics: int) -> None:
    against = (topic[1:] == topic[:-1]) & (rank[1:] < rank[:-1])
    if wrong := len(np.unique(topic[1:][against])):
        log.warning(
            "%s: the rank column contradicts the scores in %d of %d topics: scores decide", path, wrong, topics
        )


def _duplicates(columns: Columns) -> Iterator[tuple[int, list[str]]]:
    """(topic, docids) of every topic in which a document comes twice."""
    for topic, (start, stop) in enumerate(zip(columns.offsets[:-1], columns.offsets[1:], strict=True)):
        ids = columns.docids.slice(start, stop - start).to_numpy(zero_copy_only=False).tolist()
        if len(set(ids)) < len(ids):
            yield topic, ids


def _without_duplicates(path: Path, columns: Columns, order: NDArray[np.int64], dedup: str) -> Columns:
    """Keeps one line of each (topic, docid): the one with the best score ("max"), or the first in the file."""
    keep = np.ones(len(order), bool)
    for topic, ids in _duplicates(columns):
        start = int(columns.offsets[topic])
        kept: dict[str, int] = {}
        for row, name in enumerate(ids, start):
            other = kept.setdefault(name, row)
            if dedup == "first" and order[row] < order[other]:
                kept[name] = row
        keep[start : start + len(ids)] = False
        keep[list(kept.values())] = True
    dropped = len(keep) - int(keep.sum())
    if not dropped:
        return columns
    log.warning("%s: %d duplicate lines were dropped (kept: %s)", path, dropped, _KEPT[dedup])
    offsets = np.concatenate([[0], np.cumsum(keep)])[columns.offsets]
    return columns._replace(offsets=offsets, docids=columns.docids.filter(keep), scores=columns.scores[keep])


_KEPT = {"max": "the best score", "first": "the first line"}


def _name_duplicates(path: Path, columns: Columns, encoding: str, encoding_errors: str) -> None:
    """Raises InputError that names the line of every duplicate; reads the file again to find them."""
    twice = {columns.qids[topic] for topic, _ in _duplicates(columns)}
    if not twice:
        return
    problems = Problems(path)
    seen: dict[tuple[str, str], int] = {}
    for block in blocks(path, encoding, encoding_errors):
        for number, line in block.lines():
            fields = line.split()
            if not fields or fields[0].startswith(b"#") or (qid := fields[0].decode()) not in twice:
                continue
            docid = fields[2 if len(fields) == 6 else 1].decode()
            first = seen.setdefault((qid, docid), number)
            if first != number:
                problems.add(
                    number,
                    f"document {docid} of topic {qid} is on line {first} already: remove one of them, or ask for "
                    "dedup 'max' (best score) or 'first' (first line)",
                )
    problems.check()
