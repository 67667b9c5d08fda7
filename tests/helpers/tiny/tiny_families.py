"""Tiny random checkpoints in the layouts of the families that transformers does not save."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import tiny_generators
import tiny_models
import torch
from safetensors.torch import load_file, save_file
from sparring.rerank.models.checkpoints import Checkpoint
from sparring.rerank.models.families.encoders import pair_rm

MARKERS = {"source": "source", "cand": "candidate", "cand1": "candidate1", "cand2": "candidate2"}


TINY = "microsoft/deberta-v3-tiny"


def save_pair_rm(folder: Path, layout: str = "hf", tasks: int = 1) -> Path:
    """A tiny random PairRM in the layout of PairRM-hf or of the original."""
    from transformers import DebertaV2Model

    tokenizer = copy.deepcopy(tiny_models.wordpiece())
    tokenizer.add_tokens(["<|source|>", "<|candidate1|>", "<|candidate2|>", "<|candidate|>"])
    ids = {f"{name}_prefix_id": tokenizer.convert_tokens_to_ids(f"<|{token}|>") for name, token in MARKERS.items()}
    config = tiny_models.classifier_config("deberta-v2", len(tokenizer), positions=512)
    if layout == "original":
        config = pair_rm._config(Checkpoint("x", folder, {"model_name": TINY}, ()), len(tokenizer))
    torch.manual_seed(3)
    body = DebertaV2Model(config)
    tiny_models.enlarge(body)
    width = config.hidden_size
    state = {f"pretrained_model.{name}": value.contiguous() for name, value in body.state_dict().items()}
    state |= {"head_layer.1.weight": torch.randn(width, 2 * width) / 4, "head_layer.1.bias": torch.randn(width)}
    state |= {"head_layer.4.weight": torch.randn(tasks, width), "head_layer.4.bias": torch.randn(tasks)}
    folder.mkdir(parents=True)
    save_file(state, folder / "model.safetensors")
    content = config.to_dict() | ids | {"architectures": ["DebertaV2PairRM"], "n_tasks": tasks, "drop_out": 0.05}
    if layout == "original":
        content = {"ranker_type": "pairranker", "model_type": "deberta", "model_name": TINY, "n_tasks": tasks}
    (folder / "config.json").write_text(json.dumps(content))
    tokenizer.save_pretrained(folder)
    return folder


def save_list_con_ranker(folder: Path, apart: bool = False) -> Path:
    """A tiny random ListConRanker: one file, or the encoder's file with the others beside it."""
    from transformers import BertConfig, BertModel

    tokenizer = tiny_models.wordpiece()
    config = BertConfig(**tiny_models.SIZES, vocab_size=len(tokenizer), max_position_embeddings=96)
    torch.manual_seed(0)
    body = BertModel(config, add_pooling_layer=False)
    tiny_models.enlarge(body)
    inner = 24
    layer = torch.nn.TransformerEncoderLayer(inner, 4, 40, batch_first=True)
    transformer = torch.nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
    lists = {f"list_transformer_layer.{k}": v for k, v in layer.state_dict().items()}
    lists |= {f"list_transformer.{k}": v for k, v in transformer.state_dict().items()}
    lists |= {f"query_embedding.layerNorm.{k}": v for k, v in torch.nn.LayerNorm(inner).state_dict().items()}
    lists["query_embedding.query_embedding.weight"] = torch.randn(2, inner)
    for name, shape in (("1", (1, 2 * inner)), ("2", (inner, 2 * inner)), ("3", (inner, 2 * inner))):
        lists |= {
            f"linear_score{name}.weight": torch.randn(shape),
            f"linear_score{name}.bias": torch.randn(shape[0]),
        }
    embed = {"weight": torch.randn(inner, 32), "bias": torch.randn(inner)}
    folder.mkdir(exist_ok=True)
    state = {k: v.contiguous() for k, v in body.state_dict().items()}
    lists = {k: v.clone().contiguous() for k, v in lists.items()}
    if apart:
        save_file(state, folder / "model.safetensors")
        save_file(lists, folder / "list_transformer.safetensors")
        save_file(embed, folder / "linear_in_embedding.safetensors")
    else:
        joined = {f"hf_model.{k}": v for k, v in state.items()} | {
            f"list_transformer.{k}": v for k, v in lists.items()
        }
        save_file(joined | {f"linear_in_embedding.{k}": v for k, v in embed.items()}, folder / "model.safetensors")
    saved = json.loads(config.to_json_string(use_diff=False)) | {"architectures": ["ListConRankerModel"]}
    (folder / "config.json").write_text(json.dumps(saved))
    tokenizer.save_pretrained(folder)
    return folder


def save_webis(folder: Path, prefix: str = "", bias: bool = False) -> Path:
    """A tiny monoELECTRA in the webis layout."""
    from transformers import ElectraModel

    tokenizer = tiny_models.wordpiece()
    config = tiny_models.classifier_config("electra", len(tokenizer))
    torch.manual_seed(0)
    body = ElectraModel(config)
    tiny_models.enlarge(body)
    state = {prefix + name: value.contiguous() for name, value in body.state_dict().items()}
    state["linear.weight"] = torch.randn(1, config.hidden_size)
    if bias:
        state["linear.bias"] = torch.randn(1)
    folder.mkdir(exist_ok=True)
    save_file(state, folder / "model.safetensors")
    content = config.to_dict() | {
        "model_type": "cross-encoder", "architectures": ["CrossEncoderElectraModel"], "backbone_model_type": "electra",
        "query_length": 6, "doc_length": 20, "pooling_strategy": "first",
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(content))
    tokenizer.save_pretrained(folder)
    return folder


