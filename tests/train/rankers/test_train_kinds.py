"""One contract for every family of rankers: it learns, it is what it saves, and it goes on where it was stopped."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from scipy.special import expit
from sparring.rerank import registry
from sparring.rerank.cli import main
from sparring.rerank.executors.open import open_scorer
from sparring.rerank.models.attention.post_norm import PostNormEncoder
from sparring.rerank.models.loading import load
from sparring.rerank.vocabulary import Candidates, Groups
from sparring.train.data.collator import Collator, sampled_pairs
from sparring.train.data.mixture import Example
from sparring.train.data.near_duplicates import near_duplicates
from sparring.train.loop.development import TrainedScorer
from sparring.train.losses import losses
from sparring.train.rankers.kinds import Start, kinds
from sparring.train.rankers.ranker import Ranker
from sparring.train.rankers.set_encoder import DetectDuplicates
from tiny_models import save_classifier, sentence
from tiny_training import arguments, log_of, save_start, write_collection

KINDS = {  # what is trained: from what, with which loss
    "pointwise": ("bert", "ranknet"),
    "t5": ("t5", "bce(scale=3)"),
    "t5(kind=duo)": ("t5", "ranknet"),
    "duo": ("electra", "pair_logistic"),
    "pair_rm": ("deberta-v2", "pairrm"),
    "late_pair(rank=4)": ("bert", "davidson"),
    "set_encoder": ("bert", "listnet"),
    "set_encoder(interaction=int, duplicates=0.2)": ("electra", "ranknet"),
    "list_head(width=16, feed=16)": ("bert", "listnet"),
    "list_con_ranker": ("bert", "listnet"),
}
SLOW = ("t5(kind=duo)", "pair_rm", "list_con_ranker", "list_head(width=16, feed=16)", "duo")
MORE = {  # other checkpoints that the same kinds start from
    "pointwise": ("deberta-v2", "modernbert"),
    "late_pair": ("electra", "xlm-roberta", "modernbert"),
    "set_encoder(interaction=int)": ("xlm-roberta",),
    "duo": ("bert", "roberta"),
    "t5(kind=rank)": ("t5",),
    "list_con_ranker": ("xlm-roberta",),
}
STARTS = {
    "bert",
    "xlm-roberta",
    *(start for start, _ in KINDS.values()),
    *(start for all_ in MORE.values() for start in all_),
}
PLACES = [
    *((spec, start) for spec, (start, _) in KINDS.items()),
    *(pytest.param(spec, start, marks=pytest.mark.slow) for spec, all_ in MORE.items() for start in all_),
]


def test_every_kind_is_tested() -> None:
    assert {spec.partition("(")[0] for spec in KINDS} == set(kinds.names())


@pytest.fixture(scope="module")
def starts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("starts")
    return {name: save_start(folder / name, name) for name in STARTS}


@pytest.fixture(scope="module")
def collection(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_collection(tmp_path_factory.mktemp("collection"))


def topic(count: int, seed: int) -> Candidates:
    """A query with passages of different lengths, the best first."""
    rng = random.Random(seed)
    texts = tuple(sentence(rng, rng.randint(3, 20)) for _ in range(count))
    docids = tuple(f"d{i}" for i in range(count))
    return Candidates(f"q{seed}", sentence(rng, 3), docids, texts, np.arange(count, 0, -1.0))


def everything(ranker: Ranker, topics: list[Candidates]) -> list[Groups]:
    """All groups of the ranker's width."""
    if ranker.layout.width == 1:
        return [np.arange(len(t), dtype=np.int32)[:, None] for t in topics]
    if ranker.layout.width is None:
        return [np.arange(len(t), dtype=np.int32)[None] for t in topics]
    return [np.array([(i, j) for i in range(len(t)) for j in range(len(t)) if i != j], np.int32) for t in topics]


def said(ranker: Ranker, topics: list[Candidates]) -> np.ndarray:
    """All outcomes of a ranker in memory."""
    collator = Collator(ranker.tokenizer, ranker.layout, 100)
    with torch.inference_mode():
        outcomes = TrainedScorer(ranker.eval(), collator)(topics, everything(ranker, topics))
    return np.concatenate([values.ravel() for values in outcomes])


