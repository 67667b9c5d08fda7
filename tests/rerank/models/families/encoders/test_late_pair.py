"""Late pairs: the formula on the encoder's states, antisymmetric, each candidate encoded once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from sparring.rerank.errors import InputError, MissingResourceError, SparringError, UsageError
from sparring.rerank.executors.open import open_scorer
from sparring.rerank.models.loading import load
from sparring.rerank.models.pair_head import PairHead
from sparring.rerank.vocabulary import Scorer
from tiny_models import save_classifier, tiny_topics
from tiny_pairs import PAIRS, logit, save_late_pair


@pytest.mark.parametrize("kind", ["electra", "bert", "xlm-roberta", "modernbert"])
def test_late_pair_equals_its_formula_on_the_encoders_states(tmp_path: Path, kind: str) -> None:
    from transformers import AutoModel, AutoTokenizer

    folder = save_late_pair(tmp_path / kind, kind)
    topic = tiny_topics(1, 5)[0]
    found = open_scorer(load(str(folder)), device="cpu", dtype="float32", token_budget=60)([topic], [PAIRS])[0]
    body = AutoModel.from_pretrained(folder, attn_implementation="eager").eval()
    encoded = AutoTokenizer.from_pretrained(folder)(
        [topic.query] * 5, list(topic.texts), padding=True, return_tensors="pt"
    )
    weights = {
        name: tensor.double().numpy() for name, tensor in load_file(folder / "pair_head.safetensors").items()
    }
    with torch.inference_mode():
        states = body(**encoded).last_hidden_state[:, 0].double().numpy()
    z = np.tanh(states @ weights["dense.weight"].T + weights["dense.bias"])
    left, right = z @ weights["left.weight"].T, z @ weights["right.weight"].T
    utility = (z @ weights["utility.weight"].T)[:, 0]
    expected = [utility[i] - utility[j] + left[i] @ right[j] - right[i] @ left[j] for i, j in PAIRS]
    np.testing.assert_allclose(logit(found), expected, atol=1e-5)
    head = PairHead.load(folder, states.shape[1])
    with torch.inference_mode():
        table = head(torch.from_numpy(states).float()).numpy()
    np.testing.assert_allclose(table[PAIRS[:, 0], PAIRS[:, 1]], expected, atol=1e-5)
    assert (table == -table.T).all() and np.std(expected) > 0.05


def test_late_pair_is_antisymmetric_and_encodes_each_candidate_once(tmp_path: Path) -> None:
    model = load(str(save_late_pair(tmp_path / "m")))
    scorer = open_scorer(model, device="cpu", dtype="float32")
    assert isinstance(scorer, Scorer) and scorer.width == 2
    topics = tiny_topics(3, 5)
    heard: list[tuple[int, int, float]] = []
    outcomes = scorer(
        topics, [PAIRS, PAIRS[:0], PAIRS[:3]], lambda t, r, o: heard.extend(zip(t, r, o, strict=True))
    )
    table = np.full((5, 5), 0.5)
    table[PAIRS[:, 0], PAIRS[:, 1]] = outcomes[0]
    np.testing.assert_allclose(table + table.T, 1, atol=1e-15)
    assert [len(o) for o in outcomes] == [20, 0, 3] and len(heard) == 23
    assert all(outcomes[t][r] == o for t, r, o in heard)
    stats = scorer.stats
    assert (stats.groups, stats.sequences) == (23, 5 + len(np.unique(PAIRS[:3])))
    scorer(topics, [PAIRS[::-1]] * 3)
    assert (stats.groups, stats.sequences) == (83, 15)
    known = [np.full(20, np.nan), np.full(20, np.nan), np.full(20, 0.25)]
    assert (scorer(topics, [PAIRS] * 3, known=known)[2] == 0.25).all()


def test_late_pair_does_not_depend_on_the_batch(tmp_path: Path) -> None:
    model = load(str(save_late_pair(tmp_path / "m", "bert")))
    topics, groups = tiny_topics(2, 5), [PAIRS, PAIRS]
    alone, together = (
        np.concatenate(open_scorer(model, device="cpu", dtype="float32", token_budget=budget)(topics, groups))
        for budget in (1, 5000)
    )
    np.testing.assert_allclose(alone, together, atol=1e-6)


def test_late_pair_vectors_that_say_nothing_stop_the_run(tmp_path: Path) -> None:
    folder = save_late_pair(tmp_path / "m")
    head = PairHead(32, 6, 3)
    torch.nn.init.zeros_(head.dense.weight)
    head.save(folder)
    with pytest.raises(SparringError, match="20 passages have the same vector"):
        open_scorer(load(str(folder)), device="cpu", dtype="float32")(tiny_topics(4, 5), [PAIRS] * 4)


def test_late_pair_says_what_is_wrong(tmp_path: Path) -> None:
    folder = save_late_pair(tmp_path / "m")
    topic = tiny_topics(1, 5)[0]
    scorer = open_scorer(load(str(folder)), device="cpu", dtype="float32")
    for rows, message in ((PAIRS[:, :1], "groups of 2"), (PAIRS + 1, "outside its 5 candidates")):
        with pytest.raises(UsageError, match=message):
            scorer([topic], [rows])
    before = load(str(folder)).fingerprint
    PairHead(32, 6, 3).save(folder)
    assert load(str(folder)).fingerprint != before
    PairHead(16, 6, 3).save(folder)
    with pytest.raises(InputError, match="not the head of a late pair model of width 32"):
        load(str(folder))
    (folder / "pair_head.safetensors").unlink()
    with pytest.raises(MissingResourceError, match=r"holds no pair_head\.safetensors"):
        load(str(folder))
    with pytest.raises(InputError, match="'deberta-v2' is not an encoder of this family"):
        load(str(save_classifier(tmp_path / "deberta", "deberta-v2")), family="late_pair")
