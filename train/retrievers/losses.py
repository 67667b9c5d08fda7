"""Losses of retrievers: what a batch of encoded lists costs, and sentence-transformers' own losses by their names.

Every loss of `sparring.train.losses` can be named too: alone (``kl``) it sees each query with its own candidates,
inside ``in_batch(...)`` with all candidates of the batch. Similarities are multiplied by ``scale`` first, by
default 20 for cosines and 1 for everything else.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from ...rerank.errors import UsageError
from ...rerank.registry import Registry
from ..losses import Loss, input_of, losses
from ..losses.listwise import KullbackLeibler
from ..losses.pairwise import pair_divergence
from ..losses.terms import hide, lowest, ranks, reduce

retriever_losses = Registry("loss of retrievers", "sparring.train.retrievers.losses", also=losses)


@dataclass(frozen=True, slots=True)
class Encoded:
    """Q lists of n candidates, encoded.

    Args:
        queries: (Q, d), or the contexts (Q, m, d) of a poly-encoder.
        documents: (Q, n, d), zeros under the padding.
        labels, mask: (Q, n).
        others: the candidates of other lists that may be negatives of a query, (Q, Q, n); never its own list's.
        similarity: queries with documents (N, d) to (Q, N).
        scale: what losses without a scale of their own multiply similarities by.
    """

    queries: Tensor
    documents: Tensor
    labels: Tensor
    mask: Tensor
    others: Tensor
    similarity: Callable[[Tensor, Tensor], Tensor]
    scale: float = 1.0

    def everywhere(self, scale: float | None) -> Tensor:
        """Scores of every query with every candidate of the batch, (Q, Q n)."""
        return self._factor(scale) * self.similarity(self.queries, self.documents.flatten(0, 1))

    def own(self, scale: float | None) -> Tensor:
        """Scores of every query with its own candidates, (Q, n)."""
        count, width = self.mask.shape
        return self.everywhere(scale).reshape(count, count, width).diagonal(dim1=0, dim2=1).T

    def passages(self, scale: float | None) -> Tensor:
        """Scores of every candidate with every candidate of the batch, (Q, n, Q n)."""
        flat = self.documents.flatten(0, 1)
        return self._factor(scale) * self.similarity(flat, flat).reshape(*self.mask.shape, len(flat))

    def beside(self, own: Tensor, fill: Tensor) -> Tensor:
        """Values for all candidates of the batch, (Q, Q n): ``own`` (Q, n) in the query's list, else ``fill``."""
        here = torch.eye(len(own), dtype=torch.bool, device=own.device)[:, :, None]
        return torch.where(here, own[:, None, :], fill).flatten(1)

    def _factor(self, scale: float | None) -> float:
        return self.scale if scale is None else scale


UNGIVEN = {
    "classes": "a score per class or threshold",
    "successors": "who comes right before whom",
    "near_duplicates": "near-duplicates beside the labels",
}
"""What some losses take and no retriever gives."""


class RetrieverLoss(Protocol):
    """A loss of this toolkit: from encoded lists to a scalar to minimise."""

    def __call__(self, encoded: Encoded) -> Tensor: ...


@runtime_checkable
class LibraryLoss(Protocol):
    """A loss of sentence-transformers: a module over columns query, document_1 .. document_n."""

    labelled: ClassVar[bool]
    """Whether it reads labels (B, n); else document_1 is the positive and all others are negatives."""

    def module(self, model: Any) -> nn.Module: ...


def parse(spec: str, list_size: int | None = None) -> RetrieverLoss | LibraryLoss:
    """The loss that a spec names; a loss over lists alone sees each query with its own candidates.

    Raises UsageError where it takes what a retriever does not say of lists of ``list_size`` candidates.
    """
    found: Any = retriever_losses.parse(spec)
    if found.spec_name not in losses.names():
        return found  # type: ignore[no-any-return]
    taken = input_of(found)
    if taken == "pairs" and list_size != 2:
        raise UsageError(
            f"--loss {found} takes pairs: a retriever scores lists; with --list-size 2 a list is a pair"
        )
    if taken in UNGIVEN:
        raise UsageError(f"--loss {found} takes {UNGIVEN[taken]}: a retriever gives one score per passage")
    return Lists(found)


