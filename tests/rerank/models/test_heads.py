"""Heads of transformers' models are where they were, and what is taken off scores as the whole did."""

from __future__ import annotations

import pytest
import tiny_models
import torch
from relied_on import relied_on
from sparring.rerank.models.config_fields import mean_pooled, position_limit, token_types
from sparring.rerank.models.heads import decoder_head, detach_head, seq2seq_parts

HEADS, FIELDS = "rerank/models/heads.py", "rerank/models/config_fields.py"
ENCODERS = ["bert", "electra", "roberta", "xlm-roberta", "modernbert", "deberta-v2"]


@pytest.mark.parametrize("kind", ENCODERS)
def test_a_head_taken_off_scores_the_first_state_as_the_whole(kind: str) -> None:
    from transformers import AutoModelForSequenceClassification

    config = tiny_models.classifier_config(kind, 50, pad=1)
    module = AutoModelForSequenceClassification.from_config(config).eval()
    ids = torch.arange(5, 15)[None]
    with relied_on("transformers", HEADS), torch.inference_mode():
        expected = module(input_ids=ids).logits
        head, parts = detach_head(module)
        states = module.base_model(input_ids=ids).last_hidden_state
        pooled = states.mean(1) if mean_pooled(config) else states[:, 0]
        torch.testing.assert_close(head(pooled), expected, atol=1e-5, rtol=0)
        assert parts


def test_classifiers_on_decoders_have_a_head_of_their_own() -> None:
    from transformers import AutoModelForSequenceClassification, Qwen3Config

    config = Qwen3Config(**tiny_models.SIZES, vocab_size=50, num_key_value_heads=2, head_dim=8, num_labels=1)
    with relied_on("transformers", HEADS):
        found = decoder_head(AutoModelForSequenceClassification.from_config(config))
        assert found is not None and found.out_features == 1
    encoder = tiny_models.classifier_config("bert", 50, pad=1)
    assert decoder_head(AutoModelForSequenceClassification.from_config(encoder)) is None


@pytest.mark.parametrize("kind", ["t5", "mt5", "umt5"])
def test_t5_comes_apart(kind: str) -> None:
    from transformers import AutoConfig, AutoModelForSeq2SeqLM

    config = AutoConfig.for_model(kind, d_model=16, d_kv=8, d_ff=32, num_layers=1, num_heads=2, vocab_size=40)
    module = AutoModelForSeq2SeqLM.from_config(config)
    with relied_on("transformers", HEADS):
        encoder, decoder, output = seq2seq_parts(module)
        assert not encoder.is_decoder and decoder.is_decoder
        assert output.shape == (40, 16) and output.data_ptr() == module.lm_head.weight.data_ptr()


@pytest.mark.parametrize("kind", ENCODERS)
def test_configs_say_how_many_token_types_there_are(kind: str) -> None:
    config = tiny_models.classifier_config(kind, 50, pad=1)
    with relied_on("transformers", FIELDS):
        assert token_types(config) == config.to_dict().get("type_vocab_size", 0)


def test_decoders_say_how_many_positions_they_have() -> None:
    from transformers import AutoConfig

    with relied_on("transformers", FIELDS):
        limits = {kind: position_limit(AutoConfig.for_model(kind)) for kind in ("qwen3", "gpt2", "bloom")}
        assert limits["qwen3"] and limits["gpt2"] == 1024 and limits["bloom"] is None
