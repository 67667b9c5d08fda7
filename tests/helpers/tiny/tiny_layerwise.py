"""Tiny random checkpoints with a head for every layer, in the two published layouts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tiny_generators import byte_level

LAYERS, START = 4, 2
SIZES: dict[str, Any] = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": LAYERS, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 512, "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
    "bos_token_id": 0, "eos_token_id": 2, "start_layer": START,
}  # fmt: skip


def save_layerwise(folder: Path, kind: str = "minicpm") -> Path:
    """A tiny MiniCPM or Gemma 2 with heads from layer 2 on, as BAAI's remote code writes them."""
    tokenizer = byte_level()
    torch.manual_seed(0)
    gemma = kind == "gemma"
    state = {"model.embed_tokens.weight": torch.randn(len(tokenizer), 32)}
    state["model.norm.weight"] = torch.rand(32)
    norms = ["input_layernorm", "post_attention_layernorm"]
    norms += ["pre_feedforward_layernorm", "post_feedforward_layernorm"] if gemma else []
    shapes = {
        "self_attn.q_proj": (32, 32), "self_attn.k_proj": (16, 32), "self_attn.v_proj": (16, 32),
        "self_attn.o_proj": (32, 32), "mlp.gate_proj": (48, 32), "mlp.up_proj": (48, 32), "mlp.down_proj": (32, 48),
    }  # fmt: skip
    for layer in range(LAYERS):
        state |= {f"model.layers.{layer}.{name}.weight": torch.rand(32) for name in norms}
        state |= {f"model.layers.{layer}.{name}.weight": torch.randn(s) / 2 for name, s in shapes.items()}
    state |= {f"lm_head.{i}.linear_head.weight": torch.randn(1, 32) / 4 for i in range(LAYERS + 1 - START)}
    config = SIZES | {"vocab_size": len(tokenizer)}
    if gemma:
        config |= {
            "architectures": ["CostWiseGemmaForCausalLM"], "model_type": "cost_wise_gemma", "layer_wise": True,
            "layer_sep": 1, "head_dim": 8, "hidden_activation": "gelu_pytorch_tanh", "query_pre_attn_scalar": 8,
            "hidden_act": "gelu_pytorch_tanh", "sliding_window": 64, "attn_logit_softcapping": 5.0,
            "final_logit_softcapping": 6.0, "pad_token_id": 0,
        }  # fmt: skip
    else:
        config |= {
            "architectures": ["LayerWiseMiniCPMForCausalLM"], "model_type": "minicpm", "head_multi": True,
            "head_type": "simple", "hidden_act": "silu", "scale_depth": 1.4, "scale_emb": 12, "dim_model_base": 16,
        }  # fmt: skip
    config["auto_map"] = {"AutoConfig": "remote.Config"}
    folder.mkdir(parents=True, exist_ok=True)
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "remote.py").write_text("raise SystemExit('code of a checkpoint was run')")
    tokenizer.save_pretrained(folder)
    return folder