@dataclass(frozen=True)
class Lists:
    """A loss over each query's own candidates."""

    loss: Loss

    def __call__(self, encoded: Encoded) -> Tensor:
        return self.loss(encoded.own(None), encoded.labels, encoded.mask)


@retriever_losses.register("in_batch")
@dataclass(frozen=True)
class InBatch:
    """A loss over lists, such as infonce, nce or multi_similarity, over all candidates of the batch.

    Candidates of other lists have the label 0, or the lowest of the list where that is below 0. They do not count
    where their list has the same query, or where they are among the query's own.
    """

    loss: object
    scale: float | None = None

    def __post_init__(self) -> None:
        if type(self.loss) not in dict(losses).values() or input_of(self.loss) != "lists":
            raise ValueError("loss must be one over lists, as in in_batch(infonce)")

    def __call__(self, encoded: Encoded) -> Tensor:
        lowest_label = torch.where(encoded.mask, encoded.labels, 0.0).amin(1).clamp(max=0.0)
        labels = encoded.beside(encoded.labels, lowest_label[:, None, None])
        mask = encoded.beside(encoded.mask, encoded.others)
        loss: Any = self.loss
        value: Tensor = loss(encoded.everywhere(self.scale), labels, mask)
        return value


@retriever_losses.register("pair")
@dataclass(frozen=True)
class PassageCentric:
    """PAIR: (1 - alpha) L_Q + alpha L_P; a positive is nearer to the query than to the negatives.

    L_Q = -log e^s(q,p+) / (e^s(q,p+) + Σ e^s(q,p-)) and L_P = -log e^s(p+,q) / (e^s(p+,q) + Σ e^s(p+,p-)), the
    mean over a list's positives, then over lists with one. Positives have a label of at least ``positive``,
    negatives one below it, or at most ``negative`` where that is given (what lies between is left out); with
    ``in_batch`` the candidates of other lists are negatives too. alpha = 0 is the paper's second stage. Reference:
    Ren et al., Findings of ACL-IJCNLP 2021.
    """

    alpha: float = 0.1
    positive: float = 1.0
    negative: float | None = None
    in_batch: bool = True
    scale: float | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.alpha <= 1:
            raise ValueError("alpha must lie in [0, 1]")

    def __call__(self, encoded: Encoded) -> Tensor:
        positives = encoded.mask & (encoded.labels >= self.positive)
        below = encoded.labels < self.positive
        negatives = encoded.mask & (below if self.negative is None else encoded.labels <= self.negative) & below
        others = encoded.others if self.in_batch else torch.zeros_like(encoded.others)
        noise = encoded.beside(negatives, others)
        own = encoded.own(self.scale)
        near_query = hide(encoded.everywhere(self.scale), noise).logsumexp(1, keepdim=True)
        terms = (1 - self.alpha) * _centred(own, near_query)
        if self.alpha:
            passages = encoded.passages(self.scale)
            near_passage = passages.masked_fill(~noise[:, None], lowest(passages)).logsumexp(2)
            terms = terms + self.alpha * _centred(own, near_passage)
        return reduce(terms, positives, "list_mean")


def _centred(positive: Tensor, noise: Tensor) -> Tensor:
    """-log e^positive / (e^positive + e^noise)."""
    return torch.logaddexp(positive, noise) - positive


