"""A collection whose reranking takes many small batches, for tests that kill it."""

from __future__ import annotations

import json
import random
from pathlib import Path

from tiny_models import save_classifier, sentence


def collection(folder: Path, topics: int) -> list[object]:
    """A collection, a run and a tiny model in ``folder``; the flags that rerank it in many small batches."""
    rng = random.Random(0)
    texts = [sentence(rng, rng.randint(3, 60)) for _ in range(300)]
    texts[7] = texts[8]  # exact copies are common in real collections
    documents = [json.dumps({"id": f"d{i}", "text": text}) for i, text in enumerate(texts)]
    (folder / "corpus.jsonl").write_text("\n".join(documents) + "\n")
    (folder / "queries.tsv").write_text("".join(f"{q}\t{sentence(rng, 5)}\n" for q in range(topics)))
    lines = [
        f"{q} Q0 d{d} {rank + 1} {100 - rank} x\n"
        for q in range(topics)
        for rank, d in enumerate(dict.fromkeys([7, 8, *rng.sample(range(300), 98)]))
    ]
    (folder / "first.run").write_text("".join(lines))
    model = save_classifier(folder / "model", "bert")
    flags = {"run": folder / "first.run", "dataset": folder, "model": model, "token-budget": 64, "tag": "t"}
    return ["rerank", "--quiet", *(part for name, value in flags.items() for part in (f"--{name}", value))]
