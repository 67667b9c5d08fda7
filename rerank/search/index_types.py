"""How the vectors of an index are arranged."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

from ..errors import UsageError
from ..registry import unknown

IndexType = Literal["flat", "hnsw", "ivf", "ivfpq"]
SMALLEST_PQ = 1000


@dataclass(frozen=True)
class Layout:
    """How vectors are arranged; None takes what suits the size of the collection.

    Args:
        type: flat (exact), hnsw (graph), ivf (inverted lists), ivfpq (lists of product-quantised vectors).
        links, construction: HNSW's M and efConstruction.
        lists: of IVF; by default 4 sqrt(n), and at least 39 vectors in each.
        subvectors: bytes per vector of IVF-PQ; by default dimension / 4.
    """

    type: IndexType = "flat"
    links: int = 32
    construction: int = 200
    lists: int | None = None
    subvectors: int | None = None

    def __post_init__(self) -> None:
        if self.type not in get_args(IndexType):
            raise UsageError(unknown("index type", self.type, get_args(IndexType)))

    def factory(self, count: int, dimension: int) -> str:
        """The string that FAISS's index_factory takes; raises UsageError for what does not fit."""
        if self.type == "flat":
            return "Flat"
        if self.type == "hnsw":
            return f"HNSW{self.links},Flat"
        lists = self.lists or max(1, min(int(4 * math.sqrt(count)), count // 39))
        if lists > count:
            raise UsageError(f"{lists} lists for {count} documents: choose fewer --lists")
        if self.type == "ivf":
            return f"IVF{lists},Flat"
        if count < SMALLEST_PQ:
            raise UsageError(
                f"{count} documents are too few to train ivfpq ({SMALLEST_PQ}): use --index-type flat"
            )
        parts = self.subvectors or next(m for m in range(max(1, dimension // 4), 0, -1) if dimension % m == 0)
        if dimension % parts:
            raise UsageError(
                f"{parts} sub-vectors do not divide {dimension} dimensions: choose other --subvectors"
            )
        return f"IVF{lists},PQ{parts}x8np"  # np: polysemous codes take minutes to train and are not used
