"""TSPRank: a list is a path, scored by who directly precedes whom; scores (Q, n, n) say "i right before j".

Models of pairs are trained with these losses on all pairs of a list, and the aggregator ``tsp`` ranks by what they
say.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...rerank.aggregators.tsp import held_karp, improve
from . import Input, losses
from .terms import both, descending, discount, lowest, reduce, zero_padding

EXACT = 12
"""Paths over so many candidates are decoded exactly; longer ones by 2-opt and Or-opt from the gold path."""


def _successors(labels: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Positions in label order, (Q, n), and which steps from the k-th to the next are real, (Q, n-1)."""
    order = descending(labels, mask)
    return order, mask.gather(1, order)[:, 1:]


def _check(scores: Tensor) -> None:
    if scores.dim() != 3 or scores.shape[1] != scores.shape[2]:
        raise ValueError(f"tour losses take successor scores (Q, n, n), not {tuple(scores.shape)}")


def successor_scores(
    scores: Tensor, labels: Tensor, owner: Tensor, members: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """What tour losses take, from a model of pairs that was asked about every pair of its lists.

    Args:
        scores, labels: of pairs, (P, 2); the difference of the scores is the logit of "first before second".
        owner, members: the list that each pair belongs to, (P,), and the places of its two in that list, (P, 2).

    Returns:
        scores (Q, n, n), the mean logit of both orders of a pair; labels and mask (Q, n).
    """
    count, width = int(owner.max()) + 1, int(members.max()) + 1
    first, second = members.unbind(1)
    logit = scores[:, 0] - scores[:, 1]
    shape = (count, width, width)
    total = scores.new_zeros(shape).index_put((owner, first, second), logit, accumulate=True)
    total = total.index_put((owner, second, first), -logit, accumulate=True)
    asked = scores.new_zeros(shape).index_put((owner, first, second), torch.ones_like(logit), accumulate=True)
    found, mask = labels.new_zeros(count, width), torch.zeros(count, width, dtype=torch.bool, device=scores.device)
    for place, member in enumerate((first, second)):
        found[owner, member] = labels[:, place]
        mask[owner, member] = True
    return total / (asked + asked.mT).clamp(min=1), found, mask


@losses.register("tsprank_local")
@dataclass(frozen=True)
class LocalTour:
    """Cross-entropy of each candidate's successor in label order, discounted by 1/log2(1 + rank).

    The softmax runs over all other real candidates. Ties keep the order of the list. Reference: Li et al., KDD
    2025.
    """

    takes: ClassVar[Input] = "successors"

    def __call__(self, scores: Tensor, labels: Tensor, mask: Tensor) -> Tensor:
        _check(scores)
        order, steps = _successors(labels, mask)
        others = both(mask) & ~torch.eye(scores.shape[1], dtype=torch.bool, device=scores.device)
        logs = scores.masked_fill(~others, lowest(scores)).log_softmax(2)
        rows = torch.arange(len(scores), device=scores.device)[:, None]
        place = torch.arange(1, scores.shape[1], device=scores.device)
        terms = -logs[rows, order[:, :-1], order[:, 1:]] / discount(place.to(scores.dtype))
        return reduce(zero_padding(terms, steps).sum(1), steps.any(1), "mean")


@losses.register("tsprank_global")
@dataclass(frozen=True)
class GlobalTour:
    """Max-margin over paths: the best path under a' = a + margin (1 - A*) less the gold path A*, divided by n.

    The gradient is the decoded path's adjacency less the gold one's; never negative, as decoding starts from the
    gold path. Ties keep the order of the list. Reference: Li et al., KDD 2025.
    """

    margin: float = 1.0
    takes: ClassVar[Input] = "successors"

    def __call__(self, scores: Tensor, labels: Tensor, mask: Tensor) -> Tensor:
        _check(scores)
        order, steps = _successors(labels, mask)
        total = []
        for worth, gold, size in zip(scores, order, mask.sum(1).tolist(), strict=True):
            if size < 2:
                total.append(scores.new_zeros(()))
                continue
            gold = gold[:size]
            tour = torch.from_numpy(self._decode(worth, gold)).to(worth.device)
            following = torch.full((scores.shape[1],), -1, device=worth.device)
            following[gold[:-1]] = gold[1:]
            wrong = (following[tour[:-1]] != tour[1:]).sum()
            found, right = worth[tour[:-1], tour[1:]].sum(), worth[gold[:-1], gold[1:]].sum()
            total.append((found + self.margin * wrong - right) / size)
        return reduce(torch.stack(total), steps.any(1), "mean")

    def _decode(self, worth: Tensor, gold: Tensor) -> NDArray[np.int64]:
        """The best path over the real candidates, as positions in the list."""
        # in gold order the gold path is 0, 1, 2, ...: its steps are the first superdiagonal
        inner = worth.detach()[gold][:, gold].double().cpu().numpy()
        inner = inner + self.margin * (1.0 - np.eye(len(inner), k=1))
        start = np.arange(len(inner))[None]
        best = held_karp(inner[None], start) if len(inner) <= EXACT else improve(inner[None], start)
        chosen: NDArray[np.int64] = gold.cpu().numpy()[best[0]]
        return chosen
