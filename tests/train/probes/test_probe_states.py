"""Hidden states for probes: those of the prompt alone, and passages cut where a token ends."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from sparring.rerank.errors import InputError, UsageError
from sparring.train.probes.states import States
from tiny_generators import save_causal, save_t5
from tiny_models import save_classifier


@pytest.fixture(scope="module")
def causal(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_causal(tmp_path_factory.mktemp("causal"))


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_classifier(tmp_path_factory.mktemp("encoder"), "bert", positions=256)


@pytest.mark.parametrize("layer", [-1, 1])
@pytest.mark.parametrize("kind", ["causal", "encoder"])
def test_states_are_those_of_the_prompt_alone(kind: str, layer: int, request: pytest.FixtureRequest) -> None:
    from transformers import AutoModel, AutoTokenizer

    folder = request.getfixturevalue(kind)
    prompts = ["winter coffee", "a much longer prompt about rivers and mountains in winter", "x"]
    found = States(str(folder), "cpu", "float32", layer)(prompts)
    model, tokenizer = AutoModel.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    for prompt, state in zip(prompts, found, strict=True):
        with torch.no_grad():
            hidden = model(**tokenizer(prompt, return_tensors="pt"), output_hidden_states=True).hidden_states[
                layer
            ]
        torch.testing.assert_close(state, hidden[0, -1 if kind == "causal" else 0], atol=1e-5, rtol=1e-5)


def test_passages_are_cut_where_a_token_ends(causal: Path) -> None:
    states = States(str(causal), "cpu", "float32")
    text = "coffee in winter, by the river"
    (cut,) = states.cut([text], 3)
    assert text.startswith(cut) and 0 < len(cut) < len(text)
    assert states.cut(["", text], 100) == ["", text]


def test_models_that_cannot_be_probed(causal: Path, encoder: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"--layer 9: .* has hidden states 0 to 3"):
        States(str(causal), layer=9)
    with pytest.raises(UsageError, match="the model reads 256: lower --passage-tokens"):
        States(str(encoder), "cpu", "float32")(["coffee " * 400])
    with pytest.raises(InputError, match="is an encoder-decoder"):
        States(str(save_t5(tmp_path)))
