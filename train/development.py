"""The development set: a run reranked by the model under training, measured against qrels."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from ..eval.measures import measure_run, parse_measures
from ..eval.qrels import Qrels, read_qrels
from ..rerank.batching import Batch
from ..rerank.datasets import candidates, open_dataset
from ..rerank.errors import InputError, MissingResourceError
from ..rerank.runs import Run, read_run
from ..rerank.vocabulary import Candidates
from .collator import Collator
from .ranker import PointwiseRanker
from .sources import held_out


@dataclass(frozen=True)
class Development:
    """Judged topics with their candidates; `value` reranks them and averages the measure over all of them."""

    topics: tuple[Candidates, ...]
    qrels: Qrels
    measure: str

    @staticmethod
    def read(
        run: Path, dataset: str, qrels: Path | None, depth: int, measure: str, holdout: int = 0
    ) -> Development:
        """Reads the set; ``holdout=n`` keeps every n-th judged topic: those that a source with it leaves out."""
        data = open_dataset(dataset)
        path = qrels or data.qrels_path
        if path is None:
            raise MissingResourceError(f"{dataset} has no qrels: add --dev-qrels FILE")
        grades = read_qrels(path).grades
        kept = held_out(list(grades), holdout) if holdout else set(grades)
        parse_measures([measure])
        first = read_run(run)
        found = candidates(first, data, depth, allow_missing_queries=True)
        topics = tuple(topic for topic in found if topic.qid in kept)
        if not topics:
            raise InputError(f"{run}: no topic is judged in {path}: nothing to measure")
        return Development(topics, Qrels({qid: grades[qid] for qid in grades if qid in kept}), measure)

    def value(self, scores: NDArray[np.float64] | None = None) -> float:
        """The measure of the candidates in the order of ``scores`` (all topics one after the other)."""
        ranking, start = [], 0
        for topic in self.topics:
            own = topic.scores if scores is None else scores[start : start + len(topic)]
            ranking.append((topic.qid, topic.docids, own))
            start += len(topic)
        values = measure_run(parse_measures([self.measure]), self.qrels, Run.from_topics(ranking))
        return float(values[0].mean())

    def rows(self) -> list[tuple[str, str]]:
        """(query, text) of all candidates, topic after topic."""
        return [(topic.query, text) for topic in self.topics for text in topic.texts]


class Judge:
    """Scores the development set with a ranker; its batches are made once."""

    def __init__(self, development: Development, collator: Collator) -> None:
        self.development = development
        self.batches: list[Batch]
        self.batches, self.order = collator.batches(development.rows())

    @torch.inference_mode()
    def __call__(self, ranker: PointwiseRanker, dtype: torch.dtype) -> float:
        """The measure now; the body runs in ``dtype``."""
        training = ranker.training
        ranker.eval()
        device = next(ranker.parameters()).device
        with torch.autocast(device.type, dtype=dtype, enabled=dtype != torch.float32):
            parts = [ranker([batch]) for batch in self.batches]
        ranker.train(training)
        scores = torch.empty(len(self.order))
        scores[torch.from_numpy(self.order)] = torch.cat(parts).float().cpu()
        return self.development.value(scores.double().numpy())
