"""Tiny checkpoints of rerankers whose owner's code is remote: config, weights and tokenizer as they are published."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tiny_generators
import tiny_models
import torch
from safetensors.torch import save_file
from sparring.rerank.engine.batches import Batch

SIZES: dict[str, Any] = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48,
}  # fmt: skip
Shapes = dict[str, Sequence[int]]


def module(name: str, *shape: int, bias: bool = True) -> Shapes:
    """A weight and, unless said, a bias."""
    return {f"{name}.weight": shape} | ({f"{name}.bias": shape[:1]} if bias else {})


def gte_shapes(config: Mapping[str, Any], packed: bool = True) -> Shapes:
    """The weights of ``NewForSequenceClassification``."""
    width, inner = config["hidden_size"], config["intermediate_size"]
    normed = config.get("layer_norm_type", "layer_norm") == "layer_norm"
    shapes = module("new.embeddings.word_embeddings", config["vocab_size"], width, bias=False)
    if config["type_vocab_size"]:
        shapes |= module("new.embeddings.token_type_embeddings", config["type_vocab_size"], width, bias=False)
    shapes |= module("new.embeddings.LayerNorm", width, bias=normed)
    for i in range(config["num_hidden_layers"]):
        at = f"new.encoder.layer.{i}."
        if packed:
            shapes |= module(f"{at}attention.qkv_proj", 3 * width, width)
        else:
            for part in "qkv":
                shapes |= module(f"{at}attention.{part}_proj", width, width)
        shapes |= module(f"{at}attention.o_proj", width, width) | module(f"{at}attn_ln", width, bias=normed)
        shapes |= module(f"{at}mlp.up_gate_proj", 2 * inner, width, bias=False)
        shapes |= module(f"{at}mlp.down_proj", width, inner) | module(f"{at}mlp_ln", width, bias=normed)
    return shapes | module("new.pooler.dense", width, width) | module("classifier", 1, width)


def jina_bert_shapes(config: Mapping[str, Any], later: bool) -> Shapes:
    """The weights of ``JinaBertForSequenceClassification`` in the first layout or the later one."""
    width, inner = config["hidden_size"], config["intermediate_size"]
    shapes = module("bert.embeddings.word_embeddings", config["vocab_size"], width, bias=False)
    shapes |= module("bert.embeddings.token_type_embeddings", config["type_vocab_size"], width, bias=False)
    shapes |= module("bert.embeddings.LayerNorm", width)
    for i in range(config["num_hidden_layers"]):
        at = f"bert.encoder.layer.{i}."
        for part in ("query", "key", "value"):
            shapes |= module(f"{at}attention.self.{part}", width, width)
        if later:
            for part in ("layer_norm_q", "layer_norm_k"):
                shapes |= module(f"{at}attention.self.{part}", width)
        shapes |= module(f"{at}attention.output.dense", width, width)
        shapes |= module(f"{at}attention.output.LayerNorm", width)
        if later:
            shapes |= module(f"{at}layer_norm_1", width) | module(f"{at}layer_norm_2", width)
        joint, down = ("up_gated_layer", "down_layer") if later else ("gated_layers", "wo")
        shapes |= module(f"{at}mlp.{joint}", 2 * inner, width, bias=False)
        shapes |= module(f"{at}mlp.{down}", width, inner)
        if not later:
            shapes |= module(f"{at}mlp.layernorm", width)
    return shapes | module("bert.pooler.dense", width, width) | module("classifier", 1, width)


def decoder_shapes(config: Mapping[str, Any], normed: bool) -> Shapes:
    """The weights of a Llama's body, or with norms of queries and keys of a Qwen3's."""
    width, inner, size = config["hidden_size"], config["intermediate_size"], config["head_dim"]
    wide, narrow = size * config["num_attention_heads"], size * config["num_key_value_heads"]
    shapes = module("model.embed_tokens", config["vocab_size"], width, bias=False)
    for i in range(config["num_hidden_layers"]):
        at = f"model.layers.{i}."
        for part, rows in (("q", wide), ("k", narrow), ("v", narrow)):
            shapes |= module(f"{at}self_attn.{part}_proj", rows, width, bias=False)
        shapes |= module(f"{at}self_attn.o_proj", width, wide, bias=False)
        for part in ("q", "k") if normed else ():
            shapes |= module(f"{at}self_attn.{part}_norm", size, bias=False)
        for part in ("gate", "up"):
            shapes |= module(f"{at}mlp.{part}_proj", inner, width, bias=False)
        shapes |= module(f"{at}mlp.down_proj", width, inner, bias=False)
        for part in ("input_layernorm", "post_attention_layernorm"):
            shapes |= module(at + part, width, bias=False)
    return shapes | module("model.norm", width, bias=False)


def random_state(shapes: Shapes, seed: int = 0, scale: float = 0.3) -> dict[str, torch.Tensor]:
    """Random weights, large enough that tiny models give scores that differ visibly."""
    torch.manual_seed(seed)
    return {
        name: 1 + 0.2 * torch.randn(*shape)
        if name.endswith(".weight") and len(shape) == 1
        else scale * torch.randn(*shape)
        for name, shape in shapes.items()
    }


def write(folder: Path, config: Mapping[str, Any], state: Mapping[str, torch.Tensor], tokenizer: Any) -> Path:
    """A checkpoint folder; the remote code in it ends the process when it is run."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file({name: value.contiguous() for name, value in state.items()}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config))
    for module_name in (
        "configuration",
        "modeling",
        "configuration_bert",
        "modeling_bert",
        "llama_bidirectional_model",
    ):
        (folder / f"{module_name}.py").write_text("raise SystemExit('code of a checkpoint was run')")
    tokenizer.save_pretrained(folder)
    return folder


