"""Every loss is trained with every kind that gives it what it takes; all other pairs are refused in one line."""

from __future__ import annotations

import random
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from sparring.rerank import registry
from sparring.rerank.cli import main
from sparring.rerank.errors import UsageError
from sparring.train.data.collator import Collator
from sparring.train.data.mixture import Example
from sparring.train.loop.fit import check_loss
from sparring.train.loop.trainer import RankingTrainer
from sparring.train.losses import input_of, losses
from sparring.train.losses.tours import successor_scores
from sparring.train.rankers.kinds import Start, kinds
from sparring.train.rankers.ranker import Ranker
from sparring.train.retrievers.losses import parse
from tiny_models import save_classifier, sentence
from tiny_training import arguments, save_start, write_collection
from transformers import TrainingArguments

LOSSES = [name if name != "mix" else "mix(kl, margin_mse)" for name in losses.names()]
KINDS = {
    "pointwise": "bert",
    "t5": "t5",
    "t5(kind=duo)": "t5",
    "duo": "electra",
    "pair_rm": "deberta-v2",
    "late_pair(rank=4)": "bert",
    "set_encoder": "bert",
    "set_encoder(duplicates=0.2)": "bert",
    "list_head(width=16, feed=16)": "bert",
    "list_con_ranker": "bert",
}
PAIRS = {"t5(kind=duo)", "duo", "pair_rm", "late_pair(rank=4)"}
SAMPLE = {
    *(("pointwise", loss) for loss in ("bce", "kl", "lambdaloss", "ranknet", "cross_entropy", "tsprank_local")),
    *(("late_pair(rank=4)", loss) for loss in ("tsprank_local", "tsprank_global", "pairrm", "ccs", "kl")),
    ("duo", "tsprank_local"),
    ("set_encoder(duplicates=0.2)", "duplicate_ranknet"),
    ("set_encoder(duplicates=0.2)", "listmle"),
}
ALL = [
    pytest.param(kind, loss, marks=[pytest.mark.slow] * ((kind, loss) not in SAMPLE))
    for kind, loss in product(KINDS, LOSSES)
]


@pytest.fixture(scope="module")
def rankers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Ranker]:
    """A ranker of every kind, made when it is first asked for."""
    folder = tmp_path_factory.mktemp("starts")

    class Rankers(dict[str, Ranker]):
        def __missing__(self, kind: str) -> Ranker:
            start = folder / KINDS[kind]
            if not start.exists():
                save_start(start, KINDS[kind])
            self[kind] = kinds.parse(kind).start(Start(str(start), 64))
            return self[kind]

    return Rankers()


def example(seed: int, size: int) -> Example:
    rng = random.Random(seed)
    labels = np.array([3, 0, 1, 2][:size], np.float32)
    names = tuple(f"d{place}" for place in range(size))
    return Example(f"q{seed}", sentence(rng, 2), names, tuple(sentence(rng, 6) for _ in names), labels)


def fits(kind: str, loss: str, size: int = 4) -> bool:
    """Whether they should go together."""
    takes, pairs, twins = input_of(losses.parse(loss)), kind in PAIRS, "duplicates" in kind
    return {
        "lists": True,
        "pairs": pairs or (size == 2 and not twins),
        "successors": pairs,
        "classes": False,
        "near_duplicates": not pairs and not twins,
    }[takes]


def one_step(ranker: Ranker, loss: str, size: int, folder: Path) -> float:
    component = losses.parse(loss)
    pairs = ranker.layout.width == 2
    sampler = registry.schedules.parse("all") if pairs else None
    novelty = input_of(component) == "near_duplicates"
    collator = Collator(ranker.tokenizer, ranker.layout, 200, sampler, 0, novelty)
    asked = TrainingArguments(
        output_dir=str(folder), per_device_train_batch_size=2, max_steps=1, use_cpu=True, report_to="none",
        save_strategy="no", logging_strategy="no", disable_tqdm=True, remove_unused_columns=False, learning_rate=1e-5,
    )  # fmt: skip
    lists = [example(seed, size) for seed in range(2)]
    trainer = RankingTrainer(
        ranker,
        asked,
        lists,
        collator,
        component,
        output=folder,
        head_learning_rate=1e-5,  # type: ignore[arg-type]
    )
    return float(trainer.train().training_loss)