@pytest.mark.parametrize(("spec", "start"), PLACES)
def test_the_saved_folder_is_the_ranker_in_memory(
    spec: str, start: str, starts: dict[str, Path], tmp_path: Path
) -> None:
    kind, topics = kinds.parse(spec), [topic(4, 1), topic(6, 2)]
    assert str(kinds.parse(str(kind))) == str(kind)
    torch.manual_seed(0)
    ranker = kind.start(Start(str(starts[start]), 64))
    with torch.no_grad():  # as training moves every weight
        for parameter in ranker.parameters():
            parameter += 0.02 * parameter.abs().mean() * torch.randn_like(parameter)
    ranker.save(tmp_path / "saved")
    ours = said(ranker, topics)
    assert np.std(ours) > 1e-3
    scorer = open_scorer(load(str(tmp_path / "saved")), device="cpu", dtype="float32", progress=False)
    loaded = np.concatenate([values.ravel() for values in scorer(topics, everything(ranker, topics))])
    np.testing.assert_allclose(loaded, ours, atol=1e-5)
    again = kind.start(Start(str(tmp_path / "saved"), 64))
    np.testing.assert_allclose(said(again, topics), ours, atol=1e-6)
    with torch.no_grad():
        for parameter in again.parameters():
            parameter.zero_()
    again.load(tmp_path / "saved")
    np.testing.assert_allclose(said(again, topics), ours, atol=1e-6)