def gte_config(tokenizer: Any, **more: Any) -> dict[str, Any]:
    return SIZES | {
        "architectures": ["NewForSequenceClassification"], "model_type": "new", "vocab_size": len(tokenizer),
        "auto_map": {
            "AutoConfig": "configuration.NewConfig",
            "AutoModelForSequenceClassification": "modeling.NewForSequenceClassification",
        },
        "type_vocab_size": 1, "layer_norm_eps": 1e-12, "layer_norm_type": "layer_norm", "hidden_act": "gelu",
        "position_embedding_type": "rope", "rope_theta": 20000, "max_position_embeddings": 96, "pack_qkv": True,
        "rope_scaling": {"factor": 8.0, "type": "ntk"}, "unpad_inputs": False, "logn_attention_scale": False,
        "use_memory_efficient_attention": True, "id2label": {"0": "LABEL_0"}, "torch_dtype": "float16",
    } | more  # fmt: skip


def save_gte(folder: Path, packed: bool = True, **more: Any) -> Path:
    """A tiny random gte-multilingual-reranker."""
    tokenizer = tiny_models.unigram() if more.get("type_vocab_size", 1) < 2 else tiny_models.wordpiece()
    config = gte_config(tokenizer, pack_qkv=packed, **more)
    return write(folder, config, random_state(gte_shapes(config, packed)), tokenizer)


def jina_bert_config(tokenizer: Any, **more: Any) -> dict[str, Any]:
    return SIZES | {
        "architectures": ["JinaBertForSequenceClassification"], "model_type": "bert", "vocab_size": len(tokenizer),
        "auto_map": {
            "AutoConfig": "configuration_bert.JinaBertConfig",
            "AutoModelForSequenceClassification": "modeling_bert.JinaBertForSequenceClassification",
        },
        "type_vocab_size": 2, "layer_norm_eps": 1e-12, "hidden_act": "gelu", "feed_forward_type": "geglu",
        "position_embedding_type": "alibi", "max_position_embeddings": 96, "torch_dtype": "bfloat16",
    } | more  # fmt: skip


def save_jina_bert(folder: Path, later: bool = True, **more: Any) -> Path:
    """A tiny random jina-reranker-v1, in the first layout or the later one."""
    tokenizer = tiny_models.wordpiece()
    config = jina_bert_config(tokenizer, **more)
    return write(folder, config, random_state(jina_bert_shapes(config, later)), tokenizer)


