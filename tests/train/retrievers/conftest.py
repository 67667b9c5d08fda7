"""A collection from which a retriever can learn."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from tiny_models import sentence


@pytest.fixture(scope="module")
def collection(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six queries of two words; documents that repeat more of them have higher grades."""
    folder = tmp_path_factory.mktemp("collection")
    rng = random.Random(0)
    queries, documents, qrels, run = [], [], [], []
    for number in range(6):
        words = sentence(rng, 2)
        queries.append(f"q{number}\t{words}")
        for place in range(8):
            docid, grade = f"d{number}-{place}", place % 4
            text = " ".join([words] * grade + [sentence(rng, rng.randint(3, 12))])
            documents.append(json.dumps({"id": docid, "text": text}))
            qrels.append(f"q{number} 0 {docid} {grade}")
            run.append(f"q{number} Q0 {docid} {place + 1} {50 - place} first")
    for name, rows in (("queries.tsv", queries), ("corpus.jsonl", documents), ("qrels.txt", qrels)):
        (folder / name).write_text("\n".join(rows) + "\n")
    (folder / "first.run").write_text("\n".join(run) + "\n")
    return folder
