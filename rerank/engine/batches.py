"""Token ids of every text once, and batches gathered from them without any work per pair in Python."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from ..arrays import ragged
from .templates import Constant, Template, Text, Truncation
from .token_store import TokenStore


@dataclass(frozen=True, slots=True)
class Sequences:
    """Inputs as slices of a token store: pieces (S, slots) after truncation, and what was cut to fit.

    ``group`` (S,) says which group a sequence belongs to, ascending; ``query`` (S,) is the entry of its query.
    """

    starts: NDArray[np.int64]
    pieces: NDArray[np.int64]
    tokens: NDArray[np.int64]
    group: NDArray[np.int64]
    query: NDArray[np.int64]
    query_cut: NDArray[np.bool_]
    passage_cut: NDArray[np.bool_]


def build_sequences(
    store: TokenStore,
    template: Template,
    truncation: Truncation,
    query: NDArray[np.int64],
    passages: NDArray[np.int64],
    group: NDArray[np.int64],
) -> Sequences:
    """Lays out one sequence per row from entries of the store: query (S,) and passages (S, p)."""
    query_kept, passages_kept = _fit(template, truncation, store.lengths[query], store.lengths[passages])
    shape = (len(query), len(template.slots))
    starts, pieces, cut = np.empty(shape, np.int64), np.empty(shape, np.int64), np.zeros(shape, np.bool_)
    for column, slot in enumerate(template.slots):
        if isinstance(slot, Constant):
            entry = store.constant(slot.ids)
            starts[:, column] = store.starts[entry]
            pieces[:, column] = len(slot.ids)
            if slot.after_cut is not None:
                pieces[:, column] *= cut[:, slot.after_cut]
        elif slot.role == "query":
            starts[:, column], pieces[:, column] = store.starts[query], query_kept
            cut[:, column] = query_kept < store.lengths[query]
        else:
            entries = passages[:, slot.index]
            starts[:, column] = store.starts[entries]
            pieces[:, column] = passages_kept[:, slot.index]
            cut[:, column] = passages_kept[:, slot.index] < store.lengths[entries]
    return Sequences(
        starts=starts,
        pieces=pieces,
        tokens=pieces.sum(axis=1),
        group=group,
        query=query,
        query_cut=(query_kept < store.lengths[query]) | store.cut[query],
        passage_cut=np.any((passages_kept < store.lengths[passages]) | store.cut[passages], axis=1),
    )


def _fit(
    template: Template, truncation: Truncation, query: NDArray[np.int64], passages: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Lengths after cutting; what a template puts back after a cut takes room only where there is one."""
    back = sum(
        len(slot.ids) for slot in template.slots if isinstance(slot, Constant) and slot.after_cut is not None
    )
    query_kept, passages_kept = truncation.fit(template.overhead - back, query, passages)
    ends = {slot.after_cut for slot in template.slots if isinstance(slot, Constant)}
    again = np.zeros(len(query), np.bool_)
    for place, slot in enumerate(template.slots):
        if place in ends and isinstance(slot, Text):
            before, after = (
                (query, query_kept)
                if slot.role == "query"
                else (passages[:, slot.index], passages_kept[:, slot.index])
            )
            again |= after < before
    if again.any():
        less = truncation.fit(template.overhead, query[again], passages[again])
        query_kept[again], passages_kept[again] = less
    return query_kept, passages_kept


@dataclass(frozen=True, slots=True)
class Beginnings:
    """What sequences have in common: the first ``lengths`` (S,) tokens are equal where ``group`` (S,) is."""

    lengths: NDArray[np.int64]
    group: NDArray[np.int64]

    @property
    def repeated(self) -> int:
        """Tokens that stand in the batch more than once."""
        _, first = np.unique(self.group, return_index=True)
        return int(self.lengths.sum() - self.lengths[first].sum())