def save_jina(folder: Path, source: Path) -> Path:
    """A tiny XLM-R cross-encoder in the layout of jina-reranker-v2: names, joined projections, a foreign config."""
    state = load_file(source / "model.safetensors")
    theirs = {"roberta.emb_ln": "roberta.embeddings.LayerNorm"}
    for name in ("word_embeddings", "position_embeddings", "token_type_embeddings"):
        theirs[f"roberta.embeddings.{name}"] = f"roberta.embeddings.{name}"
    for name in ("dense", "out_proj"):
        theirs[f"classifier.{name}"] = f"classifier.{name}"
    for i in range(3):
        ours = f"roberta.encoder.layer.{i}"
        for name, part in (
            ("mixer.out_proj", "attention.output.dense"), ("norm1", "attention.output.LayerNorm"),
            ("mlp.fc1", "intermediate.dense"), ("mlp.fc2", "output.dense"), ("norm2", "output.LayerNorm"),
        ):  # fmt: skip
            theirs[f"roberta.encoder.layers.{i}.{name}"] = f"{ours}.{part}"
    written = {}
    for kind in ("weight", "bias"):
        written |= {f"{n}.{kind}": state[f"{o}.{kind}"] for n, o in theirs.items() if f"{o}.{kind}" in state}
        for i in range(3):
            own = f"roberta.encoder.layer.{i}.attention.self"
            joined = torch.cat([state[f"{own}.{part}.{kind}"] for part in ("query", "key", "value")])
            written[f"roberta.encoder.layers.{i}.mixer.Wqkv.{kind}"] = joined
    folder.mkdir()
    save_file(written, folder / "model.safetensors")
    content = json.loads((source / "config.json").read_text())
    del content["model_type"]
    content |= {
        "auto_map": {
            "AutoConfig": "configuration_xlm_roberta.XLMRobertaFlashConfig",
            "AutoModelForSequenceClassification": "modeling_xlm_roberta.XLMRobertaForSequenceClassification",
        },
        "emb_pooler": None, "use_flash_attn": True, "torch_dtype": "bfloat16", "num_labels": 1,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(content))
    for module in ("configuration_xlm_roberta", "modeling_xlm_roberta"):
        (folder / f"{module}.py").write_text("raise SystemExit('code of a checkpoint was run')")
    tiny_models.unigram().save_pretrained(folder)
    said = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(said | {"tokenizer_class": "XLMRobertaTokenizer"}))
    return folder


def save_listt5(folder: Path, wrapped: bool = True) -> Path:
    """A tiny random ListT5 with the indices 1 to 5 in its vocabulary."""
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    saved = tiny_generators.save_t5(folder)
    whole = json.loads((saved / "tokenizer.json").read_text())
    words = [row for row in whole["model"]["vocab"] if row[0] not in [f"\u2581{i}" for i in range(10)]]
    whole["model"]["vocab"] = words[:-9] + [[f"\u2581{i}", -3.0] for i in range(1, 10)]
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(whole)),
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
    )
    tokenizer.save_pretrained(saved)
    state = load_file(saved / "model.safetensors")
    if wrapped:
        state = {
            f"encoder.{k.replace('.block.', '.block.', 1)}" if k.startswith("encoder.") else k: v
            for k, v in state.items()
        }
        state = {
            ".".join([*k.split(".")[:4], "module", *k.split(".")[4:]])
            if k.startswith("encoder.encoder.block")
            else k: v
            for k, v in state.items()
        }
        assert "encoder.encoder.block.0.module.layer.0.SelfAttention.q.weight" in state
    save_file(state, saved / "model.safetensors")
    return saved


def allrank_state(
    width: int, inner: int = 12, feed: int = 20, layers: int = 2, outputs: int = 1
) -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    state = {
        "input_layer.layers.0.weight": torch.randn(inner, width) / 4,
        "input_layer.layers.0.bias": torch.randn(inner),
    }
    for i in range(layers):
        at = f"encoder.layers.{i}"
        for j in range(4):
            state[f"{at}.self_attn.linears.{j}.weight"] = torch.randn(inner, inner)
            state[f"{at}.self_attn.linears.{j}.bias"] = torch.randn(inner)
        for j, (rows, columns) in enumerate([(feed, inner), (inner, feed)], 1):
            state[f"{at}.feed_forward.w_{j}.weight"] = torch.randn(rows, columns)
            state[f"{at}.feed_forward.w_{j}.bias"] = torch.randn(rows)
        for j in range(2):
            state[f"{at}.sublayer.{j}.norm.a_2"] = torch.rand(inner)
            state[f"{at}.sublayer.{j}.norm.b_2"] = torch.randn(inner)
    state |= {"encoder.norm.a_2": torch.rand(inner), "encoder.norm.b_2": torch.randn(inner)}
    return state | {
        "output_layer.w_1.weight": torch.randn(outputs, inner),
        "output_layer.w_1.bias": torch.randn(outputs),
    }
