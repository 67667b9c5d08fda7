"""What losses and data sources promise, as checks that anyone can call: see `sparring.rerank.contracts`."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from ..rerank.contracts.component import ContractError, check_component, promise
from .data.mixture import Row, sources
from .losses import losses

__all__ = ["ContractError", "Lists", "check_loss", "check_source"]

Batch = tuple[Tensor, Tensor, Tensor]


@dataclass(frozen=True)
class Lists:
    """The shapes that a loss takes.

    Args:
        outputs: what the model says of each candidate: one score (), K of them (K,), or ("n",): one for each
            candidate of the list.
        width: candidates per list; 2 for losses of pairs, which know no padding.
        labels: makes labels (Q, n) into those that the loss takes.
    """

    outputs: tuple[int | Literal["n"], ...] = ()
    width: int = 6
    labels: Callable[[Tensor, torch.Generator], Tensor] | None = None

    def batch(self, seed: int, lists: int = 3) -> Batch:
        """Random scores, grades 0 to 2 and a ragged mask, in fp64."""
        generator = torch.Generator().manual_seed(seed)
        extra = tuple(self.width if size == "n" else size for size in self.outputs)
        scores = torch.randn(lists, self.width, *extra, generator=generator, dtype=torch.float64)
        labels = torch.randint(0, 3, (lists, self.width), generator=generator).double()
        labels[:, 0], labels[:, 1] = 2.0, 0.0
        mask = torch.ones(lists, self.width, dtype=torch.bool)
        if self.width > 2:
            mask[1, 4:] = False
            mask[2, 3:] = False
        return scores, labels if self.labels is None else self.labels(labels, generator), mask


def check_loss(
    loss: Any, lists: Lists = Lists(), *, list_mean: bool = True, relative: bool = True, smooth: bool = True
) -> None:
    """Puts made-up lists to a loss; raises ContractError where it breaks a promise.

    Args:
        lists: the shapes that it takes.
        list_mean: whether the loss of a batch is the mean of its lists.
        relative: whether only differences of scores count, so that a shift changes nothing.
        smooth: whether its gradient is that of its value everywhere (compared with finite differences).
    """
    check_component(loss, losses)
    check_gradient(loss, lists, smooth=smooth)
    for filler in (1e9, math.nan):
        check_padding(loss, lists, filler)
    check_extremes(loss, lists)
    if list_mean:
        check_list_mean(loss, lists)
    if relative:
        check_shift(loss, lists)


def check_gradient(loss: Any, lists: Lists = Lists(), seed: int = 1, *, smooth: bool = True) -> None:
    """A scalar with a finite gradient, not 0 everywhere; where ``smooth`` the one of finite differences."""
    scores, labels, mask = lists.batch(seed)
    scores.requires_grad_(True)
    value = loss(scores, labels, mask)
    promise(isinstance(value, Tensor) and value.ndim == 0, loss, "a loss is a scalar tensor", value)
    promise(value.requires_grad, loss, "a loss depends on the scores, with a gradient")
    (gradient,) = torch.autograd.grad(value, scores)
    promise(gradient.isfinite().all(), loss, "its gradient is finite", gradient)
    promise(gradient.abs().sum() > 0, loss, "its gradient is not 0 everywhere")
    if smooth:
        try:
            torch.autograd.gradcheck(lambda s: loss(s, labels, mask), (scores,), eps=1e-7, atol=1e-4)
        except RuntimeError as error:
            raise ContractError(f"{loss}: its gradient is that of its value: {error}") from None


def check_padding(loss: Any, lists: Lists = Lists(), filler: float = math.nan, seed: int = 2) -> None:
    """Whatever stands under the padding changes no value, and gets no gradient."""
    if lists.width == 2:
        return
    scores, labels, mask = lists.batch(seed)
    expected = loss(scores, labels, mask)
    more = 3
    real = torch.cat([mask, mask.new_zeros(len(mask), more)], 1)
    grow = [more if size == "n" else 0 for size in lists.outputs]
    shape = [size + extra for size, extra in zip(scores.shape[2:], grow, strict=True)]
    wide = torch.full((len(scores), scores.shape[1] + more, *shape), filler, dtype=scores.dtype)
    wide[(slice(None), *(slice(0, size) for size in scores.shape[1:]))] = scores
    hidden = ~real.view(*real.shape, *[1] * len(shape)).expand_as(wide)
    if "n" in lists.outputs:
        hidden = hidden | ~real[:, None, :]
    wide = wide.masked_fill(hidden, filler)
    grades = torch.full((len(labels), labels.shape[1] + more, *labels.shape[2:]), filler, dtype=labels.dtype)
    grades[:, : labels.shape[1]] = labels
    grades[~real] = filler
    wide.requires_grad_(True)
    value = loss(wide, grades, real)
    same = torch.allclose(value, expected, rtol=1e-9, atol=1e-9)
    promise(same, loss, f"{filler} under the padding changes no value: {_number(expected)}", _number(value))
    value.backward()
    gradient = wide.grad if wide.grad is not None else torch.full_like(wide, math.nan)
    promise(gradient[real].isfinite().all(), loss, f"with {filler} under the padding gradients are finite")
    if "n" not in lists.outputs:
        promise((gradient[~real] == 0).all(), loss, f"{filler} under the padding gets no gradient")


def check_extremes(loss: Any, lists: Lists = Lists(), seed: int = 3) -> None:
    """Equal scores, huge scores and lists without candidates give finite values and gradients."""
    scores, labels, mask = lists.batch(seed)
    for what, scale in (("equal scores", 0.0), ("huge scores", 1e4)):
        given = (scores * scale).float().requires_grad_(True)
        value = loss(given, labels.float(), mask)
        promise(value.isfinite(), loss, f"{what} give a finite value", _number(value))
        value.backward()
        found = given.grad is not None and bool(given.grad.isfinite().all())
        promise(found, loss, f"{what} give finite gradients")
    nothing = loss(scores, labels, torch.zeros_like(mask))
    promise(nothing.isfinite(), loss, "lists without candidates give a finite value", _number(nothing))


def check_list_mean(loss: Any, lists: Lists = Lists(), seed: int = 4) -> None:
    """The loss of a batch is the mean of its lists, so that every query weighs the same."""
    batch = lists.batch(seed)
    alone = [float(loss(*(part[i : i + 1] for part in batch))) for i in range(len(batch[0]))]
    together, mean = float(loss(*batch)), sum(alone) / len(alone)
    same = math.isclose(together, mean, rel_tol=1e-9)
    promise(same, loss, f"a batch is the mean of its lists, {mean}", together)


def check_shift(loss: Any, lists: Lists = Lists(), seed: int = 5) -> None:
    """A number added to all scores changes nothing."""
    scores, labels, mask = lists.batch(seed)
    there, moved = loss(scores, labels, mask), loss(scores + 3.0, labels, mask)
    same = torch.allclose(there, moved, rtol=1e-8, atol=1e-8)
    promise(same, loss, f"3 added to all scores changes nothing, {_number(there)}", _number(moved))


def check_order(loss: Any, lists: Lists = Lists(), seed: int = 6) -> None:
    """Candidates in another order cost the same; not for losses that break ties by position."""
    scores, labels, mask = lists.batch(seed)
    order = torch.randperm(scores.shape[1], generator=torch.Generator().manual_seed(seed))
    there, moved = loss(scores, labels, mask), loss(scores[:, order], labels[:, order], mask[:, order])
    same = torch.allclose(there, moved, rtol=1e-8, atol=1e-8)
    promise(same, loss, f"the order of candidates changes nothing, {_number(there)}", _number(moved))


def _number(value: Tensor) -> float:
    return float(value.detach())


def check_source(source: Any, rows: int = 100) -> None:
    """Reads the first rows of a data source twice; raises ContractError where it breaks a promise."""
    check_component(source, sources)
    promise(source.share > 0, source, "its share is above 0", source.share)
    known = ("balanced", "spread", "top", "random", "log_random")
    promise(source.sampling in known, source, f"its sampling is one of {', '.join(known)}", source.sampling)
    one, two = source.rows(), source.rows()
    promise(
        len(one) > 0 and len(one) == len(two), source, "it has rows, as many each time", f"{len(one)}, {len(two)}"
    )
    for place in range(min(rows, len(one))):
        row, again = one[place], two[place]
        promise(isinstance(row, Row), source, "a row is a sparring.train.data.mixture.Row", type(row).__name__)
        what = f"row {place}"
        promise(
            len(row.docids) == len(row.labels) > 0, source, f"{what} has a label for each candidate", row.labels
        )
        promise(row.labels.dtype == np.float32, source, f"{what} has float32 labels", row.labels.dtype)
        promise(np.isfinite(row.labels).all(), source, f"{what} has finite labels", row.labels)
        texts = row.texts(np.arange(len(row.docids)))
        strings = len(texts) == len(row.docids) and all(isinstance(text, str) for text in texts)
        promise(strings, source, f"{what} has a text for each candidate", texts)
        same = (row.qid, row.query, row.docids) == (again.qid, again.query, again.docids)
        promise(same and np.array_equal(row.labels, again.labels), source, f"{what} is the same each time")
