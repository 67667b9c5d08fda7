"""The development set: a run reranked by the model under training, measured against qrels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import expit

from ...eval.measures.catalogue import measure_run, parse_measures
from ...eval.measures.qrels import Qrels, read_qrels
from ...rerank.data.candidates import candidates
from ...rerank.data.datasets import open_dataset
from ...rerank.data.runs import Run, read_run
from ...rerank.errors import InputError, MissingResourceError
from ...rerank.pipeline import rerank
from ...rerank.vocabulary import Aggregator, Candidates, Groups, Outcomes, Schedule, Sink
from ..data.collator import Collator
from ..rankers.ranker import Ranker
from ..sources import held_out


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


class TrainedScorer:
    """A ranker under training as a `sparring.rerank.vocabulary.Judge`; its weights stay as they are."""

    fingerprint = "in training"

    def __init__(self, ranker: Ranker, collator: Collator) -> None:
        self.ranker = ranker
        self.collator = collator
        self.width = collator.layout.width

    def __call__(
        self, topics: Sequence[Candidates], groups: Sequence[Groups], sink: Sink | None = None
    ) -> list[Outcomes]:
        """Outcomes of the groups of each topic."""
        inputs = self.collator.inputs(topics, groups)
        scores = self.ranker(inputs["batches"], inputs["order"], inputs["table"]).double().cpu().numpy()
        parts = np.split(scores, np.cumsum([len(rows) for rows in groups])[:-1])
        if self.width == 2:
            return [expit(part[:, 0] - part[:, 1]) for part in parts]
        return [
            np.where(rows >= 0, part[:, : rows.shape[1]], np.nan) for rows, part in zip(groups, parts, strict=True)
        ]


class Judge:
    """Ranks the development set with a ranker as `sparring rerank` would: schedule, ranker, aggregator."""

    def __init__(
        self,
        development: Development,
        collator: Collator,
        schedule: Schedule,
        aggregator: Aggregator | None = None,
        seed: int = 0,
    ) -> None:
        self.development = development
        self.collator = collator
        self.schedule = schedule
        self.aggregator = aggregator
        self.seed = seed

    @torch.inference_mode()
    def __call__(self, ranker: Ranker, dtype: torch.dtype) -> float:
        """The measure now; the body runs in ``dtype``."""
        training = ranker.training
        ranker.eval()
        scorer = TrainedScorer(ranker, self.collator)
        with torch.autocast(ranker.device.type, dtype=dtype, enabled=dtype != torch.float32):
            ranked = list(rerank(self.development.topics, scorer, self.schedule, self.aggregator, seed=self.seed))
        ranker.train(training)
        return self.development.value(np.concatenate([topic.scores for topic in ranked]))
