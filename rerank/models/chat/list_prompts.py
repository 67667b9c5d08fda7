"""Prompts that put a list of passages to a language model, and what is read from its answers.

Answers name passages by number or letter. Whatever an answer lacks, repeats or makes up, a score belongs to the
passage that was named and to no other.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
HIGHEST = 10.0
Messages = list[dict[str, str]]
SYSTEM = "You judge how well passages answer a search query."
TASKS = {
    "permutation": (
        "Rank all {n} passages by how well they answer the query. Answer with their numbers only, the best first, "
        "each exactly once, in the form [2] > [3] > [1]."
    ),
    "setwise": "Which passage answers the query best? Answer with its letter only.",
    "grades": (
        "Grade every passage with a whole number from 0 (does not help) to 10 (answers the query fully). Compare "
        "the passages with each other. Answer with one JSON object with a grade for each of the {n} passages, in "
        'the form {{"[1]": 3, "[2]": 8}}.'
    ),
}


@dataclass(frozen=True, slots=True)
class Reading:
    """Scores of the members (n,), NaN where the answer says nothing; ``sound`` if nothing had to be mended."""

    scores: NDArray[np.float64]
    sound: bool


def messages(kind: str, query: str, passages: Sequence[str], words: int) -> Messages:
    """The chat that puts a list to a model; passages are cut to ``words`` and cannot pose as others."""
    marks = LETTERS if kind == "setwise" else range(1, len(passages) + 1)
    listed = "\n".join(f"[{mark}] {clean(text, words)}" for mark, text in zip(marks, passages, strict=False))
    task = TASKS[kind].format(n=len(passages))
    asked = clean(query, words)
    user = f"Query: {asked}\n\n{len(passages)} passages:\n\n{listed}\n\nQuery: {asked}\n\n{task}"
    return [{"role": "system", "content": SYSTEM}, {"role": "user", "content": user}]


def clean(text: str, words: int) -> str:
    """One line of at most ``words`` words, in which square brackets hold no number or single letter."""
    line = " ".join(text.split(None, words)[:words])
    return re.sub(r"\[(\d+|[A-Z])\]", r"(\1)", line)


def read(kind: str, answer: str, n: int) -> Reading | None:
    """What an answer says of ``n`` passages; None where it says nothing at all."""
    answer = re.sub(r"<(think|reason)>.*?(</\1>|$)", "", answer, flags=re.DOTALL)
    return {"permutation": _permutation, "setwise": _best, "grades": _grades}[kind](answer, n)


_ONE = r"(?:\[\d+\]|(?<![\w.\[])\d+(?![\w\]]|\.\d))"
_NAME = r"(?:passage|document|doc)?\s*\**"
_BETWEEN = rf"\**\s*(?:(?:=?>|->|≻|→|,|;)\s*{_NAME}|\n\s*{_NAME}|(?<=\])\s*(?=\[))"
_NUMBERED = re.compile(rf"^[ \t]*(\d+)[.):][ \t]+{_NAME}\[?(\d+)\]?", re.MULTILINE | re.IGNORECASE)
_RUN = re.compile(rf"{_ONE}(?:{_BETWEEN}{_ONE})*", re.IGNORECASE)


def _ranking(answer: str) -> list[str]:
    """The numbers of an answer's ranking: its longest run of separated numbers, the last if several are as long.

    ``1. [3]`` on lines numbered from 1 is a run too: the numbers of the lines name nothing. A number that stands
    in a sentence is no ranking.
    """
    lines = _NUMBERED.findall(answer)
    if len(lines) > 1 and [int(line) for line, _ in lines] == list(range(1, len(lines) + 1)):
        return [number for _, number in lines]
    runs = [re.findall(r"\d+", match[0]) for match in _RUN.finditer(answer)]
    longest = max((len(run) for run in runs), default=0)
    if longest == 1 and re.search(r"[^\W\d_]", re.sub(r"(?i)passage|document|doc|answer", "", answer)):
        return []
    return [run for run in runs if len(run) == longest][-1] if runs else []


def _permutation(answer: str, n: int) -> Reading | None:
    """Places from the top, n for the first; who is not named comes last, in the order of the input."""
    numbers = [int(number) - 1 for number in _ranking(answer) if len(number) < 7]
    named = list(dict.fromkeys(i for i in numbers if 0 <= i < n))
    if not named:
        return None
    order = named + [i for i in range(n) if i not in set(named)]
    scores = np.empty(n)
    scores[order] = np.arange(n, 0, -1)
    return Reading(scores, len(numbers) == len(named) == n)


def _best(answer: str, n: int) -> Reading | None:
    """1 for the passage named, 0 for the others; None where none or several are named."""
    letters = set(re.findall(rf"(?<![A-Za-z])([{LETTERS[:n]}])(?![A-Za-z])", answer))
    if len(letters) != 1:
        return None
    scores = np.zeros(n)
    scores[LETTERS.index(letters.pop())] = 1.0
    return Reading(scores, answer.strip().strip("[]().") in LETTERS)


def _grades(answer: str, n: int) -> Reading | None:
    """The grade of every passage; NaN where it is missing, outside 0 to 10, or given twice and not alike."""
    pairs = _last_object(answer)
    scores = np.full(n, np.nan)
    torn: set[int] = set()
    strange = 0
    for key, value in pairs:
        number = re.fullmatch(r"\s*\[?(\d{1,6})\]?\s*", key)
        grade = _grade(value)
        if number is None or not 1 <= int(number[1]) <= n or grade is None:
            strange += 1
            continue
        place = int(number[1]) - 1
        if not np.isnan(scores[place]) and scores[place] != grade:
            torn.add(place)
        scores[place] = grade
    scores[sorted(torn)] = np.nan
    if np.isnan(scores).all():
        return None
    return Reading(scores, not strange and len(pairs) == n and not np.isnan(scores).any())


def _last_object(answer: str) -> list[tuple[str, object]]:
    """Keys and values of the last JSON object in the answer, repeated keys too; else what looks like them.

    A number at the very end may have been cut off and does not count.
    """
    decoder = json.JSONDecoder(object_pairs_hook=lambda pairs: pairs)
    for start in reversed([match.start() for match in re.finditer(r"\{", answer)]):
        try:
            pairs, _ = decoder.raw_decode(answer, start)
        except (ValueError, RecursionError):
            continue
        if pairs:
            return [(str(key), value) for key, value in pairs]
    return re.findall(r"\[(\d+)\]\W{0,4}?[:=]\s*\"?(-?\d+(?:\.\d+)?)(?![\d.]|$)", answer)


def _grade(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        grade = float(value)
    except ValueError:
        return None
    return grade if 0 <= grade <= HIGHEST else None
