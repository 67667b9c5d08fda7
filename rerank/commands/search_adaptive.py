"""What ``sparring search --adaptive`` adds: a cross-encoder behind a ledger, asked while the search goes on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ..data.datasets import Dataset
from ..errors import UsageError
from ..search.adaptive import AdaptiveSearch, Found, Scored, Task, adaptive
from .job import LedgerFlags, behind_ledger, discard_ledger

if TYPE_CHECKING:
    from ..search.bi_encoder import BiEncoder
    from ..search.index import Index


class Flags(LedgerFlags, Protocol):
    """The flags of an adaptive search."""

    @property
    def adaptive(self) -> str | None: ...
    @property
    def cross_encoder(self) -> str | None: ...
    @property
    def allow_ids(self) -> Path | None: ...
    @property
    def depth(self) -> int: ...
    @property
    def seed(self) -> int: ...
    @property
    def device(self) -> str: ...
    @property
    def dtype(self) -> str: ...
    @property
    def allow_pickle(self) -> bool: ...


@dataclass(frozen=True, slots=True)
class Adaptive:
    """An adaptive search with its cross-encoder, loaded and checked."""

    method: AdaptiveSearch
    engine: Any

    def search(
        self,
        options: Flags,
        dataset: Dataset,
        ids: Sequence[str],
        encoder: BiEncoder,
        items: NDArray[np.float32],
    ) -> Found:
        """Positions and scores, best first, for all queries of the dataset; the ledger goes when all is done."""
        texts = list(dataset.queries.values())
        vectors = encoder.queries(texts)
        with behind_ledger(self.engine, options) as scorer:
            task = Task(texts, vectors, items, Scored(scorer, dataset, ids), str(encoder.device))
            found = self.method.search(task, min(options.depth, len(ids)), np.random.default_rng(options.seed))
        discard_ledger(options)
        return found


def prepare(options: Flags) -> Adaptive | None:
    """Parses the spec and loads the cross-encoder, None where no adaptive search is asked for.

    Raises UsageError for flags that do not go together, or a model that does not score single documents.
    """
    if options.adaptive is None:
        if options.cross_encoder is not None:
            raise UsageError("--cross-encoder is what --adaptive asks: add --adaptive axn, or leave it out")
        return None
    method: AdaptiveSearch = adaptive.parse(options.adaptive)
    if options.cross_encoder is None:
        raise UsageError(f"--adaptive {method} needs --cross-encoder M, a pointwise reranker")
    if options.allow_ids is not None:
        raise UsageError("--allow-ids does not go with --adaptive: leave it out")
    from ..executors.open import open_scorer
    from ..models.loading import load

    model = load(options.cross_encoder, allow_pickle=options.allow_pickle)
    if model.width != 1:
        raise UsageError(f"--cross-encoder {options.cross_encoder}: only pointwise models score single documents")
    return Adaptive(method, open_scorer(model, device=options.device, dtype=options.dtype))


def check_vectors(similarity: str, index: Index | None) -> None:
    """Refuses vectors that an adaptive search cannot work with, before any work."""
    if similarity == "euclidean":
        raise UsageError("--adaptive searches by inner products: use a bi-encoder of cosine or dot similarity")
    if index is not None:
        item_vectors(index)


def item_vectors(index: Index) -> NDArray[np.float32]:
    """The vectors that an index holds, (n, d); UsageError where it has them in lists, or quantised."""
    vectors = index.vectors()
    if vectors is None:
        raise UsageError(
            f"--adaptive needs the vectors themselves, which an index of type {index.manifest['type']} does not "
            "keep: build one with --index-type flat or hnsw"
        )
    return vectors
