"""What every scorer counts while it works: one type for engines, pools, vectors and language models."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(slots=True)
class Stats:
    """Counts over the life of a scorer; ``computed`` and ``padding`` are tokens that went through the model.

    Args:
        tokens: of the inputs; of a language model, read and written.
        calls, prompt_tokens, completion_tokens: of a language model that answers in words; 0 of all others.
        mended: answers in words that lacked, repeated or made up passages; ``unread`` said nothing at all.
        retries: batches or calls that were tried again.
        seconds: inside calls of the scorer.
        peak_memory: bytes, of the device, or of the process on a CPU.
        quarantined: (qid, docids) of groups that the model could not score.
        lost_workers: traces of processes that died.
        silent: work may go on for long without a sign (a call of an endpoint); no count.
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
    calls: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    mended: int = 0
    unread: int = 0
    quarantined: list[tuple[str, tuple[str, ...]]] = field(default_factory=list)
    lost_workers: list[str] = field(default_factory=list)
    silent: bool = False

    def count_ties(self, outcomes: Sequence[NDArray[np.float64]]) -> None:
        """Adds outcomes that equal another outcome of their topic."""
        for values in outcomes:
            finite = values[np.isfinite(values)]
            self.scored += len(finite)
            self.tied += len(finite) - len(np.unique(finite))

    def take(self, parts: Iterable[Stats]) -> None:
        """Replaces the counts of work by the sums over ``parts``, who did it; time and ties stay one's own."""
        known = list(parts)
        for name in WORK:
            setattr(self, name, sum(getattr(part, name) for part in known))
        self.quarantined = [group for part in known for group in part.quarantined]
        self.peak_memory = max((part.peak_memory for part in known), default=0)

    @property
    def padding_share(self) -> float:
        """Padding among the tokens that the model computed, in [0, 1]."""
        return self.padding / max(1, self.padding + self.computed)

    @property
    def tie_rate(self) -> float:
        """Outcomes that equal another of their topic, in [0, 1]."""
        return self.tied / max(1, self.scored)

    def as_dict(self) -> dict[str, Any]:
        """All counts and rates, for the meta file; those of answers in words only where there were any."""
        seconds = max(self.seconds, 1e-9)
        counts = asdict(self)
        del counts["silent"]
        if not self.calls:
            for name in WORDS:
                del counts[name]
        return counts | {
            "padding_share": round(self.padding_share, 4),
            "tie_rate": round(self.tie_rate, 6),
            "groups_per_second": round(self.groups / seconds, 1),
            "tokens_per_second": round(self.computed / seconds, 1),
        }

    def summary(self) -> str:
        """One line for people."""
        return self._of_words() if self.calls else self._of_batches()

    def _of_batches(self) -> str:
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

    def _of_words(self) -> str:
        return (
            f"{self.groups:,} groups, {self.calls:,} calls, {self.prompt_tokens:,} tokens read and "
            f"{self.completion_tokens:,} written in {self.seconds:.1f} s; {self.mended:,} answers mended, "
            f"{self.unread:,} unreadable, {self.retries:,} calls repeated, "
            f"{len(self.quarantined):,} groups quarantined"
        )


WORDS = ("calls", "prompt_tokens", "completion_tokens", "mended", "unread")
"""Counts of models that answer in words."""
OWN = ("seconds", "tied", "scored", "peak_memory", "silent")
"""What is not the sum over those who did the work."""
WORK = tuple(
    f.name for f in dataclasses.fields(Stats) if f.name not in OWN and f.default is not dataclasses.MISSING
)