@pytest.mark.parametrize("spec", [pytest.param(k, marks=[pytest.mark.slow] * (k in SLOW)) for k in KINDS])
def test_it_learns_and_goes_on_where_it_was_stopped(
    spec: str, starts: dict[str, Path], collection: Path, tmp_path: Path
) -> None:
    start, loss = KINDS[spec]
    output = tmp_path / "model"
    rate, steps = (5e-4, 40) if start == "t5" else (1e-3, 8)  # T5 starts with large embeddings
    flags = [f"--family={spec}", f"--loss={loss}", f"--max-steps={steps}", "--dev-depth=6"]
    flags += [f"--eval-steps={steps // 2}", f"--save-steps={steps // 2}", "--per-device-train-batch-size=6"]
    flags += [f"--learning-rate={rate}", f"--head-learning-rate={3 * rate}", "--warmup-ratio=0"]
    command = arguments(collection, starts[start], output, *flags)
    assert main(command) == 0
    rows, last = log_of(output), output / "checkpoints" / f"checkpoint-{steps}"
    assert [int(row["step"]) for row in rows if row["value"]] == [0, steps // 2, steps]
    values, constant = (np.array([float(r[c]) for r in rows if r["loss"]]) for c in ("loss", "constant_loss"))
    part = 3 * steps // 8
    if spec != "t5(kind=duo)":  # two passages in one random T5 take far more steps to tell apart
        assert (values / constant)[-part:].mean() < (values / constant)[:part].mean()
    weights = {path.name: load_file(path) for path in last.glob("*.safetensors")}
    shutil.rmtree(last)  # stopped before it was written
    assert main([*command[:1], "--resume", *command[1:]]) == 0
    assert [row["loss"][:6] for row in log_of(output)] == [row["loss"][:6] for row in rows]
    for name, tensors in weights.items():
        resumed = load_file(last / name)
        for key, value in tensors.items():
            torch.testing.assert_close(resumed[key], value, rtol=0, atol=1e-6)


@pytest.mark.parametrize("spec", ["pointwise", "late_pair(rank=3)", "set_encoder"])
@pytest.mark.parametrize("architecture", ["bert", "electra", "xlm-roberta"])
def test_the_lean_forward_pass_has_the_gradients_of_transformers_own(
    spec: str, architecture: str, starts: dict[str, Path]
) -> None:
    topics, gradients, passes = [topic(4, 1), topic(6, 2)], [], []
    for dropout in (0.0, 1e-9):  # what may drop something goes through transformers' own modules
        torch.manual_seed(0)
        ranker = kinds.parse(spec).start(Start(str(starts[architecture]), 64, dropout=dropout)).train()
        inputs = Collator(ranker.tokenizer, ranker.layout, 100).inputs(topics, everything(ranker, topics))
        ranker(inputs["batches"], inputs["order"], inputs["table"]).square().sum().backward()
        gradients.append({name: p.grad for name, p in ranker.named_parameters() if p.grad is not None})
        passes.append(type(ranker.model.body))
    assert passes[0] is PostNormEncoder and passes[1] is not PostNormEncoder
    lean, own = gradients
    assert lean.keys() == own.keys() and any(value.abs().max() > 1e-4 for value in own.values())
    for name, value in own.items():
        torch.testing.assert_close(lean[name], value, rtol=1e-4, atol=1e-5)


# ------------------------------------------------------------------------------------------------------------ pairs


@pytest.mark.parametrize("architecture", ["bert", "electra", "xlm-roberta"])
@pytest.mark.parametrize("labels", [1, 2])
def test_late_pairs_start_as_the_pointwise_model(architecture: str, labels: int, tmp_path: Path) -> None:
    folder = save_classifier(tmp_path / "m", architecture, labels)
    one = topic(6, 3)
    pairs = np.array([(i, j) for i in range(6) for j in range(6) if i != j], np.int32)
    pointwise = open_scorer(load(str(folder)), device="cpu", dtype="float32", progress=False)
    scores = pointwise([one], [np.arange(6, dtype=np.int32)[:, None]])[0][:, 0]
    ranker = kinds.parse("late_pair(rank=3)").start(Start(str(folder)))
    found = said(ranker, [one])
    np.testing.assert_allclose(found, expit(scores[pairs[:, 0]] - scores[pairs[:, 1]]), atol=1e-6)
    assert np.std(found) > 0.005


def test_a_frozen_encoder_stays_and_the_skew_form_learns(starts: dict[str, Path]) -> None:
    ranker = kinds.parse("late_pair(rank=3, freeze=True)").start(Start(str(starts["bert"]), dropout=0.3)).train()
    collator = Collator(ranker.tokenizer, ranker.layout, 100, registry.schedules.parse("all"))
    one = topic(5, 4)
    inputs = collator([Example(one.qid, one.query, one.docids, one.texts, one.scores.astype(np.float32))])
    batches, order, table = (inputs[key] for key in ("batches", "order", "table"))
    scores = ranker(batches, order, table)
    assert torch.equal(scores, ranker(batches, order, table))  # no dropout in what does not learn
    losses.parse("ranknet")(scores, inputs["labels"], inputs["mask"]).backward()
    assert all(parameter.grad is None for parameter in ranker.body.parameters())
    right = ranker.head.right.weight
    assert float(right.detach().abs().max()) == 0 < float(right.grad.abs().max())


@pytest.mark.parametrize("sampler", ["all", "random(rate=0.05)", "neighbours(delta=1)", "mergesort", "swiss"])
def test_pairs_are_sampled_the_same_way_every_time(sampler: str) -> None:
    schedule, one = registry.schedules.parse(sampler), topic(9, 5)
    shuffled = np.random.default_rng(0).permutation(9)
    one = Candidates(one.qid, one.query, one.docids, one.texts, shuffled.astype(np.float64))
    pairs = sampled_pairs(schedule, one, 1)
    assert np.array_equal(pairs, sampled_pairs(schedule, one, 1))
    assert (pairs[:, 0] != pairs[:, 1]).all() and len(pairs) >= 1
    if sampler == "all":
        assert len({tuple(pair) for pair in pairs.tolist()}) == 72
    if sampler.startswith("neighbours"):
        assert (np.abs(one.scores[pairs[:, 0]] - one.scores[pairs[:, 1]]) == 1).all()
        assert (one.scores[pairs[:, 0]] > one.scores[pairs[:, 1]]).any()
        assert (one.scores[pairs[:, 0]] < one.scores[pairs[:, 1]]).any()
    few = Candidates("q", "x", ("a", "b"), ("t", "u"), np.array([1.0, 0.0]))
    assert len(sampled_pairs(registry.schedules.parse("random(rate=0.05)"), few, 0)) == 1


# ------------------------------------------------------------------------------------------------------------ lists


def test_duplicates_are_detected_beside_the_ranking() -> None:
    scores = torch.tensor([[[0.5, 2.0], [0.1, -1.0], [0.3, 0.4], [0.5, 1.0]]])
    labels = torch.tensor([[[2.0, 1.0], [0.0, 0.0], [1.0, 0.0], [2.0, 2.0]]])
    mask = torch.ones(1, 4, dtype=torch.bool)
    ranknet = losses.parse("ranknet")
    ranking = ranknet(scores[:, :3, 0], labels[:, :3, 0], mask[:, :3])
    logits, twin = scores[0, :, 1].numpy(), np.array([1, 0, 0, 1])
    detection = np.where(twin, np.logaddexp(0, -logits) * (4 - 2) / 2, np.logaddexp(0, logits)).mean()
    found = DetectDuplicates(ranknet, 0.5)(scores, labels, mask)
    assert float(found) == pytest.approx(float(ranking) + 0.5 * detection, abs=1e-6)
    padded = torch.cat([scores, torch.full((1, 2, 2), 7.0)], dim=1)
    more = DetectDuplicates(ranknet, 0.5)(
        padded, torch.cat([labels, torch.zeros(1, 2, 2)], dim=1), torch.cat([mask, torch.zeros(1, 2) > 0], dim=1)
    )
    assert float(more) == pytest.approx(float(found), abs=1e-6)


def test_near_duplicates_are_complete_linkage_clusters() -> None:
    texts = ["a b c d", "a b c e", "x y z", "a b q r s t", "X y z w", "", "", "lonely"]
    groups = near_duplicates(texts)
    assert groups[0] == groups[1] != groups[2] == groups[4] and (groups[[3, 5, 6, 7]] == -1).all()
    # a chain: neighbours are close, the ends are not, so that the three are no one group
    chain = near_duplicates(["a b c d", "b c d e", "c d e f"], 0.5)
    assert len(set(chain.tolist())) == 2
    assert near_duplicates(["one"]).tolist() == [-1]


def test_a_set_encoder_learns_novelty(starts: dict[str, Path]) -> None:
    ranker = kinds.parse("set_encoder").start(Start(str(starts["bert"]))).train()
    collator = Collator(ranker.tokenizer, ranker.layout, 10_000, novelty=True)
    one, other = topic(4, 9), topic(3, 10)
    texts = (*one.texts[:3], one.texts[0] + " small")
    examples = [
        Example(t.qid, t.query, t.docids, all_, t.scores.astype(np.float32))
        for t, all_ in ((one, texts), (other, other.texts))
    ]
    inputs = collator(examples)
    groups = inputs["labels"][..., 1]
    assert groups[0, 0] == groups[0, 3] >= 0 and (groups[1] == -1).all()
    scores = ranker(inputs["batches"], inputs["order"], inputs["table"])
    losses.parse("duplicate_ranknet")(scores, inputs["labels"], inputs["mask"]).backward()
    gradients = [weights.grad for weights in ranker.parameters() if weights.grad is not None]
    assert all(gradient.isfinite().all() for gradient in gradients)
    assert sum(float(gradient.abs().sum()) for gradient in gradients) > 0


def test_a_list_with_a_twin_is_one_longer(starts: dict[str, Path]) -> None:
    ranker = kinds.parse("set_encoder(duplicates=0.5)").start(Start(str(starts["bert"]), dropout=0.0)).train()
    collator = Collator(ranker.tokenizer, ranker.layout, 10_000)
    lists = [topic(5, 6), topic(3, 7)]
    inputs = collator([Example(t.qid, t.query, t.docids, t.texts, t.scores.astype(np.float32)) for t in lists])
    assert inputs["mask"].sum(dim=1).tolist() == [6, 4]
    assert inputs["labels"][..., 1].sum(dim=1).tolist() == [3, 3]
    scores = ranker(inputs["batches"], inputs["order"], inputs["table"])
    for row, kinds_of in zip(scores, inputs["labels"][..., 1], strict=True):
        first, second = row[kinds_of == 1][0], row[kinds_of == 2][0]
        torch.testing.assert_close(first, second, rtol=0, atol=1e-5)  # what stands twice scores twice the same


def test_a_set_encoder_of_first_tokens_is_a_cross_encoder_elsewhere(
    starts: dict[str, Path], tmp_path: Path
) -> None:
    from sentence_transformers import CrossEncoder
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    ranker = kinds.parse("set_encoder").start(Start(str(starts["bert"]), 64))
    ranker.save(tmp_path / "m")
    one = topic(4, 8)
    alone = [Candidates("q", one.query, ("d",), (text,), np.zeros(1)) for text in one.texts]
    ours = said(ranker, alone)
    pairs = [(one.query, text) for text in one.texts]
    tokens = AutoTokenizer.from_pretrained(tmp_path / "m")(
        *map(list, zip(*pairs, strict=True)), padding=True, return_tensors="pt"
    )
    with torch.inference_mode():
        plain = AutoModelForSequenceClassification.from_pretrained(tmp_path / "m").eval()(**tokens).logits[:, 0]
    np.testing.assert_allclose(ours, plain.numpy(), atol=1e-5)
    np.testing.assert_allclose(ours, CrossEncoder(str(tmp_path / "m"), device="cpu").predict(pairs), atol=1e-5)
