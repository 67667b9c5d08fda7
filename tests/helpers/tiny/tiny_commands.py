"""A tiny collection for commands, and reranking it."""

from __future__ import annotations

import random
from pathlib import Path

from sparring.rerank.cli import main
from tiny_models import sentence


def write_collection(folder: Path) -> Path:
    """30 documents, 4 topics, a first-stage run of depth 12, qrels of three topics."""
    rng = random.Random(3)
    documents = [f"d{i:02}" for i in range(30)]
    lines = [f'{{"id": "{name}", "text": "{sentence(rng, rng.randint(4, 30))}"}}\n' for name in documents]
    (folder / "corpus.jsonl").write_text("".join(lines))
    (folder / "queries.tsv").write_text("".join(f"q{i}\t{sentence(rng, 5)}\n" for i in range(4)))
    run, qrels = [], []
    for i in range(4):
        for rank, name in enumerate(rng.sample(documents, 12), 1):
            run.append(f"q{i} Q0 {name} {rank} {20 - rank} first\n")
            if i < 3:
                qrels.append(f"q{i} 0 {name} {rng.randint(0, 3)}\n")
    (folder / "first.run").write_text("".join(run))
    (folder / "qrels.txt").write_text("".join(qrels))
    return folder


def rerank(collection: Path, model: Path, output: Path, *flags: str, command: str = "rerank") -> int:
    base = [command, "--run", str(collection / "first.run"), "--dataset", str(collection), "--model", str(model)]
    return main([*base, "--output", str(output), "--dtype", "float32", *flags])
