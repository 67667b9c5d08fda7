"""PairRM: its formula, its budgets, and weights that are not its own."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from sparring.rerank.engine.engine import Engine
from sparring.rerank.engine.token_store import TokenStore
from sparring.rerank.errors import InputError
from sparring.rerank.models.families.encoders import pair_rm
from sparring.rerank.models.loading import load
from tiny_families import TINY, save_pair_rm
from tiny_models import tiny_topics
from tiny_pairs import PAIRS, logit


@pytest.mark.parametrize(("layout", "tasks"), [("hf", 1), ("hf", 3), ("original", 1)])
def test_pair_rm_equals_its_formula(
    tmp_path: Path, layout: str, tasks: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import DebertaV2Model

    monkeypatch.setitem(pair_rm.SHAPES, TINY, (2, 32, 4))
    folder = save_pair_rm(tmp_path / "pairrm", layout, tasks)
    topic = tiny_topics(1, 5)[0]
    topic = replace(topic, texts=[*topic.texts[:4], "a text that spells <|candidate1|> and [SEP]"])
    model = load(str(folder))
    found = Engine(model, device="cpu", dtype="float32", token_budget=300, progress=False)([topic], [PAIRS])[0]
    state = load_file(folder / "model.safetensors")
    body = DebertaV2Model(model.body.config).eval()
    body.load_state_dict({k.removeprefix("pretrained_model."): v for k, v in state.items() if "pretrained" in k})
    tokenizer = model.tokenizer
    plain = TokenStore(tokenizer, 999)

    def piece(marker: str, text: str) -> list[int]:
        entry = plain.entries([text])[0]
        ids = plain.flat[plain.starts[entry] : plain.starts[entry] + plain.lengths[entry]].tolist()
        return [2, tokenizer.convert_tokens_to_ids(f"<|{marker}|>"), *ids, 3]

    expected = []
    for i, j in PAIRS:
        pieces = [
            piece(marker, text)
            for marker, text in (
                ("source", topic.query), ("candidate1", topic.texts[i]), ("candidate2", topic.texts[j])
            )
        ]  # fmt: skip
        starts = np.cumsum([0, *map(len, pieces)])[:3] + 1
        with torch.inference_mode():
            states = body(torch.tensor([[token for part in pieces for token in part]])).last_hidden_state[
                0, starts
            ]
        left, right = (
            torch.tanh(
                torch.cat([states[0], states[k]]) @ state["head_layer.1.weight"].T + state["head_layer.1.bias"]
            )
            @ state["head_layer.4.weight"].T
            for k in (1, 2)
        )
        expected.append(float((left - right).mean()))
    np.testing.assert_allclose(logit(found), expected, atol=1e-5, rtol=1e-5)
    assert np.std(expected) > 0.05


def test_pair_rm_budgets_and_special_tokens(tmp_path: Path) -> None:
    model = load(str(save_pair_rm(tmp_path / "m")), max_length=100, source_length=60, instruction="find rivers")
    assert model.template.slots[1].render("q") == "find rivers\nq"
    cut = model.truncation.fit(model.template.overhead, np.array([300, 10]), np.array([[300, 300], [300, 5]]))
    assert cut[0].tolist() == [55, 10]  # the passages keep two fifths, as 2 x 412 of 2048
    assert cut[1].tolist() == [[18, 18], [76, 5]]  # what query and shorter passage leave goes to the longer one
    whole = load(str(tmp_path / "m")).truncation.fit(9, np.array([5000, 1221]), np.full((2, 2), 5000))
    assert (
        whole[0].tolist() == [1221, 1221] and whole[1].tolist() == [[409, 409]] * 2
    )  # 1224 and 412 with specials


def test_pair_rm_with_other_weights_is_refused(tmp_path: Path) -> None:
    folder = save_pair_rm(tmp_path / "m")
    state = load_file(folder / "model.safetensors")
    inner = "pretrained_model.encoder.layer.0.output.dense.weight"
    for change, message in (
        ({"head_layer.1.weight": None}, "this is not a PairRM"),
        ({inner: None}, r"missing \['pretrained_model.encoder.layer.0"),
        ({"surplus": torch.ones(1)}, r"unknown \['surplus'\]"),
        ({inner: torch.ones(3, 3)}, "weights do not fit the config"),
    ):
        kept = {k: v for k, v in (state | change).items() if v is not None}
        save_file(kept, folder / "model.safetensors")
        with pytest.raises(InputError, match=message):
            load(str(folder))
