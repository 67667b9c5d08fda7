"""The parts of a batch that a layer computes at a time on CPUs, so that the cache holds what it reads and writes.

Inside a block, sequences of about the same length and of one group are multiplied together.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from .buckets import Bucket, as_rows, rounded, token_order
from .products import Shared, attended

SCORES = 1 << 22  # attention scores at a time
TOKENS = 1 << 12  # about the tokens of a block


def fits(values: torch.Tensor) -> bool:
    """Whether a layer is computed by blocks: on CPUs, without gradients, in a type with the exponents of fp32."""
    recorded = torch.is_grad_enabled() and values.requires_grad
    return values.device.type == "cpu" and values.dtype in (torch.float32, torch.bfloat16) and not recorded


@dataclass(frozen=True, slots=True)
class Piece:
    """Sequences of a block that are multiplied together: about the same length, one group.

    Args:
        rows: their places among the tokens of the block, (m, width).
        bias: added to the attention scores, (m, 1, width), 0 on tokens and -inf on padding; None without.
    """

    rows: Bucket
    group: int
    bias: torch.Tensor | None

    def take(self, values: torch.Tensor) -> torch.Tensor:
        """Values of the block's tokens (T, c, heads, d) as (c, heads, m, width, d)."""
        return self.rows.rows(values).permute(2, 3, 0, 1, 4).contiguous()


@dataclass(frozen=True, slots=True)
class Block:
    """Neighbouring sequences of a batch: what a layer computes at a time, so that the cache holds it.

    Args:
        sequences, tokens: their places in the batch.
        order: puts the tokens of all pieces, one piece after the other, in the order of the block; None: they are.
    """

    sequences: slice
    tokens: slice
    pieces: list[Piece]
    order: torch.Tensor | None

    def mix(self, qkv: torch.Tensor, scaling: float, shared: dict[int, Shared]) -> torch.Tensor:
        """Attention of all tokens of the block: (T, 3, heads, d) to (T, heads, d)."""
        parts = []
        for piece in self.pieces:
            q, k, v = piece.take(qkv)
            found = attended(q, k, v, piece.bias, scaling, shared.get(piece.group))
            parts.append(piece.rows.flat(found.permute(1, 2, 0, 3)))
        out = parts[0] if len(parts) == 1 else torch.cat(parts)
        return out if self.order is None else out.index_select(0, self.order)

    def mix_first(
        self, query: torch.Tensor, kv: torch.Tensor, scaling: float, shared: dict[int, Shared]
    ) -> torch.Tensor:
        """Attention of the first tokens of the block: queries (S, heads, d), keys and values (T, 2, heads, d)."""
        out = torch.empty_like(query)
        for piece in self.pieces:
            k, v = piece.take(kv)
            q = query[piece.rows.sequences].transpose(0, 1)[:, :, None].contiguous()
            found = attended(q, k, v, piece.bias, scaling, shared.get(piece.group))
            out[piece.rows.sequences] = found[:, :, 0].transpose(0, 1)
        return out


def cut(lengths: NDArray[np.int64], heads: int, groups: NDArray[np.int64], dtype: torch.dtype) -> list[Block]:
    """A batch of sequences of these lengths, (S,), in blocks; ``groups`` says which group each is of, (S,)."""
    ends = np.cumsum(lengths)
    cuts = np.flatnonzero(np.diff((ends - lengths) // TOKENS)) + 1
    found = []
    for members in np.split(np.arange(len(lengths)), cuts):
        low, high = int(members[0]), int(members[-1]) + 1
        first = int(ends[low] - lengths[low])
        own = lengths[members]
        pieces = list(_pieces(own, heads, groups[members], dtype))
        sequences = np.concatenate([piece.rows.sequences.numpy() for piece in pieces])
        order = token_order(sequences, own)
        found.append(Block(slice(low, high), slice(first, int(ends[high - 1])), pieces, order))
    return found


def _pieces(
    lengths: NDArray[np.int64], heads: int, groups: NDArray[np.int64], dtype: torch.dtype
) -> Iterator[Piece]:
    starts = np.cumsum(lengths) - lengths
    kinds, kind = np.unique(np.stack([groups, -rounded(lengths)], axis=1), axis=0, return_inverse=True)
    for number, (group, width) in enumerate(kinds.tolist()):
        chosen = np.flatnonzero(kind.reshape(-1) == number)
        # by powers of two, because the kernels are made anew for every number of products that they have not seen
        most = max(1, SCORES // (heads * width * width))
        while len(chosen):
            step = 1 << (min(most, len(chosen)).bit_length() - 1)
            part, chosen = chosen[:step], chosen[step:]
            rows = as_rows(part, starts, lengths, -width, torch.device("cpu"))
            bias = None
            if rows.mask is not None:
                hidden = ~rows.mask[:, 0]
                bias = torch.zeros(hidden.shape, dtype=dtype).masked_fill(hidden, -torch.inf)
            yield Piece(rows, group, bias)
