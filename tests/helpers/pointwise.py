"""Scores of Hugging Face's own classifiers, and the candidates of TREC DL 2019."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import torch
from sparring.rerank.vocabulary import Candidates


def hugging_face(folder: Path, topics: list[Candidates], length: int) -> np.ndarray:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    model = AutoModelForSequenceClassification.from_pretrained(folder, attn_implementation="eager").eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    rows = []
    for topic in topics:
        encoded = tokenizer(
            [topic.query] * len(topic), list(topic.texts), padding=True, truncation="only_second",
            max_length=length, return_tensors="pt",
        )  # fmt: skip
        with torch.inference_mode():
            logits = model(**encoded).logits
        rows.append(logits[:, 0] if logits.shape[1] == 1 else logits[:, 1] - logits[:, 0])
    return torch.cat(rows).numpy()


def dl19(shared: Path, every: int = 1) -> tuple[list[Candidates], dict[str, dict[str, int]]]:
    """BM25's top 100 of every ``every``-th DL19 topic, and the judgments."""
    folder = shared / "trec-dl-2019-pool"
    with gzip.open(folder / "corpus.jsonl.gz", "rt", encoding="utf-8") as stream:
        texts = {row["id"]: row["text"] for row in map(json.loads, stream)}
    queries = dict(line.split("\t", 1) for line in (folder / "queries.tsv").read_text("utf-8").splitlines())
    run: dict[str, list[tuple[float, str]]] = {}
    for line in (folder / "runs" / "bm25.txt").read_text().splitlines():
        qid, _, docid, _, score, _ = line.split()
        run.setdefault(qid, []).append((float(score), docid))
    topics = []
    for qid, rows in list(run.items())[::every]:
        ids = tuple(docid for _, docid in sorted(rows, key=lambda row: -row[0])[:100])
        topics.append(
            Candidates(qid, queries[qid], ids, [texts[i] for i in ids], -np.arange(len(ids), dtype=float))
        )
    judged: dict[str, dict[str, int]] = {}
    for line in (folder / "qrels.txt").read_text().splitlines():
        qid, _, docid, grade = line.split()
        judged.setdefault(qid, {})[docid] = int(grade)
    return topics, judged
