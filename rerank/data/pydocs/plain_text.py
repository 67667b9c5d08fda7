"""Docstrings as plain text: reStructuredText markup, doctests, references and directives are taken out."""

from __future__ import annotations

import re
from collections.abc import Iterator

KEPT = {
    **dict.fromkeys(("parameters", "args", "arguments", "other parameters"), "Parameters"),
    **dict.fromkeys(("returns", "yields", "return"), "Returns"),
    **dict.fromkeys(("notes", "note"), "Notes"),
}
"""Section headings whose text is kept, by their lower-case names; what stands under any other is dropped."""

LIMITS = {"": 900, "Parameters": 700, "Returns": 200, "Notes": 600}
"""The order of the sections in a text and the characters each may take."""

_UNDERLINE = re.compile(r"^([-=~])\1{2,}$")
_DIRECTIVE = re.compile(r"^(\s*)\.\. +(?:\[\w+\]|_[^:]*:|\|\w+\|)?\s*([\w-]*)(::)?\s*(.*)$")
_SPEAKING = {"note", "warning", "deprecated", "attention", "important", "tip", "hint", "caution"}
_BULLET = re.compile(r"^(?:[-*+•]|\(?\d+[.)])\s+")
_SIGNATURE = re.compile(r"^[\w.]+\(.*\)( *->.*)?$")
_BOILERPLATE = re.compile(r"^(Read more in the|Array argument\(s\) of this function may have additional)")
_INLINE = (
    (re.compile(r"%\(\w+\)s"), ""),
    (re.compile(r"(?<!\w)\[[\w, ]{1,12}\]_"), ""),
    (re.compile(r":[\w:+-]+:`([^`<]+?)\s*<[^`>]*>`"), r"\1"),
    (re.compile(r":[\w:+-]+:`~?([^`]+)`"), r"\1"),
    (re.compile(r":[\w+-]+:`"), ""),
    (re.compile(r"`([^`<]+?)\s*<[^`>]*>`_{0,2}"), r"\1"),
    (re.compile(r"``([^`]+)``"), r"\1"),
    (re.compile(r"`([^`]+)`_{0,2}"), r"\1"),
    (re.compile(r"\*\*([^*\s][^*]*)\*\*"), r"\1"),
    (re.compile(r"(?<![\w*])\*(\w[\w -]*\w)\*(?![\w*])"), r"\1"),
    (re.compile(r"::(?=\s|$)"), ":"),
    (re.compile(r"\\(?=\W)"), ""),
)


def summary(docstring: str) -> str:
    """The first paragraph, as plain text; a signature that opens the docstring is skipped."""
    return next(iter(_sections(docstring).get("", "").split("\n")), "").strip()


def plain(docstring: str, limit: int) -> str:
    """The description, parameters, return values and notes, one line per paragraph or entry, at most ``limit``
    characters, cut at a word."""
    sections = _sections(docstring)
    parts = []
    for heading, most in LIMITS.items():
        if text := sections.get(heading):
            text = shorten(text, most)
            parts.append(f"{heading}: {text}" if heading else text)
    return shorten("\n".join(parts), limit)


def shorten(text: str, limit: int) -> str:
    """``text``, cut after the last whole word that fits ``limit`` characters."""
    if len(text) <= limit:
        return text
    return re.sub(r"\s+\S*$", "", text[: limit - 3]) + " ..."


def dedent(docstring: str) -> list[str]:
    """Lines without their common indentation; done here because ``inspect.cleandoc`` changed between Pythons."""
    first, *rest = docstring.expandtabs().replace("\r", "").split("\n")
    margin = min((len(line) - len(line.lstrip(" ")) for line in rest if line.strip(" ")), default=0)
    return [first.strip(" "), *(line[margin:].rstrip(" ") for line in rest)]


def _sections(docstring: str) -> dict[str, str]:
    """Kept heading → its text; the description stands under ""."""
    found: dict[str, list[str]] = {"": []}
    heading: str | None = ""
    lines = list(_without_directives(_without_signature(dedent(docstring))))
    for number, line in enumerate(lines):
        following = lines[number + 1] if number + 1 < len(lines) else ""
        if _UNDERLINE.match(line.strip()):
            continue
        if line and _UNDERLINE.match(following.strip()):
            heading = KEPT.get(line.strip().lower())
        elif heading is not None:
            found.setdefault(heading, []).append(line)
    return {heading: text for heading, lines in found.items() if (text := _join(lines))}


def _without_signature(lines: list[str]) -> list[str]:
    """Docstrings of compiled functions open with one or two signatures, which may run over several lines."""
    start = next((i for i, line in enumerate(lines) if line), len(lines))
    end = next((i for i in range(start, len(lines)) if not lines[i] or lines[i] == "--"), len(lines))
    if _SIGNATURE.match(" ".join(lines[start:end])):
        return _without_signature(lines[end + 1 :])
    return lines[start:]


def _without_directives(lines: list[str]) -> Iterator[str]:
    """Drops doctests and directives with their blocks; of notes and warnings the text stays."""
    block: int | None = None
    example = False
    for line in lines:
        indent = len(line) - len(line.lstrip(" "))
        if block is not None and line and indent <= block:
            block = None
        if not line:
            example = False
        if line.lstrip().startswith((">>>", "In [")):
            example = True
        directive = _DIRECTIVE.match(line)
        if directive and directive[2].lower() in _SPEAKING:
            yield directive[1] + directive[4]
        elif directive:
            block = indent if block is None else block
        elif block is None and not example:
            yield line


def _join(lines: list[str]) -> str:
    """One line per paragraph, bullet or unindented entry with the indented lines below it."""
    paragraphs: list[str] = []
    fresh, indented = True, False
    for line in lines:
        text = line.strip()
        entry = indented and not line.startswith(" ")
        if not text:
            fresh = True
        elif fresh and not (paragraphs and line.startswith("   ") and not _BULLET.match(text)):
            paragraphs.append(text)
            fresh = False
        elif not paragraphs or _BULLET.match(text) or entry:
            paragraphs.append(text)
        else:
            paragraphs[-1] += f" {text}"
            fresh = False
        if text:
            indented = line.startswith(" ")
    cleaned = (_inline(paragraph) for paragraph in paragraphs)
    return "\n".join(line for line in cleaned if line and not _BOILERPLATE.match(line))


def _inline(text: str) -> str:
    for pattern, replacement in _INLINE:
        text = pattern.sub(replacement, text)
    return " ".join(text.split())