@dataclass(frozen=True, slots=True)
class Batch:
    """Sequences one after the other without padding, as the models take them.

    Args:
        input_ids, positions, segments: int32 tensors (T,); positions restart in each sequence.
        boundaries: sequence s is rows ``boundaries[s]:boundaries[s + 1]``, int32 tensor (S + 1,).
        lengths: the lengths of the sequences, on the host, (S,).
        groups: group g owns sequences ``groups[g]:groups[g + 1]``, on the host, (G + 1,).
        queries: a number per sequence, equal where the query is the same, on the host, (S,).
        beginnings: common beginnings of sequences, where the template is batched by query.
    """

    input_ids: torch.Tensor
    positions: torch.Tensor
    segments: torch.Tensor
    boundaries: torch.Tensor
    lengths: NDArray[np.int64]
    groups: NDArray[np.int64]
    queries: NDArray[np.int64]
    beginnings: Beginnings | None = None

    def to(self, device: torch.device) -> Batch:
        """The batch with its tensors on ``device``; from pinned memory the copy does not block."""
        if device.type == "cpu":
            return self
        names = ("input_ids", "positions", "segments", "boundaries")
        return replace(self, **{name: getattr(self, name).to(device, non_blocking=True) for name in names})

    def pin(self) -> Batch:
        """The batch in pinned memory."""
        names = ("input_ids", "positions", "segments", "boundaries")
        return replace(self, **{name: getattr(self, name).pin_memory() for name in names})

    def padded(self, pad_id: int, side: Literal["left", "right"] = "right") -> Padded:
        """The same sequences as padded rows."""
        count, width = len(self.lengths), int(self.lengths.max())
        columns = np.arange(width)
        lengths = self.lengths[:, None]
        host = columns < lengths if side == "right" else columns >= width - lengths
        device = self.input_ids.device
        mask = torch.from_numpy(host).to(device, non_blocking=True)
        places = torch.from_numpy(np.flatnonzero(host)).to(
            device, non_blocking=True
        )  # no wait for a count of mask

        def fill(values: torch.Tensor, empty: int) -> torch.Tensor:
            return values.new_full((count * width,), empty).index_copy_(0, places, values).view(count, width)

        return Padded(fill(self.input_ids, pad_id), mask, fill(self.positions, 0), fill(self.segments, 0))


@dataclass(frozen=True, slots=True)
class Padded:
    """Sequences as rows of equal width: input_ids, mask (True on tokens), positions and segments, each (S, L)."""

    input_ids: torch.Tensor
    mask: torch.Tensor
    positions: torch.Tensor
    segments: torch.Tensor


def gather(
    store: TokenStore, template: Template, sequences: Sequences, rows: NDArray[np.int64], first_position: int = 0
) -> Batch:
    """The batch of the sequences ``rows``, whose groups must be whole and together."""
    pieces = sequences.pieces[rows]
    lengths = sequences.tokens[rows]
    flat, size = pieces.ravel(), int(lengths.sum())
    index = ragged(sequences.starts[rows].ravel(), flat)
    boundaries = np.zeros(len(rows) + 1, np.int32)
    np.cumsum(lengths, out=boundaries[1:])
    positions = np.arange(first_position, first_position + size, dtype=np.int32)
    positions -= np.repeat(boundaries[:-1], lengths)
    segments = np.array([slot.segment for slot in template.slots], np.int32)
    group = sequences.group[rows]
    edges = np.flatnonzero(np.diff(group)) + 1
    return Batch(
        input_ids=torch.from_numpy(store.flat[index]),
        positions=torch.from_numpy(positions),
        segments=torch.from_numpy(
            np.repeat(np.tile(segments, len(rows)), flat) if segments.any() else np.zeros(size, np.int32)
        ),
        boundaries=torch.from_numpy(boundaries),
        lengths=lengths,
        groups=np.concatenate([[0], edges, [len(rows)]]).astype(np.int64),
        queries=sequences.query[rows],
        beginnings=_beginnings(pieces[:, : template.beginning], sequences.query[rows], lengths)
        if template.by_query
        else None,
    )


def _beginnings(pieces: NDArray[np.int64], query: NDArray[np.int64], lengths: NDArray[np.int64]) -> Beginnings:
    """Sequences whose pieces before the first passage are the same; the last token of a sequence is its own."""
    common = np.minimum(pieces.sum(axis=1), lengths - 1)
    _, group = np.unique(np.column_stack([query, common, pieces]), axis=0, return_inverse=True)
    return Beginnings(common, group.reshape(-1))


def plan(
    tokens: NDArray[np.int64],
    longest: NDArray[np.int64],
    members: NDArray[np.int64],
    budget: int,
    padded: bool,
    query: NDArray[np.int64] | None = None,
    common: NDArray[np.int64] | None = None,
) -> Iterator[NDArray[np.int64]]:
    """Groups of each batch: sorted by length, longest first, filled up to ``budget`` tokens (one group at least).

    Args:
        tokens, longest, members: of each group its tokens, those of its longest sequence, its sequences, (G,).
        padded: count a batch as rows of its longest sequence instead of true tokens.
        query: sort by this first, so that groups of one query come together, (G,).
        common: tokens of each group that are computed once for its query, (G,).
    """
    first = np.zeros_like(tokens) if query is None else query
    order = np.lexsort((np.arange(len(tokens)), -tokens, -longest, first))
    own = tokens[order]
    if common is not None:
        own[1:] -= np.where(first[order][1:] == first[order][:-1], common[order][1:], 0)
    cost, count = np.cumsum(own), np.cumsum(members[order])
    start = 0
    while start < len(order):
        if padded:
            width = int(longest[order[start]])
            done = count[start - 1] if start else 0
            end = int(np.searchsorted(count, done + max(1, budget // width), side="right"))
        else:
            done = cost[start - 1] if start else 0
            end = int(np.searchsorted(cost, done + budget, side="right"))
        end = max(end, start + 1)
        yield order[start:end]
        start = end
