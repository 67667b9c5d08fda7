"""Lines of JSONL and TSV files as (id, text), for documents and queries alike; every error says ``path:line``."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ..console import log
from ..errors import InputError
from .text import lines, odd_character

ID_KEYS = ("id", "_id", "docid", "doc_id", "docno", "pid", "qid", "query_id")
TEXT_KEYS = ("text", "contents", "content", "passage", "body", "query")
TITLE_KEY = "title"
INSTRUCTION_KEY = "instruction"
_SURROGATES = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class Reader:
    """Parses the lines of one file.

    Args:
        path: named in errors.
        layout: one JSON object per line, or fields separated by tabs.
        columns: names of the fields of a TSV line.
        field: the key or column that holds the text; the first of TEXT_KEYS that is present where None.
    """

    path: Path
    layout: Literal["jsonl", "tsv"]
    columns: tuple[str, ...] = ("id", "text")
    field: str | None = None

    def parse(self, line: int, content: str) -> tuple[str, str | None]:
        """The id and the text of a line; the text is None where its field is absent, "" where it is null or NaN.

        A title is put before the text, with a space between (as BEIR does).
        """
        where = f"{self.path}:{line}"
        fields = self._json(content, where) if self.layout == "jsonl" else self._tsv(content, where)
        return self._id(fields, where), self._text(fields)

    def instruction(self, content: str) -> str:
        """What a line says to judge by; empty where it says nothing."""
        if self.layout == "jsonl" and INSTRUCTION_KEY not in content:
            return ""
        fields = self._json(content, "") if self.layout == "jsonl" else self._tsv(content, "")
        return clean(fields.get(INSTRUCTION_KEY)).strip()

    def keys(self, content: str) -> str:
        """The names of the fields of a line, for the message about a missing one."""
        names = self._json(content, "") if self.layout == "jsonl" else self.columns
        return ", ".join(map(repr, names)) or "none"

    def _json(self, content: str, where: str) -> dict[str, object]:
        try:
            fields = json.loads(content)
        except json.JSONDecodeError as error:
            raise InputError(f"{where}: not JSON: {error.msg} at column {error.colno}") from None
        except RecursionError:
            raise InputError(f"{where}: JSON is nested too deeply") from None
        if not isinstance(fields, dict):
            raise InputError(f"{where}: expected a JSON object with an id and a text, found {content[:40]!r}")
        return fields

    def _tsv(self, content: str, where: str) -> dict[str, object]:
        values = content.split("\t")
        if len(values) != len(self.columns):
            expected = " TAB ".join(self.columns)
            raise InputError(
                f"{where}: expected {len(self.columns)} fields ({expected}), found {len(values)}: "
                "name other columns in a header line, or use JSONL"
            )
        return dict(zip(self.columns, values, strict=True))

    def _id(self, fields: dict[str, object], where: str) -> str:
        key = next((name for name in ID_KEYS if name in fields), None)
        if key is None:
            found = ", ".join(map(repr, fields)) or "none"
            raise InputError(f"{where}: no id: expected one of {', '.join(ID_KEYS)}; keys found: {found}")
        value = fields[key]
        if type(value) is int:  # {"id": 7} is common; "007" stays as it is
            value = str(value)
        if not isinstance(value, str):
            raise InputError(f"{where}: {key}: expected a string, found {value!r}")
        if not value or (not value.isalnum() and (odd_character(value) or _SURROGATES.search(value))):
            raise InputError(f"{where}: {key}: {value!r} cannot be written in a TREC run: an id is one word")
        return value

    def _text(self, fields: dict[str, object]) -> str | None:
        keys = TEXT_KEYS if self.field is None else (self.field,)
        key = next((name for name in keys if name in fields), None)
        title = clean(fields.get(TITLE_KEY)) if self.field is None else ""
        if key is None:
            return title or None
        return f"{title} {clean(fields[key])}".strip() if title else clean(fields[key])


def clean(value: object) -> str:
    """A value as text that every tokeniser takes: null and NaN are empty, lone surrogates become U+FFFD."""
    text = "" if value is None or value != value else value if isinstance(value, str) else str(value)
    return text if text.isascii() else _SURROGATES.sub("\ufffd", text)


def reader_of(path: Path, first: str, field: str | None = None) -> tuple[Reader, bool]:
    """The reader for a file whose first line is ``first``, and whether that line is a header.

    Files named ``.jsonl``, ``.json`` or ``.ndjson`` hold JSON, ``.tsv`` tabs; else the first character decides.
    """
    name = path.name.removesuffix(".gz")
    if name.endswith((".jsonl", ".json", ".ndjson")) or (
        not name.endswith(".tsv") and first.lstrip().startswith("{")
    ):
        return Reader(path, "jsonl", field=field), False
    columns = tuple(first.strip().lower().split("\t"))
    known = {*ID_KEYS, *TEXT_KEYS, TITLE_KEY, INSTRUCTION_KEY, "url", field}
    if len(columns) > 1 and columns[0] in ID_KEYS and known.issuperset(columns):
        return Reader(path, "tsv", columns, field), True
    return Reader(path, "tsv", field=field), False


def records(
    path: Path, encoding: str = "utf-8", encoding_errors: str = "strict", field: str | None = None
) -> Iterator[tuple[int, str, str | None, Reader, str]]:
    """(line number, id, text or None, reader, line) of every record; blank lines and a header are skipped."""
    reader: Reader | None = None
    for number, content in lines(path, encoding, encoding_errors):
        if not content.strip():
            continue
        if reader is None:
            reader, header = reader_of(path, content, field)
            if header:
                continue
        yield number, *reader.parse(number, content), reader, content


def read_queries(
    path: Path,
    encoding: str = "utf-8",
    encoding_errors: str = "strict",
    field: str | None = None,
    instructions: dict[str, str] | None = None,
) -> dict[str, str]:
    """Query texts by id, in file order, from TSV (``id TAB text``) or JSONL, plain or gzipped.

    ``instructions`` is filled with what topics say to judge by (``instruction``), by id; often nothing.
    Raises InputError for a malformed line, for an id with two texts and for a file without queries.
    """
    queries: dict[str, str] = {}
    for number, qid, text, reader, content in records(path, encoding, encoding_errors, field):
        if text is None:
            expected = field or ", ".join(TEXT_KEYS)
            raise InputError(
                f"{path}:{number}: no query text: expected {expected}; keys found: {reader.keys(content)}"
            )
        if queries.setdefault(qid, text) != text:
            raise InputError(f"{path}:{number}: query {qid!r} occurs twice, with different texts")
        told = "" if instructions is None or field == INSTRUCTION_KEY else reader.instruction(content)
        if instructions is not None and told and instructions.setdefault(qid, told) != told:
            raise InputError(f"{path}:{number}: query {qid!r} occurs twice, with different instructions")
    if not queries:
        raise InputError(f"{path}: 0 topics read from it: expected id TAB text, or JSONL, one query per line")
    if empty := [qid for qid, text in queries.items() if not text.strip()]:
        log.warning("%s: %d queries have no text: %s", path, len(empty), ", ".join(empty[:5]))
    return queries
