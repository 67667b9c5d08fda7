"""The losses of retrievers: their formulas, what padding costs, and names that are unknown."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from sparring.rerank.errors import UsageError
from sparring.train.losses import losses
from sparring.train.retrievers.losses import Encoded, parse

LABELS = [[3.0, 0.0, 1.0], [0.0, 2.0, 0.0], [0.5, 1.0, 0.0]]


MASK = [[True, True, True], [True, True, True], [True, True, False]]


def encoded(seed: int = 0, scale: float = 1.0) -> Encoded:
    """Three lists of three random unit vectors, the last one padded; query 1 may not use list 2."""
    generator = torch.Generator().manual_seed(seed)
    vectors = torch.randn(3, 4, 6, generator=generator, dtype=torch.float64)
    vectors = vectors / vectors.norm(dim=2, keepdim=True)
    mask = torch.tensor(MASK)
    others = mask[None].repeat(3, 1, 1)
    others[range(3), range(3)] = False
    others[1, 2] = False
    documents = vectors[:, 1:] * mask[:, :, None]
    labels = torch.tensor(LABELS, dtype=torch.float64)
    return Encoded(vectors[:, 0], documents, labels, mask, others, lambda a, b: a @ b.T, scale)


def by_hand(e: Encoded, positive: Callable[[int, int], bool], negative: Callable[[int, int], bool]) -> Any:
    """(s(q,p), [s(q,p-)], [s(p,p-)]) of every positive of every list, by loops."""
    rows = []
    for q in range(3):
        found = []
        for i in range(3):
            if MASK[q][i] and positive(q, i):
                against = [e.documents[q, j] for j in range(3) if MASK[q][j] and negative(q, j)]
                against += [e.documents[o, j] for o in range(3) for j in range(3) if e.others[q, o, j]]
                own = float(e.queries[q] @ e.documents[q, i])
                found.append((own, [float(e.queries[q] @ d) for d in against],
                              [float(e.documents[q, i] @ d) for d in against]))  # fmt: skip
        rows.append(found)
    return rows


def cost(own: float, against: list[float]) -> float:
    return -np.log(np.exp(own) / (np.exp(own) + np.exp(against).sum()))


@pytest.mark.parametrize("alpha", [0.0, 0.1, 1.0])
def test_pair_is_its_formula(alpha: float) -> None:
    e = encoded()
    rows = by_hand(e, lambda q, i: LABELS[q][i] >= 1, lambda q, j: LABELS[q][j] < 1)
    terms = [np.mean([(1 - alpha) * cost(s, q) + alpha * cost(s, p) for s, q, p in row]) for row in rows]
    assert float(parse(f"pair(alpha={alpha})")(e)) == pytest.approx(np.mean(terms), abs=1e-6)  # type: ignore[operator]


def test_pair_leaves_out_what_lies_between() -> None:
    e = encoded()
    rows = by_hand(e, lambda q, i: LABELS[q][i] >= 1, lambda q, j: LABELS[q][j] <= 0)
    expected = np.mean([np.mean([0.9 * cost(s, q) + 0.1 * cost(s, p) for s, q, p in row]) for row in rows])
    assert float(parse("pair(negative=0)")(e)) == pytest.approx(expected, abs=1e-6)  # type: ignore[operator]


@pytest.mark.parametrize(("weight", "delta"), [(1.0, 5), (3.0, 1), (0.0, 5), (1.0, 0)])
def test_pair_distill_is_its_formula(weight: float, delta: int) -> None:
    """CE over the batch + KL of lists + λ KL([p, 1-p] || softmax(s_i, s_j)); the list of two is a pair alone."""
    e = encoded()
    best = [0, 1]
    rows = by_hand(e, lambda q, i: q < 2 and i == best[q], lambda q, j: q < 2 and j != best[q])
    contrast = np.mean([cost(s, against) for row in rows for s, against, _ in row])
    own = np.einsum("qd,qnd->qn", e.queries.numpy(), e.documents.numpy())
    point, pairs = [], []
    for q in range(3):
        size = sum(MASK[q])
        s, y = own[q][:size], np.array(LABELS[q][:size])
        if size > 2:
            teacher, student = (np.exp(v) / np.exp(v).sum() for v in (y, s))
            point.append((teacher * np.log(teacher / student)).sum())
        place = np.argsort(np.argsort(-y, kind="stable"), kind="stable")
        terms = []
        for i in range(size):
            for j in range(i + 1, size):
                if size == 2 or abs(place[i] - place[j]) <= delta:
                    p, r = (1 / (1 + np.exp(-(v[i] - v[j]))) for v in (y, s))
                    terms.append(p * np.log(p / r) + (1 - p) * np.log((1 - p) / (1 - r)))
        pairs += [np.mean(terms)] if terms else []
    expected = contrast + np.mean(point) + weight * np.mean(pairs)
    found = parse(f"pair_distill(weight={weight}, delta={delta})")(e)  # type: ignore[operator]
    assert float(found) == pytest.approx(expected, abs=1e-6)


def test_losses_over_lists_see_own_candidates_or_the_batch() -> None:
    e = encoded(scale=20.0)
    own = 20 * torch.einsum("qd,qnd->qn", e.queries, e.documents)
    assert float(parse("kl")(e)) == pytest.approx(float(losses.parse("kl")(own, e.labels, e.mask)))  # type: ignore[operator]
    rows = by_hand(e, lambda q, i: LABELS[q][i] >= 1, lambda q, j: True)
    expected = np.mean(
        [np.mean([-np.log(np.exp(20 * s) / np.exp(20 * np.array(a)).sum()) for s, a, _ in r]) for r in rows]
    )
    assert float(parse("in_batch(infonce)")(e)) == pytest.approx(expected)  # type: ignore[operator]
    for name in ("nce", "multi_similarity(margin=0.1)", "circle(sigmoid=False)"):
        assert torch.isfinite(parse(f"in_batch({name}, scale=1)")(e))  # type: ignore[operator]


@pytest.mark.parametrize(
    "spec", ["kl", "in_batch(infonce)", "pair", "pair_distill", "in_batch(multi_similarity, scale=1)"]
)
def test_padding_costs_nothing(spec: str) -> None:
    e, loss = encoded(scale=5.0), parse(spec)
    wider = replace(
        e,
        documents=torch.nn.functional.pad(e.documents, (0, 0, 0, 2)),
        labels=torch.nn.functional.pad(e.labels, (0, 2), value=9.0),
        mask=torch.nn.functional.pad(e.mask, (0, 2)),
        others=torch.nn.functional.pad(e.others, (0, 2)),
    )
    assert float(loss(wider)) == pytest.approx(float(loss(e)), abs=1e-9)  # type: ignore[operator]


def test_unknown_losses_name_the_nearest() -> None:
    with pytest.raises(UsageError, match="did you mean 'pair_distill'"):
        parse("pair_distil")
    with pytest.raises(UsageError, match="loss must be one over lists"):
        parse("in_batch(pair)")
