"""Tiny random CrossEncoders of modules, made and saved by sentence-transformers itself, and its own scores."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sparring.rerank.engine.engine import Engine
from sparring.rerank.models.loading import load
from sparring.rerank.vocabulary import Candidates
from tiny_generators import byte_level, save_causal
from tiny_models import SIZES, TOKENIZERS, classifier_config, enlarge, everything, save_classifier

HIDDEN = SIZES["hidden_size"]
CHAT = (
    "{%- set system = messages | selectattr('role', 'eq', 'system') | map(attribute='content') | first"
    " | default('Find passages that answer the query') -%}"
    "{%- set query = messages | selectattr('role', 'eq', 'query') | map(attribute='content') | first -%}"
    "{%- set document = messages | selectattr('role', 'eq', 'document') | map(attribute='content') | first -%}"
)
"""The beginning of the chat templates here, as published rerankers have it."""
QWEN = CHAT + (
    "<|im_start|>system\nAnswer only yes or no.<|im_end|>\n<|im_start|>user\n<Instruct>: {{ system }}\n"
    "<Query>: {{ query }}\n<Document>: {{ document }}<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
)
"""The template of a Qwen3-Reranker, in short."""
BERT = CHAT + "[CLS] {{ system }} query: {{ query }} [SEP] document: {{ document }} [SEP]"
ROBERTA = CHAT + "<s>{{ system }}</s> {{ query }}</s></s> {{ document }}</s>"
CHATS = {"bert": BERT, "electra": BERT, "modernbert": BERT, "xlm-roberta": ROBERTA, "qwen3": QWEN}


def save_body(folder: Path, kind: str, seed: int = 0, labels: int = 1, positions: int = 96) -> Path:
    """A transformer without a head and its tokenizer."""
    from transformers import AutoModel, Qwen3Config

    torch.manual_seed(seed)
    if kind == "qwen3":
        tokenizer = byte_level()
        config: Any = Qwen3Config(
            vocab_size=len(tokenizer), hidden_size=HIDDEN, intermediate_size=48, num_hidden_layers=2,
            num_attention_heads=4, num_key_value_heads=2, head_dim=8, max_position_embeddings=512,
            pad_token_id=tokenizer.pad_token_id, num_labels=labels,
        )  # fmt: skip
    else:
        tokenizer = TOKENIZERS[kind]()
        config = classifier_config(kind, len(tokenizer), labels, positions, tokenizer.pad_token_id)
    model = AutoModel.from_config(config)
    enlarge(model)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def tail(width: int = HIDDEN, labels: int = 1, act: torch.nn.Module | None = None) -> list[Any]:
    """Dense, LayerNorm and Dense of the scores, with weights that matter."""
    from sentence_transformers.cross_encoder.modules import Dense
    from sentence_transformers.sentence_transformer.modules import LayerNorm

    norm = LayerNorm(HIDDEN)
    with torch.no_grad():
        norm.norm.weight.normal_()
        norm.norm.bias.normal_()
    first = Dense(width, HIDDEN, activation_function=act or torch.nn.GELU())
    last = Dense(HIDDEN, labels, activation_function=torch.nn.Identity(), module_output_name="scores")
    enlarge(first, 2.0)
    enlarge(last, 4.0)
    return [first, norm, last]


def save_modular(
    folder: Path,
    kind: str = "bert",
    modules: list[Any] | None = None,
    chat: str | None = None,
    prompts: dict[str, str] | None = None,
    default: str | None = None,
    length: int | None = None,
    **transformer: Any,
) -> Path:
    """A CrossEncoder of a transformer and ``modules`` (default: CLS pooling, Dense, LayerNorm, Dense)."""
    from sentence_transformers.sentence_transformer.modules import Pooling

    body = save_body(folder / "body", kind)
    behind = [Pooling(HIDDEN, "cls"), *tail()] if modules is None else modules
    return save(folder, body, behind, chat, prompts, default, length, **transformer)


def save(
    folder: Path,
    body: Path,
    behind: list[Any],
    chat: str | None = None,
    prompts: dict[str, str] | None = None,
    default: str | None = None,
    length: int | None = None,
    **transformer: Any,
) -> Path:
    """Puts the transformer in ``body`` and the modules behind it together, and saves them to ``folder/model``."""
    from sentence_transformers import CrossEncoder
    from sentence_transformers.base.modules import Transformer

    more = {} if chat is None else {"processor_kwargs": {"chat_template": chat}}
    first = Transformer(str(body), **more, **transformer)
    if length is not None:
        first.max_seq_length = length
    model = CrossEncoder(modules=[first, *behind], device="cpu", prompts=prompts, default_prompt_name=default)
    model.save_pretrained(str(folder / "model"), create_model_card=False)
    return folder / "model"


def save_logit_score(folder: Path, answers: tuple[int, int | None] | None = None, **more: Any) -> Path:
    """A language model of Qwen3's form with LogitScore behind it; by default "yes" against "no"."""
    from sentence_transformers.cross_encoder.modules import LogitScore

    body = save_causal(folder / "body")
    vocabulary = byte_level().get_vocab()
    true, false = answers or (vocabulary["yes"], vocabulary["no"])
    return save(folder, body, [LogitScore(true, false)], transformer_task="text-generation", **more)


def save_head(folder: Path, kind: str = "bert", labels: int = 1, **more: Any) -> Path:
    """A transformer with its own head alone."""
    if kind == "qwen3":
        from transformers import Qwen3Config, Qwen3ForSequenceClassification

        body = save_body(folder / "body", kind, labels=labels)
        model = Qwen3ForSequenceClassification(Qwen3Config.from_pretrained(body, num_labels=labels))
        enlarge(model)
        model.save_pretrained(body)
    else:
        body = save_classifier(folder / "body", kind, labels)
    return save(folder, body, [], transformer_task="sequence-classification", **more)


def theirs(folder: Path, topics: list[Candidates], **asked: Any) -> np.ndarray:
    """Scores of sentence-transformers, raw; of two labels l1 - l0."""
    from sentence_transformers import CrossEncoder

    model = CrossEncoder(str(folder), device="cpu", activation_fn=torch.nn.Identity())
    pairs = [(topic.query, text) for topic in topics for text in topic.texts]
    scores = model.predict(pairs, batch_size=5, show_progress_bar=False, **asked)
    return scores if scores.ndim == 1 else scores[:, 1] - scores[:, 0]


def ours(folder: Path, topics: list[Candidates], budget: int = 300, **options: Any) -> np.ndarray:
    """Scores of the engine."""
    engine = Engine(
        load(str(folder), **options), device="cpu", dtype="float32", token_budget=budget, progress=False
    )
    return np.concatenate(engine(topics, everything(topics)))[:, 0]


def set_json(path: Path, **changes: Any) -> None:
    """Changes keys of a JSON file; None drops one."""
    content = json.loads(path.read_text()) if path.is_file() else {}
    content = {key: value for key, value in (content | changes).items() if value is not None}
    path.write_text(json.dumps(content))
