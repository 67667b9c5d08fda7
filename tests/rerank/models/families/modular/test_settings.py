"""Settings of a CrossEncoder that this family does not know are refused, with the model's name, before any score."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file
from sparring.rerank.errors import InputError, UsageError
from sparring.rerank.models.loading import load
from tiny_modular import save_head, save_logit_score, save_modular, set_json

BODY, POOL = "sentence_bert_config.json", "1_Pooling/config.json"
DENSE, LAST, SETTINGS = "2_Dense/config.json", "4_Dense/config.json", "config_sentence_transformers.json"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return save_modular(tmp_path, "bert")


@pytest.mark.parametrize(
    ("file", "changes", "words"),
    [
        (BODY, {"novelty": 1}, "sets novelty, which this family does not know"),
        (BODY, {"processor_kwargs": {"add_bos_token": True}}, "processor_kwargs, sets add_bos_token"),
        (BODY, {"processing_kwargs": {"text": {"add_special_tokens": False}}}, "sets add_special_tokens"),
        (BODY, {"transformer_task": "fill-mask"}, "has the task 'fill-mask'"),
        (BODY, {"modality_config": {"image": {}}}, "takes no text, only image"),
        (
            BODY,
            {"modality_config": {"text": {"method": "forward", "method_output_name": "pooler_output"}}},
            "reads",
        ),
        (BODY, {"module_output_name": "states"}, "gives 'states', expected token_embeddings"),
        (POOL, {"pooling_mode": "median"}, "pools by 'median'"),
        (POOL, {"embedding_dimension": 48}, "reads 48 values, but token_embeddings has 32"),
        (DENSE, {"activation_function": "mine.Tanh"}, "has the activation 'mine.Tanh'"),
        (DENSE, {"activation_function": "torch.nn.Softmax2d"}, "has the activation"),
        (DENSE, {"module_input_name": "elsewhere"}, "reads 'elsewhere', which no module before it gives"),
        (DENSE, {"out_features": 16}, "2_Dense/model.safetensors does not fit"),
        ("3_LayerNorm/config.json", {"dimension": 8}, "LayerNorm. reads 8 values, but sentence_embedding has 32"),
        (LAST, {"module_output_name": "sentence_embedding"}, "end without a score"),
        (LAST, {"out_features": 3}, "the head has 3 labels|does not fit"),
        (SETTINGS, {"default_prompt_name": "absent"}, "its default prompt 'absent' is none of its prompts"),
    ],
)
def test_what_is_unknown_or_does_not_fit(folder: Path, file: str, changes: dict[str, Any], words: str) -> None:
    set_json(folder / file, **changes)
    with pytest.raises(InputError, match=words) as caught:
        load(str(folder))
    assert "\n" not in str(caught.value) and str(folder) in str(caught.value)


def test_prompts_that_are_not_there(folder: Path) -> None:
    with pytest.raises(UsageError, match="has no prompt 'web' .it has none"):
        load(str(folder), prompt_name="web")
    set_json(folder / SETTINGS, prompts={"query": "q: ", "other": ""})
    with pytest.raises(UsageError, match="has no prompt 'web' .it has other, query"):
        load(str(folder), prompt_name="web")
    with pytest.raises(UsageError, match="exclude each other"):
        load(str(folder), prompt_name="query", no_prompt=True)
    plain = load(str(folder))
    assert load(str(folder), prompt_name="other").fingerprint == plain.fingerprint
    assert load(str(folder), prompt_name="query").fingerprint != plain.fingerprint


@pytest.mark.parametrize("module", ["2_Dense", "3_LayerNorm"])
def test_weights_of_a_module_that_are_missing_or_of_another_shape(folder: Path, module: str) -> None:
    path = folder / module / "model.safetensors"
    before = load(str(folder)).fingerprint
    state = load_file(path)
    name = next(name for name in state if name.endswith("bias"))
    save_file({**state, name: state[name] + 1}, path)
    assert load(str(folder)).fingerprint != before  # a stored outcome of other weights is never found
    save_file({**state, name: state[name][:5].clone()}, path)
    with pytest.raises(InputError, match=f"{module}.*does not fit"):
        load(str(folder))
    path.unlink()
    with pytest.raises(InputError, match=f"{module}.*is missing: its weights would be random"):
        load(str(folder))


def test_module_lists_that_give_no_score(folder: Path) -> None:
    entries = json.loads((folder / "modules.json").read_text())
    for kept in (entries[:1], entries[:2], entries[:3], [entries[0], *entries[2:]]):
        (folder / "modules.json").write_text(json.dumps(kept))
        with pytest.raises(InputError, match="end without a score|which no module before it gives"):
            load(str(folder))
    odd = entries[2] | {"type": "sentence_transformers.sentence_transformer.modules.cnn.CNN"}
    (folder / "modules.json").write_text(json.dumps([*entries[:2], odd, *entries[3:]]))
    with pytest.raises(InputError, match="module 2 .CNN. is none that this family runs"):
        load(str(folder))


def test_tasks_and_architectures_that_contradict_each_other(tmp_path: Path) -> None:
    head, logits = save_head(tmp_path / "head"), save_logit_score(tmp_path / "logits")
    set_json(head / "config.json", architectures=["BertModel"])
    with pytest.raises(InputError, match="has no head: it would be random"):
        load(str(head))
    set_json(logits / BODY, transformer_task="sequence-classification")
    with pytest.raises(InputError, match="with the task sequence-classification expected Transformer"):
        load(str(logits))
    set_json(logits / BODY, transformer_task="text-generation")
    for changes, words in (
        ({"true_token_id": 10_000}, r"LogitScore reads the tokens \[10000"),
        ({"true_token_id": None}, r"LogitScore reads the tokens \[None"),
        ({"true_token_id": 3, "module_input_name": "logits"}, "LogitScore reads 'logits', its transformer gives"),
    ):
        set_json(logits / "1_LogitScore" / "config.json", **changes)
        with pytest.raises(InputError, match=words):
            load(str(logits))


def test_a_decoder_that_looks_ahead_is_refused(tmp_path: Path) -> None:
    folder = save_logit_score(tmp_path)
    set_json(folder / "config.json", use_bidirectional_attention=True)
    with pytest.raises(InputError, match="a qwen3 that looks ahead"):
        load(str(folder))