DECODER: dict[str, Any] = SIZES | {
    "num_key_value_heads": 2, "head_dim": 8, "rms_norm_eps": 1e-6, "rope_theta": 50000.0, "hidden_act": "silu",
    "max_position_embeddings": 1024, "attention_bias": False, "tie_word_embeddings": False,
}  # fmt: skip


def nemotron_config(tokenizer: Any, **more: Any) -> dict[str, Any]:
    return DECODER | {
        "architectures": ["LlamaBidirectionalForSequenceClassification"], "model_type": "llama_bidirec",
        "auto_map": {
            "AutoConfig": "llama_bidirectional_model.LlamaBidirectionalConfig",
            "AutoModelForSequenceClassification":
                "llama_bidirectional_model.LlamaBidirectionalForSequenceClassification",
        },
        "vocab_size": len(tokenizer), "pooling": "avg", "temperature": 1.0, "id2label": {"0": "LABEL_0"},
        "mlp_bias": False, "pad_token_id": 0, "torch_dtype": "bfloat16",
    } | more  # fmt: skip


def beginning(tokenizer: Any) -> Any:
    """The tokenizer with its beginning of sequence before every text, as Llama 3's."""
    import copy

    from tokenizers import processors

    own = copy.deepcopy(tokenizer)
    own.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{own.bos_token} $A", special_tokens=[(own.bos_token, own.bos_token_id)]
    )
    return own


def save_nemotron(folder: Path, **more: Any) -> Path:
    """A tiny random llama-nemotron-rerank."""
    tokenizer = beginning(tiny_generators.byte_level())
    config = nemotron_config(tokenizer, **more)
    shapes = decoder_shapes(config, False) | module("score", 1, config["hidden_size"], bias=False)
    return write(folder, config, random_state(shapes), tokenizer)


def jina_v3_config(tokenizer: Any, **more: Any) -> dict[str, Any]:
    return DECODER | {
        "architectures": ["JinaForRanking"], "model_type": "qwen3", "vocab_size": len(tokenizer),
        "auto_map": {"AutoModel": "modeling.JinaForRanking"}, "torch_dtype": "bfloat16",
        "max_position_embeddings": 8192,
    } | more  # fmt: skip


QWEN = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|embed_token|>",
    "<|rerank_token|>",
    "<think>",
    "</think>",
    "<|im_end|>",
)


def jina_v3_shapes(config: Mapping[str, Any]) -> Shapes:
    """The weights of ``JinaForRanking``: a Qwen3's body and the projector."""
    width = config["hidden_size"]
    projector = module("projector.0", width // 2, width, bias=False) | module(
        "projector.2", 8, width // 2, bias=False
    )
    return decoder_shapes(config, True) | projector


def save_jina_v3(folder: Path, **more: Any) -> Path:
    """A tiny random jina-reranker-v3."""
    tokenizer = tiny_generators.byte_level(QWEN)
    config = jina_v3_config(tokenizer, **more)
    state = random_state(jina_v3_shapes(config))
    state["lm_head.weight"] = torch.zeros(len(tokenizer), config["hidden_size"])
    return write(folder, config, state, tokenizer)


def packed(rows: Sequence[Sequence[int]], types: Sequence[Sequence[int]] | None = None) -> Batch:
    """Rows of token ids as one batch, types 0 unless given."""
    lengths = np.array([len(row) for row in rows])
    each = np.arange(len(rows) + 1)
    return Batch(
        input_ids=torch.tensor([i for row in rows for i in row], dtype=torch.int32),
        positions=torch.tensor([i for row in rows for i in range(len(row))], dtype=torch.int32),
        segments=torch.tensor(
            [i for row in types or [[0] * len(r) for r in rows] for i in row], dtype=torch.int32
        ),
        boundaries=torch.from_numpy(np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)),
        lengths=lengths,
        groups=each,
        queries=each[:-1],
    )