def test_every_kind_is_here() -> None:
    assert {kind.partition("(")[0] for kind in KINDS} == set(kinds.names())
    assert all(
        any(fits(kind, loss) for kind in KINDS) for loss in LOSSES if input_of(losses.parse(loss)) != "classes"
    )


@pytest.mark.parametrize(("kind", "loss"), ALL)
def test_a_loss_is_trained_or_refused(kind: str, loss: str, rankers: dict[str, Ranker], tmp_path: Path) -> None:
    ranker = rankers[kind]
    if fits(kind, loss):
        check_loss(losses.parse(loss), kind, ranker.layout, 4)
        assert np.isfinite(one_step(ranker, loss, 4, tmp_path))
        return
    with pytest.raises(UsageError, match="^--loss ") as caught:
        check_loss(losses.parse(loss), kind, ranker.layout, 4)
    assert "\n" not in str(caught.value) and kind in str(caught.value)


@pytest.mark.parametrize("loss", ["pairrm", "ccs"])
def test_lists_of_two_are_pairs(loss: str, rankers: dict[str, Ranker], tmp_path: Path) -> None:
    check_loss(losses.parse(loss), "pointwise", rankers["pointwise"].layout, 2)
    assert np.isfinite(one_step(rankers["pointwise"], loss, 2, tmp_path))


def test_pairs_become_successor_scores() -> None:
    """Two lists of three and two; both orders of a pair are averaged, and what was not asked is 0."""
    members = torch.tensor([[0, 1], [1, 0], [1, 2], [1, 0]])
    owner = torch.tensor([0, 0, 0, 1])
    scores = torch.tensor([[2.0, 1.0], [0.0, 3.0], [0.5, 0.0], [1.0, -1.0]], requires_grad=True)
    labels = torch.tensor([[5.0, 6.0], [6.0, 5.0], [6.0, 7.0], [1.0, 0.0]])
    worth, found, mask = successor_scores(scores, labels, owner, members)
    assert worth[0].tolist() == [[0, 2, 0], [-2, 0, 0.5], [0, -0.5, 0]]
    assert worth[1].tolist() == [[0, -2, 0], [2, 0, 0], [0, 0, 0]]
    assert found.tolist() == [[5, 6, 7], [0, 1, 0]] and mask.tolist() == [[True] * 3, [True, True, False]]
    worth.sum().backward()
    assert scores.grad is not None


@pytest.mark.parametrize("loss", ["tsprank_local", "cross_entropy", "duplicate_ranknet", "pairrm"])
def test_retrievers_refuse_what_they_cannot_give(loss: str) -> None:
    with pytest.raises(UsageError, match=f"--loss {loss} takes"):
        parse(loss, 4)
    with pytest.raises(UsageError, match="loss must be one over lists"):
        parse(f"in_batch({loss})", 4)


def test_the_command_trains_tours_and_refuses_before_work(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "data").mkdir()
    collection, start = write_collection(tmp_path / "data"), save_classifier(tmp_path / "start", "bert")
    short = ["--max-steps=1", "--eval-steps=1", "--dev-depth=4"]
    for flags, message in (
        (["--loss=tsprank_local"], "pointwise compares no pairs"),
        (["--loss=tsprank_global", "--family=late_pair", "--sampler=random"], "looks at every pair of a list"),
        (["--loss=ordinal"], "takes a score per class or threshold"),
    ):
        assert main(arguments(collection, start, tmp_path / "no", *short, *flags)) == 2
        assert message in capsys.readouterr().err and not (tmp_path / "no").exists()
    command = arguments(collection, start, tmp_path / "m", *short, "--loss=tsprank_global", "--family=late_pair")
    assert main(command) == 0
    assert (tmp_path / "m" / "model.safetensors").is_file()
