"""Overlapping blocks, each ranked by itself, all in one round (JointRank, Dedov, ICTIR 2025)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from .. import registry
from .asking import Rounds, once, require

Block = list[int]


@registry.schedules.register("blocks")
@dataclass(frozen=True)
class Blocks:
    """About replicas * n / size blocks, linked so that every candidate can be compared with every other.

    A pairwise model compares all pairs inside a block. Blocks that do not fill up are padded with -1.

    Args:
        size: candidates per block.
        replicas: in how many blocks a candidate appears.
        design: ``equi`` gives every candidate exactly ``replicas`` blocks; ``latin`` takes the rows, columns and
            diagonals of a square of side ``size`` (for at most size^2 candidates); ``triangular`` the lines of
            a triangle (two replicas, at most size(size+1)/2 candidates); ``random`` independent blocks, which
            may miss candidates; ``sliding`` overlapping windows of the first-stage order. More candidates than
            a square or a triangle holds fall back to ``equi``.
        striped: deal every block its share of each part of the first-stage order; else shuffle.
    """

    size: int = 10
    replicas: int = 2
    design: Literal["equi", "latin", "triangular", "random", "sliding"] = "equi"
    striped: bool = False
    width: ClassVar[int | None] = None
    oriented: ClassVar[bool] = True

    def __post_init__(self) -> None:
        require(self.size >= 2 and self.replicas >= 1, "size must be at least 2 and replicas at least 1")

    def rounds(self, prior: NDArray[np.float64], rng: np.random.Generator) -> Rounds[None]:
        return once(_padded(self._blocks(len(prior), rng)))

    def at_budget(self, calls: int, n: int) -> Blocks:
        """The largest blocks whose pairs are at most ``calls`` for ``n`` candidates, at least of two."""
        for size in range(n, 2, -1):
            # one full block alone must be affordable: a cheap test before building all of them
            smaller = replace(self, size=size)
            if size * (size - 1) // 2 <= calls and smaller._pairs(n) <= calls:
                return smaller
        return replace(self, size=2)

    def _pairs(self, n: int) -> int:
        """Pairs inside all blocks; which links are needed is a matter of luck, so the most of a few draws."""
        draws = (self._blocks(n, np.random.default_rng(seed)) for seed in range(3))
        return max(sum(len(block) * (len(block) - 1) // 2 for block in blocks) for blocks in draws)

    def _blocks(self, n: int, rng: np.random.Generator) -> list[Block]:
        if n <= self.size:
            return [list(range(n))] if n else []
        if self.design == "random":
            count = max(1, round(self.replicas * n / self.size))
            return [rng.choice(n, self.size, replace=False).tolist() for _ in range(count)]
        if self.design == "sliding":
            tops = range(n - self.size, -max(1, self.size // 2), -max(1, self.size // 2))
            return [list(range(max(top, 0), max(top, 0) + self.size)) for top in tops]
        if self.design == "latin" and n <= self.size**2:
            blocks = _latin(self._deal(n, rng), self.size, self.replicas)
        elif self.design == "triangular" and n <= self.size * (self.size + 1) // 2:
            blocks = _triangular(self._deal(n, rng), self.size)
        else:
            blocks = self._equi(n, rng)
        return [*blocks, *_links(blocks, n, self.size)]

    def _equi(self, n: int, rng: np.random.Generator) -> list[Block]:
        """Cuts one order after another into blocks; a block across a seam takes nobody twice."""
        blocks: list[Block] = []
        rest: Block = []
        for _ in range(self.replicas):
            order = self._deal(n, rng)
            if rest:
                fillers = [item for item in order if item not in rest][: self.size - len(rest)]
                blocks.append(rest + fillers)
                order = [item for item in order if item not in fillers]
            cut = len(order) - len(order) % self.size
            blocks += [order[low : low + self.size] for low in range(0, cut, self.size)]
            rest = order[cut:]
        return [*blocks, rest] if len(rest) > 1 else blocks

    def _deal(self, n: int, rng: np.random.Generator) -> Block:
        """An order of all candidates whose consecutive cuts of ``size`` are the blocks of one replica."""
        if not self.striped:
            return [int(item) for item in rng.permutation(n)]
        count = -(-n // self.size)
        strata = [rng.permutation(np.arange(low, min(low + count, n))) for low in range(0, n, count)]
        return [int(stratum[turn]) for turn in range(count) for stratum in strata if turn < len(stratum)]


def _latin(order: Block, side: int, replicas: int) -> list[Block]:
    """Lines of a square: rows, columns, then broken diagonals; rows are rotated so that strata share no column."""
    place = np.arange(len(order))
    row = place // side
    column = (place + row) % side
    lines = [row, *((column + slope * row) % side for slope in range(replicas - 1))]
    blocks = [
        [item for item, at in zip(order, line, strict=True) if at == key] for line in lines for key in range(side)
    ]
    return [block for block in blocks if len(block) > 1]


def _triangular(order: Block, size: int) -> list[Block]:
    """Candidates are the edges of a complete graph of size + 1 nodes; a block is what meets in one node."""
    upper, lower = np.triu_indices(size + 1, 1)
    ends = list(zip(order, upper.tolist(), lower.tolist(), strict=False))
    blocks = [[item for item, a, b in ends if node in (a, b)] for node in range(size + 1)]
    return [block for block in blocks if len(block) > 1]


def _links(blocks: list[Block], n: int, size: int) -> list[Block]:
    """Blocks that join what would stay apart: the best-placed candidate of every component, in a chain."""
    parent = list(range(n))

    def root(item: int) -> int:
        while parent[item] != item:
            parent[item] = parent[parent[item]]
            item = parent[item]
        return item

    for block in blocks:
        for item in block[1:]:
            low, high = sorted((root(block[0]), root(item)))
            parent[high] = low
    apart = [item for item in range(n) if root(item) == item]
    return [apart[low : low + size] for low in range(0, len(apart) - 1, size - 1)]


def _padded(blocks: list[Block]) -> NDArray[np.int32]:
    groups = np.full((len(blocks), max(map(len, blocks), default=1)), -1, np.int32)
    for row, block in zip(groups, blocks, strict=True):
        row[: len(block)] = block
    return groups
