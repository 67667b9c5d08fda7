"""Tiny random encoder-decoders and decoders with tokenizers like the real ones, written to a folder."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import torch
from tiny_models import corpus, enlarge
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

ANSWERS = ("true", "false", "yes", "no", "sim", "não", "Sim", "Não")
QWEN_WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


@cache
def sentencepiece() -> PreTrainedTokenizerFast:
    """A T5 tokenizer: SentencePiece unigram without repeated spaces, ``a </s>``, padding id 0, ``<extra_id_N>``."""
    backend = Tokenizer(models.Unigram())
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    cues = ["Query: Document: Document0: Document1: Relevant: Pergunta: Documento: Relevante:"] * 40
    backend.train_from_iterator(corpus() + cues, trainers.UnigramTrainer(vocab_size=250, unk_token="<unk>"))
    learned = json.loads(backend.to_str())["model"]["vocab"]
    words = [(piece, score) for piece, score in learned if piece not in ("<unk>", "\u2581")]
    words += [("\u2581" + answer, -8.0) for answer in ANSWERS]
    vocabulary = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("\u2581", -6.0), *words]
    backend = Tokenizer(models.Unigram(vocabulary, unk_id=2))
    collapse = normalizers.Replace(Regex(" {2,}"), " ")
    backend.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Strip(left=False), collapse])
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Metaspace()
    backend.post_processor = processors.TemplateProcessing(
        single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", 1)]
    )
    extra = [f"<extra_id_{i}>" for i in range(12)]
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<pad>", eos_token="</s>", unk_token="<unk>",
        additional_special_tokens=extra,
    )  # fmt: skip


def save_t5(folder: Path, kind: str = "t5", tied: bool = True, seed: int = 0) -> Path:
    """A tiny random T5 (1.0 where ``tied``, else 1.1 with a head of its own), mT5 or uMT5 with its tokenizer."""
    from transformers import AutoModelForSeq2SeqLM, MT5Config, T5Config, UMT5Config

    tokenizer = sentencepiece()
    sizes: dict[str, Any] = {
        "vocab_size": len(tokenizer), "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4,
        "decoder_start_token_id": 0, "pad_token_id": 0, "eos_token_id": 1,
        "feed_forward_proj": "relu" if tied else "gated-gelu", "tie_word_embeddings": tied,
    }  # fmt: skip
    classes: dict[str, Any] = {"t5": T5Config, "mt5": MT5Config, "umt5": UMT5Config}
    torch.manual_seed(seed)
    model = AutoModelForSeq2SeqLM.from_config(classes[kind](**sizes))
    enlarge(model, 2.0)
    if not tied:
        model.lm_head.weight = torch.nn.Parameter(torch.randn_like(model.lm_head.weight))
    model.save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": tied}))
    tokenizer.save_pretrained(folder)
    return folder


@cache
def byte_level(specials: tuple[str, ...] = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")) -> Any:
    """A tokenizer as Qwen's: byte-level BPE over Qwen's words, nothing added; line ends join punctuation."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(QWEN_WORDS), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    backend.decoder = decoders.ByteLevel()
    lines = [line + end for line in corpus() for end in ("?\n", ".\n\n", "\n")]
    answers = [" yes no Yes No A B"] * 50 + ["yes\n", "no\n", "Yes\n", "A\n", "B\n"] * 50
    trainer = trainers.BpeTrainer(
        vocab_size=600, special_tokens=list(specials), initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    backend.train_from_iterator(lines + answers, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token=specials[0], eos_token=specials[-1], bos_token=specials[0],
        additional_special_tokens=list(specials[1:-1]),
    )  # fmt: skip


def save_causal(folder: Path, kind: str = "qwen3", labels: int | None = None, **more: Any) -> Path:
    """A tiny random decoder of one architecture with its tokenizer: a language model, or with ``labels`` a classifier."""
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification

    tokenizer = byte_level()
    sizes: dict[str, Any] = {
        "vocab_size": len(tokenizer), "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 1024,
        "pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id,
        "bos_token_id": tokenizer.bos_token_id,
    }  # fmt: skip
    if labels is not None:
        sizes["num_labels"] = labels
    config = AutoConfig.for_model(kind, **(sizes | more))
    torch.manual_seed(0)
    auto = AutoModelForCausalLM if labels is None else AutoModelForSequenceClassification
    model = auto.from_config(config)
    enlarge(model, 8.0)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
