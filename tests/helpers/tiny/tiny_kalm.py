"""A tiny KaLM-Reranker: a T5Gemma 2 with a tokenizer that has Gemma's marks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import tiny_generators
import torch

GEMMA = ("<pad>", "<bos>", "<start_of_turn>", "<end_of_turn>")


def save_kalm(folder: Path) -> Path:
    """Weights, config and tokenizer; the tower of images is there, as in the published ones, and is not used."""
    from transformers import AutoModelForSeq2SeqLM, T5Gemma2Config

    tokenizer = tiny_generators.byte_level(GEMMA)
    text: dict[str, Any] = {
        "vocab_size": len(tokenizer), "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "query_pre_attn_scalar": 8,
        "sliding_window": 8, "layer_types": ["sliding_attention", "full_attention"], "pad_token_id": 0,
        "eos_token_id": 3, "bos_token_id": 1, "max_position_embeddings": 1024,
    }  # fmt: skip
    vision = {
        "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
        "image_size": 28, "patch_size": 14, "model_type": "siglip_vision_model",
    }  # fmt: skip
    config = T5Gemma2Config(
        encoder={"text_config": dict(text), "vision_config": vision, "mm_tokens_per_image": 1,
                 "boi_token_index": 4, "eoi_token_index": 5, "image_token_index": len(tokenizer) - 1},
        decoder=dict(text), image_token_index=len(tokenizer) - 1, eoi_token_index=5, vocab_size=len(tokenizer),
    )  # fmt: skip
    torch.manual_seed(0)
    module = AutoModelForSeq2SeqLM.from_config(config)
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.ndim > 1:
                parameter.mul_(10)
    module.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
