"""What a throughput benchmark scores: pairs of text, and a cross-encoder with seeded weights."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ...rerank.data.candidates import candidates
from ...rerank.data.datasets import open_dataset
from ...rerank.data.runs import Run, read_run
from ...rerank.errors import UsageError
from ...rerank.vocabulary import Candidates
from ..measures.catalogue import measure_run, parse_measures
from ..measures.qrels import Qrels, read_qrels

SIZES = ("minilm", "bert-base", "tiny")


@dataclass(frozen=True)
class Pairs:
    """Topics with all texts in memory, and the judgements of these topics if there are any."""

    source: str
    topics: tuple[Candidates, ...]
    qrels: Qrels | None

    def __len__(self) -> int:
        return sum(len(topic) for topic in self.topics)

    def flat(self) -> list[tuple[str, str]]:
        """(query, passage) of every pair, topic after topic."""
        return [(topic.query, text) for topic in self.topics for text in topic.texts]

    def split(self, scores: NDArray[np.float64]) -> list[NDArray[np.float64]]:
        """Scores of every pair, topic by topic."""
        return np.split(scores, np.cumsum([len(topic) for topic in self.topics])[:-1])

    def ndcg(self, scores: NDArray[np.float64]) -> float | None:
        """nDCG@10 of the topics, ranked by ``scores``; None without judgements."""
        if self.qrels is None:
            return None
        ranked = zip(self.topics, self.split(scores), strict=True)
        run = Run.from_topics([(topic.qid, topic.docids, values) for topic, values in ranked])
        (values,) = measure_run(parse_measures(["nDCG@10"]), self.qrels, run)
        return float(values.mean())


def load_pairs(dataset: str, run: Path | None, limit: int, depth: int = 100) -> Pairs:
    """The first ``depth`` candidates of as many whole topics as ``limit`` pairs hold (0: all), at least one.

    Without a run (pydocs) candidates are the judged documents of a topic and, up to ``depth``, others by chance.
    """
    data = open_dataset(dataset)
    qrels = read_qrels(data.qrels_path) if data.qrels_path else None
    if run is None:
        if qrels is None:
            raise UsageError(f"{dataset} has no judgements: name the candidates by --run")
        run_ = _judged_and_others(qrels, list(data.documents), depth)
    else:
        run_ = read_run(run)
    chosen: list[Candidates] = []
    for topic in candidates(run_, data, depth, missing_limit=1.0):
        if chosen and limit and sum(map(len, chosen)) + len(topic) > limit:
            break
        chosen.append(dataclasses.replace(topic, texts=[topic.texts[i] for i in range(len(topic))]))
    if qrels is not None:
        qrels = Qrels({topic.qid: qrels[topic.qid] for topic in chosen if topic.qid in qrels})
    return Pairs(f"{dataset}, {run.name if run else 'judged and random documents'}", tuple(chosen), qrels)


def _judged_and_others(qrels: Qrels, ids: Sequence[str], depth: int) -> Run:
    topics = []
    for number, (qid, grades) in enumerate(qrels.items()):
        others = np.random.default_rng([0, number]).choice(len(ids), min(len(ids), depth), replace=False)
        names = list(dict.fromkeys([*grades, *(ids[i] for i in others.tolist())]))[:depth]
        topics.append((qid, names, -np.arange(len(names), dtype=np.float64)))
    return Run.from_topics(topics)


def lengthened(pairs: Pairs, words: int) -> Pairs:
    """The same pairs with passages of at least ``words`` words, made by joining neighbouring candidates' texts."""

    def long(texts: Sequence[str], start: int) -> str:
        parts, count = [], 0
        for step in range(len(texts) * words):
            parts.append(texts[(start + step) % len(texts)] or "empty")
            count += len(parts[-1].split())
            if count >= words:
                break
        return " ".join(parts)

    topics = tuple(
        dataclasses.replace(topic, texts=[long(topic.texts, i) for i in range(len(topic))])
        for topic in pairs.topics
    )
    return dataclasses.replace(pairs, topics=topics)


def build_cross_encoder(folder: Path, size: str, seed: int = 0) -> Path:
    """Writes a cross-encoder of one label: the embedded MiniLM's body, or a BERT with random weights, and a head.

    The head's weights are drawn with a standard deviation of 0.2, so that scores spread as a trained model's do.

    Args:
        size: minilm (6 layers of 384), bert-base (12 of 768), or tiny (2 of 64, for tests).
    """
    import torch
    from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification

    from ...rerank.models.checkpoints import EMBEDDED, find

    embedded = find(EMBEDDED).folder
    torch.manual_seed(seed)
    if size == "minilm":
        model = BertForSequenceClassification.from_pretrained(embedded, num_labels=1)
    elif size in SIZES:
        config = BertConfig(initializer_range=0.3 if size == "tiny" else 0.05)  # else all texts score alike
        if size == "tiny":
            config.hidden_size, config.num_hidden_layers = 64, 2
            config.num_attention_heads, config.intermediate_size = 4, 256
        config.num_labels = 1
        model = BertForSequenceClassification(config)
    else:
        raise UsageError(f"size {size!r} is none of {', '.join(SIZES)}")
    with torch.no_grad():
        model.classifier.weight.normal_(0, 0.2)
        model.classifier.bias.zero_()
    model.save_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(embedded)
    tokenizer.model_max_length = 512
    tokenizer.save_pretrained(folder)
    return folder
