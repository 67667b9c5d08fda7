"""Relevance judgements, read strictly."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ...rerank.console import log
from ...rerank.data.text import Problems, blocks, odd_character
from ...rerank.errors import InputError

_GRADE = re.compile(rb"[+-]?\d+")
_HEADERS = {(b"query-id", b"corpus-id", b"score"), (b"query_id", b"doc_id", b"relevance")}


@dataclass(frozen=True, eq=False)
class Qrels(Mapping[str, dict[str, int]]):
    """Judgements, qid → docid → grade (0 or more); grades below 0 (``negative``) count as unjudged."""

    grades: dict[str, dict[str, int]]
    negative: dict[str, dict[str, int]] = field(default_factory=dict)

    def __getitem__(self, qid: str) -> dict[str, int]:
        return self.grades[qid]

    def __iter__(self) -> Iterator[str]:
        return iter(self.grades)

    def __len__(self) -> int:
        return len(self.grades)

    @property
    def highest(self) -> int:
        """The highest grade."""
        return max((max(topic.values(), default=0) for topic in self.grades.values()), default=0)


def read_qrels(path: Path, encoding: str = "utf-8") -> Qrels:
    """Reads qrels, plain or gzip: ``qid iteration docid grade``, or three columns without the iteration (BEIR).

    Blank lines, comments, tabs, CRLF and a byte-order mark are accepted. Raises InputError, naming every line at
    fault, for another number of fields, grades that are not whole numbers, and documents judged twice.
    """
    problems = Problems(path)
    grades: dict[str, dict[str, int]] = {}
    negative: dict[str, dict[str, int]] = {}
    lines: dict[tuple[str, str], int] = {}
    width = 0
    for block in blocks(path, encoding):
        for number, line in block.lines():
            fields = line.split()
            if not fields or fields[0].startswith(b"#"):
                continue
            if not width and tuple(f.lower() for f in fields) in _HEADERS:
                width = 3
                continue
            width = width or (3 if len(fields) == 3 else 4)
            if wrong := _wrong(fields, width):
                problems.add(number, wrong)
                continue
            qid, docid, grade = fields[0].decode(), fields[-2].decode(), int(fields[-1])
            first = lines.setdefault((qid, docid), number)
            if first != number:
                problems.add(number, _judged_twice(qid, docid, grade, first, grades, negative))
                continue
            (grades if grade >= 0 else negative).setdefault(qid, {})[docid] = grade
    problems.check()
    if not grades:
        raise InputError(f"0 topics read from {path}: it holds no judgement of grade 0 or more")
    if count := sum(len(topic) for topic in negative.values()):
        log.info("%s: %d negative grades count as unjudged", path, count)
    return Qrels(grades, negative)


def _wrong(fields: list[bytes], width: int) -> str | None:
    if len(fields) != width:
        names = "qid iteration docid grade" if width == 4 else "qid docid grade"
        return f"expected {width} fields ({names}), found {len(fields)}"
    for name, raw in (("qid", fields[0]), ("docid", fields[-2])):
        if odd := odd_character(raw.decode()):
            return f"{name} {raw.decode()!r} holds {odd}, at which other tools split the line: rename it"
    if not _GRADE.fullmatch(fields[-1]):
        return f"grade {fields[-1].decode()!r} is not a whole number: trec_eval would read it as 0 or cut it"
    return None


def _judged_twice(
    qid: str,
    docid: str,
    grade: int,
    first: int,
    grades: dict[str, dict[str, int]],
    negative: dict[str, dict[str, int]],
) -> str:
    before = grades.get(qid, {}).get(docid, negative.get(qid, {}).get(docid))
    how = "the same" if before == grade else f"{before} there and {grade} here"
    return f"document {docid} of topic {qid} is judged on line {first} already ({how}): remove one of them"
