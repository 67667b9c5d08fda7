"""Every loss: golden values, gradients, and blindness to padding, to the batch and (where it should be) to shifts."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sparring.rerank.contracts import check_component
from sparring.rerank.errors import UsageError
from sparring.train import contracts
from sparring.train.contracts import Lists
from sparring.train.losses import losses
from sparring.train.losses.listwise import likelihood_terms
from sparring.train.losses.ndcg import neural_sort, soft_ranks
from torch import Tensor

SCORES, LABELS = [2.0, 1.0, 0.5, -1.0], [1.0, 3.0, 0.0, 2.0]
DISTILLED = math.log(0.9 / 0.1)


def call(spec: str, scores: Any, labels: Any, mask: Any = None) -> float:
    s, y = torch.tensor(scores, dtype=torch.float64), torch.tensor(labels, dtype=torch.float64)
    m = torch.ones(y.shape[:2], dtype=torch.bool) if mask is None else torch.tensor(mask)
    return float(losses.parse(spec)(s, y, m))


GOLDEN = [
    ("ranknet", 1.144280),
    ("ranknet(reduction=sum)", 6.865680),
    ("ranknet(log_base='2', reduction=mean)", 1.650847),
    ("hinge", 1.5),
    ("listnet", 1.897832),
    ("listmle", 4.937906),
    ("plistmle", 1.853784),
    ("lambdaloss(weighting=lambdarank)", 0.188670),
    ("lambdaloss(weighting=lambdarank, log_base=e, reduction=sum)", 0.784655),
    ("lambdaloss(weighting=lambdarank, k=2)", 0.227652),
    ("lambdaloss(weighting=lambdarank, k=2, cut=both)", 0.471789),
    ("lambdaloss(weighting=ndcgloss1)", 0.216502),
    ("lambdaloss(weighting=ndcgloss2)", 0.167221),
    ("lambdaloss", 1.860878),
    ("lambdaloss(weighting=none)", 1.650847),
    ("approx_ndcg(alpha=1)", -0.665445),
    ("neural_ndcg", -0.730412),
    ("neural_ndcg(transposed=True)", -0.730412),
    ("adr_mse", 1.292811),
    ("kl", 0.950296),
    ("bce(scale=3)", 0.931882),
    ("mse", 3.5625),
    ("margin_mse", 7.458333),
    ("pro", 4.937906),
]


@pytest.mark.parametrize(("spec", "value"), GOLDEN, ids=[spec for spec, _ in GOLDEN])
def test_golden_value(spec: str, value: float) -> None:
    assert call(spec, [SCORES], [LABELS]) == pytest.approx(value, abs=1e-6)


def test_golden_values_of_other_inputs() -> None:
    probabilities = [float(torch.sigmoid(torch.tensor(s, dtype=torch.float64))) for s in SCORES]
    assert call("lce", [SCORES], [[0, 1, 0, 0]]) == pytest.approx(1.495182, abs=1e-6)
    assert call("infonce", [SCORES], [[0, 1, 0, 0]]) == pytest.approx(1.495182, abs=1e-6)
    circle = "circle(margin=0.25, gamma=10, positive=2"
    assert call(f"{circle})", [SCORES], [LABELS]) == pytest.approx(11.882670, rel=1e-6)
    assert call(f"{circle}, sigmoid=False)", [probabilities], [LABELS]) == pytest.approx(11.882670, rel=1e-6)
    assert call("multi_similarity(positive=2)", [probabilities], [LABELS]) == pytest.approx(0.965081, abs=1e-6)
    assert call("pair_kl", [[1.2, 0.4]], [[DISTILLED, 0]]) == pytest.approx(0.126018, abs=1e-6)
    logit = [math.log(0.8 / 0.2), math.log(0.3 / 0.7)]
    assert call("ccs", [logit], [[0, 0]]) == pytest.approx(0.1, abs=1e-6)


def test_golden_values_on_the_way() -> None:
    scores, labels = torch.tensor([SCORES], dtype=torch.float64), torch.tensor([LABELS], dtype=torch.float64)
    mask = torch.ones(1, 4, dtype=torch.bool)
    np.testing.assert_allclose(
        neural_sort(scores, mask, 1.0)[0, 0], [0.68965, 0.25371, 0.05661, 0.00003], atol=5e-6
    )
    np.testing.assert_allclose(soft_ranks(scores, mask, 1.0)[0], [1.49879, 2.22780, 2.62246, 3.65095], atol=5e-6)
    terms, real = likelihood_terms(scores, labels, mask)
    np.testing.assert_allclose(terms[0], [1.495182, 3.241311, 0.201413, 0], atol=1e-6)
    assert real.all()


# --------------------------------------------------------------------------- values worked out in another way


def test_pair_losses_by_hand() -> None:
    def softplus(x: float) -> float:
        return math.log1p(math.exp(x))

    assert call("pairrm", [[0.5, 1.5]], [[1, 0]]) == pytest.approx(softplus(1.0))
    assert call("pairrm(variant=bce)", [[0.5, 1.5]], [[1, 0]]) == pytest.approx(
        (softplus(-0.5) + softplus(1.5)) / 2
    )
    assert call("pairrm(variant=mse)", [[0.5, 1.5]], [[1, 0]]) == pytest.approx(4.0)
    assert call("pairrm", [[0.5, 1.5], [9.0, 9.0]], [[1, 0], [1, 1]]) == pytest.approx(softplus(1.0))
    expected = 0.9 * softplus(-0.8) + 0.1 * softplus(0.8)
    assert call("pair_logistic", [[1.2, 0.4]], [[DISTILLED, 0]]) == pytest.approx(expected)
    norm = math.exp(1.2) + math.exp(0.4) + 0.5 * math.exp(0.8)
    assert call("davidson(nu=0.5)", [[1.2, 0.4]], [[1, 0]]) == pytest.approx(-math.log(math.exp(1.2) / norm))
    assert call("davidson(nu=0.5)", [[1.2, 0.4]], [[1, 1]]) == pytest.approx(-math.log(0.5 * math.exp(0.8) / norm))


def test_ranklist_by_hand() -> None:
    ordered = [1.0, -1.0, 2.0, 0.5]  # scores in label order
    gaps = {k: [ordered[i] - ordered[i + k] for i in range(4 - k)] for k in (1, 2)}
    smooth = math.log(1 + sum(math.exp(-g) for skip in gaps.values() for g in skip))
    assert call("ranklist(skips=2)", [SCORES], [LABELS]) == pytest.approx(smooth)
    plain = sum(sum(math.log1p(math.exp(-g)) for g in skip) / len(skip) for skip in gaps.values())
    assert call("ranklist(skips=2, smooth=False)", [SCORES], [LABELS]) == pytest.approx(plain)


def test_duplicates_are_worth_nothing() -> None:
    grades, groups = [3, 2, 1, 0], [0, 0, -1, -1]
    labels = [[[g, d] for g, d in zip(grades, groups, strict=True)]]
    # the second is scored above its twin: it takes the twin's grade, the twin is worth 0
    assert call("duplicate_ranknet", [[1.0, 2.0, 0.5, 0.0]], labels) == pytest.approx(
        call("ranknet", [[1.0, 2.0, 0.5, 0.0]], [[0, 3, 1, 0]])
    )


def test_nce_by_hand() -> None:
    shift = math.log(3)
    terms = [math.log1p(math.exp(-(1.0 - shift)))] + [math.log1p(math.exp(s - shift)) for s in (2.0, 0.5, -1.0)]
    assert call("nce", [SCORES], [[0, 1, 0, 0]]) == pytest.approx(sum(terms))


def test_contrast_consistent_ranking_by_hand() -> None:
    scores, labels = [[0.0, 0.5, 3.0]], [[0, 0, 0]]
    assert call("ccr_margin(margin=2)", scores, labels) == pytest.approx(1.5 / 3)
    # distances to the other two: 0.5 and 3, 0.5 and 2.5, 3 and 2.5
    assert call("ccr_triplet(margin=2.25)", scores, labels) == pytest.approx((0.25 + 1.75) / 3)
    sure = [
        [[9e9, 9e9], [9e9, -9e9], [-9e9, -9e9]]
    ]  # a third above both thresholds, a third between, a third below
    assert call("ccr_ordinal", sure, labels) == pytest.approx(0, abs=1e-12)
    assert call("ccr_ordinal", [[[0.0, 0.0]] * 3], labels) == pytest.approx(1 / 36 + 0.25)


def test_cross_entropy_and_ordinal_by_hand() -> None:
    logits = [[[0.5, 1.5], [2.0, -1.0]]]
    expected = (math.log1p(math.exp(-1.0)) + math.log1p(math.exp(-3.0))) / 2
    assert call("cross_entropy", logits, [[1, 0]]) == pytest.approx(expected)
    thresholds = [math.log1p(math.exp(-0.5)) + math.log1p(math.exp(1.5))]
    assert call("ordinal", [[[0.5, 1.5]]], [[1]]) == pytest.approx(thresholds[0])


def test_pro_with_dynamic_temperature_by_hand() -> None:
    scores, labels = [1.0, 0.2, -0.4], [2.0, 1.0, 0.0]  # in label order
    value = 0.0
    for k in range(2):
        gaps = {i: labels[k] - labels[i] for i in range(k + 1, 3)}
        own = scores[k] * max(gaps.values())
        value += math.log(math.exp(own) + sum(math.exp(scores[i] * g) for i, g in gaps.items())) - own
    assert call("pro(dynamic=True)", [scores], [labels]) == pytest.approx(value)


def test_informative_members_of_multi_similarity() -> None:
    scores, labels = [[0.9, 0.2, 0.85, 0.1]], [[1, 1, 0, 0]]
    # kept: the second positive and (barely) the first; of the negatives the one above 0.2 - 0.05
    pull = math.log1p(math.exp(-2 * 0.4) + math.exp(2 * 0.3)) / 2
    push = math.log1p(math.exp(50 * 0.35)) / 50
    assert call("multi_similarity(margin=0.06)", scores, labels) == pytest.approx(pull + push)


def _brute(worth: np.ndarray, size: int) -> float:
    return max(sum(worth[a, b] for a, b in itertools.pairwise(p)) for p in itertools.permutations(range(size)))


@pytest.mark.parametrize("size", [2, 3, 5])
def test_global_tour_is_the_margin_to_the_best_path(size: int) -> None:
    rng = np.random.default_rng(size)
    worth, labels = rng.normal(size=(size, size)), rng.permutation(size).astype(float)
    gold = np.argsort(-labels)
    adjacency = np.zeros((size, size))
    adjacency[gold[:-1], gold[1:]] = 1
    expected = (_brute(worth + 1 - adjacency, size) - (worth * adjacency).sum()) / size
    assert call("tsprank_global", [worth.tolist()], [labels.tolist()]) == pytest.approx(expected)


def test_local_tour_by_hand() -> None:
    worth = [[9.0, 1.0, 2.0], [0.5, 9.0, 0.1], [0.3, 0.2, 9.0]]
    first = math.log(math.exp(1) + math.exp(2)) - 1.0
    second = math.log(math.exp(0.5) + math.exp(0.1)) - 0.1
    expected = first + second / math.log2(3)
    assert call("tsprank_local", [worth], [[2, 1, 0]]) == pytest.approx(expected)


def test_long_tours_are_never_below_zero() -> None:
    rng = np.random.default_rng(0)
    worth = rng.normal(size=(1, 20, 20)).tolist()
    assert call("tsprank_global", worth, [list(range(20))]) >= 0


def test_mix_adds_a_weighted_second_loss() -> None:
    both = call("kl", [SCORES], [LABELS]) + 0.25 * call("hinge(margin=2)", [SCORES], [LABELS])
    assert call("mix(kl, hinge(margin=2), weight=0.25)", [SCORES], [LABELS]) == pytest.approx(both)
    with pytest.raises(UsageError, match="first and second must be losses"):
        losses.parse("mix(kl, 3)")


# ------------------------------------------------------------------------------------------ contracts over all

PAIRS = {"pairrm", "ccs"}
UNLABELLED = {"ccs", "ccr_margin", "ccr_triplet", "ccr_ordinal"}
ALL = [name if name != "mix" else "mix(kl, margin_mse, weight=0.1)" for name in losses.names()]
VARIANTS = [f"lambdaloss(weighting={w})" for w in ("lambdarank", "ndcgloss1", "ndcgloss2", "none")]
VARIANTS += [f"lambdaloss(k=3, cut={cut}, reduction=list_mean)" for cut in ("either", "both")]
VARIANTS += [
    "neural_ndcg(transposed=True, k=2, iterations=5)",
    "pro(dynamic=True)",
    "ranklist(smooth=False)",
    "circle(sigmoid=False)",
]
VARIANTS += [
    "multi_similarity(margin=0.1)",
    "ranknet(reduction=mean)",
    "pairrm(variant=bce)",
    "pairrm(variant=mse)",
]


def twins(labels: Tensor, generator: torch.Generator) -> Tensor:
    """Grades with the group of duplicates that a candidate belongs to, -1 for none."""
    return torch.stack([labels, torch.randint(-1, 2, labels.shape, generator=generator).double()], 2)


SHAPES = {
    "cross_entropy": Lists((3,)),
    "ordinal": Lists((3,)),
    "ccr_ordinal": Lists((3,)),
    "tsprank_local": Lists(("n",)),
    "tsprank_global": Lists(("n",)),
    "pairrm": Lists(width=2),
    "ccs": Lists(width=2),
    "bce": Lists(labels=lambda labels, _: labels / 2),
    "duplicate_ranknet": Lists(labels=twins),
}


def lists_of(spec: str) -> Lists:
    return SHAPES.get(spec.partition("(")[0], Lists())


@pytest.mark.parametrize("spec", ALL + VARIANTS)
def test_gradients(spec: str) -> None:
    # neural_ndcg stops by tolerance, where a step of finite differences would see a jump
    loss = losses.parse("neural_ndcg(iterations=4)" if spec == "neural_ndcg" else spec)
    # the weights of circle have no gradient, so finite differences see more
    contracts.check_gradient(loss, lists_of(spec), smooth=not spec.startswith("circle"))


@pytest.mark.parametrize("spec", ALL + VARIANTS)
@pytest.mark.parametrize("filler", [1e9, math.nan])
def test_padding_never_changes_a_value(spec: str, filler: float) -> None:
    contracts.check_padding(losses.parse(spec), lists_of(spec), filler)


@pytest.mark.parametrize("spec", ALL + VARIANTS)
def test_empty_lists_and_extremes_are_finite(spec: str) -> None:
    contracts.check_extremes(losses.parse(spec), lists_of(spec))


LIST_MEANS = [
    spec for spec in ALL + VARIANTS
    if "reduction=mean" not in spec
    and spec.partition("(")[0] not in {"bce", "cross_entropy", "mse", "ordinal", "pairrm"}
    and (not spec.startswith("lambdaloss") or "list_mean" in spec)
]  # fmt: skip


@pytest.mark.parametrize("spec", LIST_MEANS)
def test_a_batch_is_the_mean_of_its_lists(spec: str) -> None:
    contracts.check_list_mean(losses.parse(spec), lists_of(spec))


POINTWISE = {"bce", "mse", "ordinal", "cross_entropy", "circle", "multi_similarity", "nce", "ccs", "ccr_ordinal"}


@pytest.mark.parametrize("spec", [s for s in ALL if s.partition("(")[0] not in POINTWISE | {"pairrm", "pro"}])
def test_relative_losses_do_not_see_a_shift(spec: str) -> None:
    contracts.check_shift(losses.parse(spec), lists_of(spec))


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 10**6), spec=st.sampled_from([s for s in ALL + VARIANTS if "mle" not in s]))
def test_order_of_candidates_does_not_matter(seed: int, spec: str) -> None:
    name = spec.partition("(")[0]
    if name in PAIRS | {"pro", "ranklist", "tsprank_local", "tsprank_global", "duplicate_ranknet"}:
        return  # these break ties by position
    contracts.check_order(losses.parse(spec), lists_of(spec), seed)


@pytest.mark.parametrize("spec", [s for s in ALL if s.partition("(")[0] not in UNLABELLED | {"cross_entropy"}])
def test_the_right_order_costs_less(spec: str) -> None:
    name = spec.partition("(")[0]
    if name in {"tsprank_local", "tsprank_global", "ordinal", "pairrm", "duplicate_ranknet", "mse", "margin_mse"}:
        return  # compared in tests of their own
    labels = torch.tensor([[2.0, 1.0, 1.0, 0.0]], dtype=torch.float64) / (2 if name == "bce" else 1)
    scores = torch.tensor([[3.0, 1.0, 0.5, -2.0]], dtype=torch.float64)
    mask = torch.ones(1, 4, dtype=torch.bool)
    loss = losses.parse(spec)
    assert loss(scores, labels, mask) < loss(scores.flip(1), labels, mask)


@pytest.mark.parametrize("spec", ALL + VARIANTS)
def test_specs_round_trip(spec: str) -> None:
    check_component(losses.parse(spec), losses)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("lamdaloss", "did you mean 'lambdaloss'"),
        ("lambdaloss(weighting=ndcg2)", "ndcgloss2"),
        ("lambdaloss(k=0)", "k must be at least 1"),
        ("davidson(nu=0)", "nu must be above 0"),
        ("neural_ndcg(tau=0)", "tau must be above 0"),
    ],
)
def test_bad_specs_are_usage_errors(spec: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        losses.parse(spec)
