"""Which pairs of a query and a document a teacher labels: sampling strategies of Augmented SBERT.

N. Thakur, N. Reimers, J. Daxenberger, I. Gurevych: Augmented SBERT. NAACL 2021, arXiv 2010.08240. There random
pairs are nearly all negative and teach little, BM25 is the practical choice (``top(k=5)`` of a BM25 run) and a
density estimate is slightly better but labels most.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ...rerank.data.datasets import Dataset
from ...rerank.data.runs import Run
from ...rerank.data.text import lines
from ...rerank.errors import InputError
from ...rerank.registry import Registry
from ...rerank.rounds import topic_rng

samplers = Registry("sampling strategy", "sparring.train.data.samplers")

Labels = Sequence[NDArray[np.float64]]
Kept = list[NDArray[np.bool_]]

GRID = 512
"""Densities are evaluated on so many points and interpolated."""
KERNELS = 20_000
"""At most so many scores make a density; more are thinned out evenly."""


class Sampler(Protocol):
    """Proposes candidates for the topics of a run, and decides which of the labelled ones stay."""

    def sample(self, run: Run, dataset: Dataset, seed: int, device: str) -> Run:
        """The candidates to label, for the topics of ``run``."""
        ...

    def accept(self, labels: Labels, seed: int) -> Kept:
        """Which labels stay, for each topic; called once, with all of them."""
        ...


def _positive(k: int) -> None:
    if k < 1:
        raise ValueError("k must be at least 1")


def _all(labels: Labels) -> Kept:
    return [np.ones(len(values), np.bool_) for values in labels]


@samplers.register("top")
@dataclass(frozen=True)
class Top:
    """The first k of the run: BM25 sampling with a run of BM25, semantic sampling with one of a bi-encoder."""

    k: int = 100

    def __post_init__(self) -> None:
        _positive(self.k)

    def sample(self, run: Run, dataset: Dataset, seed: int, device: str) -> Run:
        return run.top(self.k)

    def accept(self, labels: Labels, seed: int) -> Kept:
        return _all(labels)


@samplers.register("random")
@dataclass(frozen=True)
class Random:
    """k documents of the whole collection for each topic of the run, without replacement."""

    k: int = 100

    def __post_init__(self) -> None:
        _positive(self.k)

    def sample(self, run: Run, dataset: Dataset, seed: int, device: str) -> Run:
        size = len(dataset.documents)
        k = min(self.k, size)
        drawn = {qid: topic_rng(seed, qid).choice(size, k, replace=False) for qid in run}
        wanted = {int(place) for places in drawn.values() for place in places}
        names = {place: docid for place, docid in enumerate(dataset.documents) if place in wanted}
        scores = np.arange(k, 0, -1.0)
        return Run.from_topics([(qid, [names[int(p)] for p in places], scores) for qid, places in drawn.items()])

    def accept(self, labels: Labels, seed: int) -> Kept:
        return _all(labels)


@samplers.register("semantic")
@dataclass(frozen=True)
class Semantic:
    """The k nearest documents of each topic of the run, in an index (a folder made by ``sparring index``)."""

    index: str
    k: int = 100

    def __post_init__(self) -> None:
        _positive(self.k)

    def sample(self, run: Run, dataset: Dataset, seed: int, device: str) -> Run:
        from ...rerank.search.bi_encoder import BiEncoder
        from ...rerank.search.index import Index, as_topics, read_manifest

        folder = Path(self.index)
        encoder = BiEncoder(str(read_manifest(folder)["encoder"]["model"]), device)
        index = Index.open(folder, encoder=encoder.identity, collection_hash=dataset.collection_hash)
        known = [qid for qid in run if qid in dataset.queries]
        found = index.search(encoder.queries([dataset.queries[qid] for qid in known]), min(self.k, len(index)))
        return Run.from_topics(as_topics(known, index.ids, *found))

    def accept(self, labels: Labels, seed: int) -> Kept:
        return _all(labels)


@samplers.register("kde")
@dataclass(frozen=True)
class Kde:
    """Thins labels out until they are spread like gold ones: kept with probability min(1, gold(s) / silver(s)).

    Args:
        gold: JSONL lists with the same teacher's scores of judged pairs; their density is the target.
        of: what proposes the candidates; label many more than are to be kept.
        bandwidth: of the Gaussian kernels, times the standard deviation; 0 takes Scott's rule.
    """

    gold: str
    of: Any = Top()
    bandwidth: float = 0.0

    def __post_init__(self) -> None:
        if self.bandwidth < 0:
            raise ValueError("bandwidth must not be negative")

    def sample(self, run: Run, dataset: Dataset, seed: int, device: str) -> Run:
        proposed: Run = self.of.sample(run, dataset, seed, device)
        return proposed

    def accept(self, labels: Labels, seed: int) -> Kept:
        gold = _scores(Path(self.gold))
        silver = np.concatenate([*labels, np.empty(0)])
        for name, values in ((self.gold, gold), ("the teacher's labels", silver)):
            if len(np.unique(values)) < 3:
                raise InputError(f"{name}: a density needs at least three different scores")
        keep = acceptance(gold, silver, self.bandwidth) > np.random.default_rng([seed, 0x6DE]).random(len(silver))
        return np.split(keep, np.cumsum([len(values) for values in labels])[:-1])


def _scores(path: Path) -> NDArray[np.float64]:
    found: list[float] = []
    for number, text in lines(path):
        if text:
            try:
                found += [float(score) for score in json.loads(text)["scores"]]
            except (ValueError, KeyError, TypeError):
                raise InputError(
                    f"{path}:{number}: expected a JSON object with a list of numbers in scores"
                ) from None
    return np.array(found)


def acceptance(
    gold: NDArray[np.float64], silver: NDArray[np.float64], bandwidth: float = 0.0
) -> NDArray[np.float64]:
    """min(1, gold density / silver density) at every silver score, (n,), by Gaussian kernels on a grid."""
    from scipy.stats import gaussian_kde

    grid = np.linspace(silver.min(), silver.max(), GRID)
    method = bandwidth or None
    thin = [values[:: -(-len(values) // KERNELS)] for values in (gold, silver)]
    target, found = (gaussian_kde(values, method)(grid) for values in thin)
    ratio = np.minimum(1.0, target / np.maximum(found, np.finfo(np.float64).tiny))
    return np.interp(silver, grid, ratio)
