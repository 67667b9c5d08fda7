"""Relevance judgements, read strictly."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ...rerank.console import log
from ...rerank.data.text import Problems, blocks, odd_character
from ...rerank.errors import InputError, SparringError

_GRADE = re.compile(rb"[+-]?\d+")
_SCORE = re.compile(rb"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
HIGHEST_GRADE = 10_000
"""trec_eval reserves memory and time for every grade up to the highest one, and reads 2^32 + 1 as 1."""
_HEADERS = {(b"query-id", b"corpus-id", b"score"), (b"query_id", b"doc_id", b"relevance")}
_RUN_LINE = "a line of a run (qid Q0 docid rank score tag)"
_QRELS_FIELDS = "(qid iteration docid grade)"


@dataclass(frozen=True, eq=False)
class Qrels(Mapping[str, dict[str, int]]):
    """Judgements, qid → docid → grade (0 or more); grades below 0 (``negative``) count as unjudged.

    A topic that has only negative grades is a judged topic without a grade, as in trec_eval.
    """

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
            if not width and _looks_like(fields) == "run":
                raise InputError(f"{path}:{number}: {_RUN_LINE}, not judgements {_QRELS_FIELDS}")
            width = width or (3 if len(fields) == 3 else 4)
            if wrong := _wrong(fields, width):
                problems.add(number, wrong)
                continue
            qid, docid, grade = fields[0].decode(), fields[-2].decode(), int(fields[-1])
            first = lines.setdefault((qid, docid), number)
            if first != number:
                problems.add(number, _judged_twice(qid, docid, grade, first, grades, negative))
                continue
            topic = grades.setdefault(qid, {})
            (topic if grade >= 0 else negative.setdefault(qid, {}))[docid] = grade
    problems.check()
    if not any(grades.values()):
        raise InputError(f"0 topics read from {path}: it holds no judgement of grade 0 or more")
    if count := sum(len(topic) for topic in negative.values()):
        log.info("%s: %d negative grades count as unjudged", path, count)
    return Qrels(grades, negative)


def check_order(qrels: Path, runs: Sequence[Path], usage: str) -> None:
    """InputError if a run was given as ``qrels`` and judgements as a run, or judgements as a run.

    ``usage`` is the command as it should be, with ``{qrels}`` and ``{runs}`` in it.
    """
    judgements = [path for path in runs if _kind(path) == "qrels"]
    if not judgements:
        return
    if _kind(qrels) == "run":
        right = usage.format(
            qrels=judgements[0], runs=" ".join(str(p) for p in (qrels, *runs) if p != judgements[0])
        )
        raise InputError(f"{qrels} holds a run and {judgements[0]} judgements: these look swapped\nwrite: {right}")
    named = ", ".join(map(str, judgements))
    raise InputError(f"{named}: judgements {_QRELS_FIELDS}, where a run (qid Q0 docid rank score tag) belongs")


def _kind(path: Path) -> str | None:
    """What the first line of a file is of: a "run", "qrels", or None where neither is sure."""
    if not path.is_file():  # a pipe can be read only once
        return None
    try:
        for block in blocks(path):
            for _, line in block.lines():
                fields = line.split()
                if fields and not fields[0].startswith(b"#"):
                    return _looks_like(fields)
    except SparringError:  # said when the file is read
        return None
    return None


def _looks_like(fields: Sequence[bytes]) -> str | None:
    if len(fields) == 6 and _GRADE.fullmatch(fields[3]) and _SCORE.fullmatch(fields[4]):
        return "run"
    judged = len(fields) in (3, 4) and _GRADE.fullmatch(fields[-1])
    return "qrels" if judged or tuple(f.lower() for f in fields) in _HEADERS else None


def _wrong(fields: list[bytes], width: int) -> str | None:
    if len(fields) != width:
        names = "qid iteration docid grade" if width == 4 else "qid docid grade"
        return f"expected {width} fields ({names}), found {len(fields)}"
    for name, raw in (("qid", fields[0]), ("docid", fields[-2])):
        if odd := odd_character(raw.decode()):
            return f"{name} {raw.decode()!r} holds {odd}, at which other tools split the line: rename it"
    if not _GRADE.fullmatch(fields[-1]):
        return f"grade {fields[-1].decode()!r} is not a whole number: trec_eval would read it as 0 or cut it"
    if len(fields[-1].lstrip(b"+-0")) > len(str(HIGHEST_GRADE)) or abs(int(fields[-1])) > HIGHEST_GRADE:
        shown = fields[-1].decode() if len(fields[-1]) < 30 else f"{fields[-1][:20].decode()}..."
        return f"grade {shown} is not between -{HIGHEST_GRADE:,} and {HIGHEST_GRADE:,}: scale the grades down"
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
