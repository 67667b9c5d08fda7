"""What trainings of a few steps are made of: a collection that can be learnt, and checkpoints to start from."""

from __future__ import annotations

import csv
import json
import random
from pathlib import Path

from tiny_generators import save_t5
from tiny_models import save_classifier, sentence


def write_collection(folder: Path) -> Path:
    """Eight queries of two words; documents that repeat more of them have higher grades."""
    rng = random.Random(0)
    queries, documents, qrels, run = [], [], [], []
    for number in range(8):
        words = sentence(rng, 2)
        queries.append(f"q{number}\t{words}")
        for place in range(12):
            docid, grade = f"d{number}-{place}", place % 4
            text = " ".join([words] * grade + [sentence(rng, rng.randint(3, 12))])
            documents.append(json.dumps({"id": docid, "text": text}))
            if place < 10:
                qrels.append(f"q{number} 0 {docid} {grade}")
            run.append(f"q{number} Q0 {docid} {place + 1} {50 - place} first")
    for name, rows in (("queries.tsv", queries), ("corpus.jsonl", documents), ("qrels.txt", qrels)):
        (folder / name).write_text("\n".join(rows) + "\n")
    (folder / "first.run").write_text("\n".join(run) + "\n")
    return folder


def save_start(folder: Path, architecture: str) -> Path:
    """A tiny checkpoint to train from: a T5, or a sequence classifier of one architecture."""
    return save_t5(folder) if architecture == "t5" else save_classifier(folder, architecture)


def arguments(collection: Path, start: Path, output: Path, *more: str) -> list[str]:
    """A training of six steps, measured and saved every second one; ``more`` replaces flags."""
    run = str(collection / "first.run")
    flags = [
        f"--model-name-or-path={start}",
        f"--output-dir={output}",
        "--list-size=6",
        "--per-device-train-batch-size=2",
        "--max-steps=6",
        "--eval-steps=2",
        "--save-steps=2",
        "--logging-steps=1",
        "--max-length=64",
        f"--dev-run={run}",
        f"--dev-dataset={collection}",
        "--dev-holdout=4",
        "--device=cpu",
        "--dtype=float32",
    ]
    replaced = {flag.partition("=")[0] for flag in more}
    kept = [flag for flag in flags if flag.partition("=")[0] not in replaced]
    return ["train", *kept, *more, "--data", f"judged(dataset='{collection}', run='{run}', holdout=4)"]


def log_of(output: Path) -> list[dict[str, str]]:
    """The rows of a training log."""
    with (output / "training_log.csv").open(newline="") as stream:
        return list(csv.DictReader(stream))
