"""What an engine counts while it works, and its check that scores depend on the document."""

from __future__ import annotations

import resource
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch

from ..vocabulary import Outcomes
from .batches import Batch
from .shards import Shard


@dataclass(slots=True)
class EngineStats:
    """Counts over the life of an engine; ``computed`` and ``padding`` are tokens that went through the model.

    ``quarantined`` holds (qid, docids) of groups that the model could not score, ``lost_workers`` the traces of
    processes that died.
    """

    groups: int = 0
    sequences: int = 0
    tokens: int = 0
    computed: int = 0
    padding: int = 0
    batches: int = 0
    seconds: float = 0.0
    truncated_queries: int = 0
    truncated_passages: int = 0
    empty_texts: int = 0
    retries: int = 0
    tied: int = 0
    scored: int = 0
    peak_memory: int = 0
    quarantined: list[tuple[str, tuple[str, ...]]] = field(default_factory=list)
    lost_workers: list[str] = field(default_factory=list)

    def count_shard(self, shard: Shard) -> None:
        """Adds the work of a shard: inputs, truncations, empty texts."""
        sequences = shard.sequences
        self.groups += len(shard)
        self.sequences += len(sequences.tokens)
        self.tokens += int(sequences.tokens.sum())
        self.truncated_queries += len(np.unique(sequences.query[sequences.query_cut]))
        self.truncated_passages += int(sequences.passage_cut.sum())
        self.empty_texts += shard.empty

    def count_batch(self, batch: Batch, packed: bool) -> None:
        """Adds a batch that went through the model."""
        tokens = len(batch.input_ids)
        self.batches += 1
        if packed and batch.beginnings is not None:
            tokens -= batch.beginnings.repeated
        self.computed += tokens
        if not packed:
            self.padding += int(batch.lengths.max()) * len(batch.lengths) - tokens

    def count_ties(self, outcomes: Sequence[Outcomes]) -> None:
        """Adds outcomes that equal another outcome of their topic."""
        for values in outcomes:
            finite = values[np.isfinite(values)]
            self.scored += len(finite)
            self.tied += len(finite) - len(np.unique(finite))

    def observe_memory(self, device: torch.device) -> None:
        """Notes the peak memory in bytes: of the device, or of the process on a CPU."""
        if device.type == "cuda":
            self.peak_memory = torch.cuda.max_memory_allocated(device)
        else:
            unit = 1 if sys.platform == "darwin" else 1024
            self.peak_memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit

    @property
    def padding_share(self) -> float:
        """Padding among the tokens that the model computed, in [0, 1]."""
        return self.padding / max(1, self.padding + self.computed)

    @property
    def tie_rate(self) -> float:
        """Outcomes that equal another of their topic, in [0, 1]."""
        return self.tied / max(1, self.scored)

    def as_dict(self) -> dict[str, Any]:
        """All counts and rates, for the meta file."""
        seconds = max(self.seconds, 1e-9)
        return asdict(self) | {
            "padding_share": round(self.padding_share, 4),
            "tie_rate": round(self.tie_rate, 6),
            "groups_per_second": round(self.groups / seconds, 1),
            "tokens_per_second": round(self.computed / seconds, 1),
        }

    def summary(self) -> str:
        """One line for people."""
        seconds = max(self.seconds, 1e-9)
        parts = [
            f"{self.groups:,} groups, {self.computed:,} tokens in {self.seconds:.1f} s "
            f"({self.groups / seconds:,.1f} groups/s, {self.computed / seconds:,.0f} tokens/s)",
            f"padding {self.padding_share:.1%}",
            f"cut {self.truncated_passages:,} passages and {self.truncated_queries:,} queries",
            f"{self.empty_texts:,} empty texts" if self.empty_texts else "",
            f"ties {self.tie_rate:.2%}",
            f"{self.retries} retries" if self.retries else "",
            f"{len(self.quarantined)} quarantined" if self.quarantined else "",
            f"{len(self.lost_workers)} workers lost" if self.lost_workers else "",
            f"peak memory {self.peak_memory / 2**30:.2f} GiB",
        ]
        return "; ".join(part for part in parts if part)
