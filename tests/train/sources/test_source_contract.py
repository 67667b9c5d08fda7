"""What data sources promise, over two of ours and one with faults."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from sparring.train.contracts import ContractError, check_source
from sparring.train.data.mixture import Row, Sampling, sources
from tiny_commands import write_collection


def test_our_sources_keep_their_promises(tmp_path: Path) -> None:
    folder = write_collection(tmp_path)
    check_source(sources.parse(f"judged(dataset='{folder}', run='{folder / 'first.run'}', scale=2.0)"))
    lists = folder / "lists.jsonl"
    lists.write_text(json.dumps({"query": "what", "docs": ["a", "b"], "scores": [0.5, 0.1]}) + "\n")
    check_source(sources.parse(f"run(path='{folder / 'first.run'}', dataset='{folder}')"))


@pytest.mark.parametrize(
    ("fault", "message"),
    [("type", "float32"), ("changes", "same each time"), ("short", "a label for each candidate")],
)
def test_a_fault_is_named(fault: str, message: str) -> None:
    made = []

    @dataclass(frozen=True)
    class Faulty:
        """A source with a fault."""

        share: float = 1.0
        scale: float = 1.0
        sampling: Sampling = "random"

        def rows(self) -> Sequence[Row]:
            made.append(1)
            labels = np.array([1, 0], np.float64 if fault == "type" else np.float32)
            docids = ("a", "b", "c") if fault == "short" else ("a", "b")
            query = f"query {len(made)}" if fault == "changes" else "query"
            return [Row("q", query, docids, labels, ["one", "two", "three"])]

    kept = dict(sources._entries)
    try:
        sources.register("faulty")(Faulty)
        with pytest.raises(ContractError, match=message):
            check_source(Faulty())
    finally:
        sources._entries.clear()
        sources._entries.update(kept)
