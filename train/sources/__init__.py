"""The kinds of training data: runs, judgments, lists, triples, preferences, and the embedded collection.

Each is a module with a frozen dataclass; it reads named columns and names the first bad row with its file and
line. ``holdout=n`` leaves every n-th topic (in sorted order) out of training, so that ``--dev-holdout n`` can
measure on exactly those.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ...rerank.data.datasets import Dataset
from ...rerank.errors import InputError, UsageError
from ..data.mixture import sources


def parse(specs: Sequence[str]) -> list[Any]:
    """The sources that the specs name; says everything that is wrong at once."""
    found, problems = [], []
    for spec in specs:
        try:
            found.append(sources.parse(spec))
        except UsageError as error:
            problems.append(str(error))
    if problems:
        raise UsageError("; ".join(problems))
    return found


def held_out(qids: Sequence[str], every: int) -> set[str]:
    """Every n-th topic in sorted order: what ``holdout=n`` and ``--dev-holdout n`` agree on; none for 0."""
    return set(sorted(qids)[::every]) if every > 0 else set()


def check_topics(path: str, qids: Sequence[str], data: Dataset) -> None:
    """InputError where topics have no query in the dataset; names five of them."""
    strange = [qid for qid in qids if qid not in data.queries]
    if strange:
        raise InputError(f"{path}: {len(strange)} topics are not in {data.name}: {', '.join(strange[:5])}")