@retriever_losses.register("pair_distill")
@dataclass(frozen=True)
class PairDistill:
    """PairDistill: CE of the positive in the batch + KL of the teacher's list + weight · KL of its pairs.

    Labels are teacher logits. A list's positive is its best label, and all other candidates of the batch are its
    negatives in the first term. The last term is KL([p, 1-p] || softmax(s_i, s_j)) with p = σ(y_i - y_j), over
    pairs at most ``delta`` ranks apart by label. A list of two candidates is a pair alone: the source
    ``preferences`` makes them of what ``sparring distill`` asked a pairwise teacher of rank neighbours; delta = 0
    takes no others.
    Reference: Huang and Chen, EMNLP 2024 (weight 1 for DPR, 3 for ColBERT).
    """

    weight: float = 1.0
    delta: int = 5
    scale: float | None = None

    def __post_init__(self) -> None:
        if self.weight < 0 or self.delta < 0:
            raise ValueError("weight and delta must not be negative")

    def __call__(self, encoded: Encoded) -> Tensor:
        own = encoded.own(self.scale)
        lists = encoded.mask.sum(1) > 2
        mask = encoded.mask & lists[:, None]
        best = mask & (encoded.labels == hide(encoded.labels, mask).amax(1, keepdim=True))
        noise = encoded.beside(mask & ~best, encoded.others)
        against = hide(encoded.everywhere(self.scale), noise).logsumexp(1, keepdim=True)
        contrast = reduce(_centred(own, against), best, "list_mean")
        return contrast + KullbackLeibler()(own, encoded.labels, mask) + self.weight * self._pairs(encoded, own)

    def _pairs(self, encoded: Encoded, own: Tensor) -> Tensor:
        """The pair term: the mean over a list's pairs, then over lists with one."""
        place = ranks(encoded.labels, encoded.mask)
        apart = (place[:, :, None] - place[:, None, :]).abs()
        pairs = encoded.mask[:, :, None] & encoded.mask[:, None, :] & (apart <= self.delta)
        alone = (encoded.mask.sum(1) == 2)[:, None, None] & encoded.mask[:, :, None] & encoded.mask[:, None, :]
        gaps, target = (values[:, :, None] - values[:, None, :] for values in (own, encoded.labels))
        return reduce(pair_divergence(gaps, target.sigmoid()), (pairs | alone).triu(1), "list_mean")


@retriever_losses.register("MultipleNegativesRankingLoss")
@dataclass(frozen=True)
class MultipleNegativesRanking:
    """sentence-transformers' loss: the best candidate against the worse ones of its list and all of the batch."""

    scale: float = 20.0
    gather_across_devices: bool = False
    labelled: ClassVar[bool] = False

    def module(self, model: Any) -> nn.Module:
        """The loss over a model."""
        return _library("MultipleNegativesRankingLoss", model, **vars(self))


@retriever_losses.register("CachedMultipleNegativesRankingLoss")
@dataclass(frozen=True)
class CachedMultipleNegativesRanking:
    """sentence-transformers' loss with gradient caching: batches of any size in the memory of a mini-batch."""

    scale: float = 20.0
    mini_batch_size: int = 32
    gather_across_devices: bool = False
    labelled: ClassVar[bool] = False

    def module(self, model: Any) -> nn.Module:
        """The loss over a model."""
        return _library("CachedMultipleNegativesRankingLoss", model, **vars(self))


@retriever_losses.register("MarginMSELoss")
@dataclass(frozen=True)
class MarginMSE:
    """sentence-transformers' loss: the gaps of dot products to the best candidate are the teacher's."""

    labelled: ClassVar[bool] = True

    def module(self, model: Any) -> nn.Module:
        """The loss over a model."""
        return _library("MarginMSELoss", model)


@retriever_losses.register("DistillKLDivLoss")
@dataclass(frozen=True)
class DistillKLDiv:
    """sentence-transformers' loss: the softmax over a list's dot products is the teacher's."""

    temperature: float = 1.0
    labelled: ClassVar[bool] = True

    def module(self, model: Any) -> nn.Module:
        """The loss over a model."""
        return _library("DistillKLDivLoss", model, **vars(self))


def _library(name: str, model: Any, **options: Any) -> nn.Module:
    from sentence_transformers.sentence_transformer import losses as library

    module: nn.Module = getattr(library, name)(model, **options)
    return module
