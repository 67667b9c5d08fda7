"""Sequences of about the same length as the rows of one tensor, for kernels that know no packed sequences."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

STEP = 32  # rows of a whole number of bf16 vectors: the CPU's softmax is 2.5 times slower on 93 keys than on 96


@dataclass(frozen=True, slots=True)
class Bucket:
    """Sequences whose lengths round up to the same ``width``.

    Args:
        sequences: which, (n,).
        tokens: the token at each place of the (n * width) rows, the first token of all where a row is padded; a
            slice where nothing is padded and the sequences follow each other.
        mask: True on tokens, (n, 1, 1, width); None where nothing is padded.
        places: the places that hold tokens; None where all do.
    """

    sequences: torch.Tensor
    tokens: torch.Tensor | slice
    mask: torch.Tensor | None
    places: torch.Tensor | None
    width: int

    def rows(self, values: torch.Tensor) -> torch.Tensor:
        """Values of tokens (T, ...) as rows (n, width, ...)."""
        found = values[self.tokens] if isinstance(self.tokens, slice) else values.index_select(0, self.tokens)
        return found.unflatten(0, (-1, self.width))  # type: ignore[no-untyped-call, no-any-return]

    def flat(self, rows: torch.Tensor) -> torch.Tensor:
        """Rows (n, width, ...) as values of the bucket's tokens."""
        values = rows.flatten(0, 1)
        return values if self.places is None else values.index_select(0, self.places)


def as_rows(
    chosen: NDArray[np.int64],
    starts: NDArray[np.int64],
    lengths: NDArray[np.int64],
    width: int,
    device: torch.device,
) -> Bucket:
    """The sequences ``chosen`` (n,) as rows; ``starts`` and ``lengths`` are those of all sequences, (S,)."""
    column = np.arange(width)
    real = column < lengths[chosen, None]
    sequences = torch.from_numpy(chosen).to(device)
    if real.all() and (np.diff(chosen) == 1).all():
        first = int(starts[chosen[0]])
        return Bucket(sequences, slice(first, first + real.size), None, None, width)
    tokens = torch.from_numpy(np.where(real, starts[chosen, None] + column, 0).ravel()).to(device)
    if real.all():
        return Bucket(sequences, tokens, None, None, width)
    mask = torch.from_numpy(real[:, None, None, :]).to(device)
    return Bucket(sequences, tokens, mask, torch.from_numpy(np.flatnonzero(real)).to(device), width)


def token_order(sequences: NDArray[np.int64], lengths: NDArray[np.int64]) -> torch.Tensor | None:
    """Puts the tokens of sequences in this order, (S,), back in the order of the batch; None: they are in it."""
    if (np.diff(sequences) > 0).all():
        return None
    starts, own = np.cumsum(lengths) - lengths, lengths[sequences]
    ends = np.cumsum(own)
    moved = np.arange(int(ends[-1])) + np.repeat(starts[sequences] - (ends - own), own)
    return torch.from_numpy(np.argsort(moved))


def rounded(lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """The widths of the rows that sequences go to."""
    widths: NDArray[np.int64] = -(-lengths // STEP) * STEP
    return widths
