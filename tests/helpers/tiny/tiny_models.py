"""Tiny random checkpoints with tokenizers, written to a folder: every architecture without a network."""

from __future__ import annotations

import random
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sparring.rerank.engine.batches import Batch
from sparring.rerank.engine.shards import build_shard
from sparring.rerank.engine.token_store import TokenStore
from sparring.rerank.vocabulary import Candidates
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

_TEXT = """the a of and to in is for on with ranking model passage query document search engine neural token score pair
list topic first best order river mountain coffee bread market science history language music planet ocean winter
garden machine learning theory evidence method result compare sample graph vector matrix number large small"""
WORDS = tuple(_TEXT.split())


def sentence(rng: random.Random, words: int) -> str:
    """A sentence of known words, some with punctuation, capitals and rare spellings."""
    chosen = [rng.choice(WORDS) for _ in range(words)]
    chosen = [w.capitalize() if rng.random() < 0.1 else w for w in chosen]
    return " ".join(w + rng.choice([",", ".", "?", "'s", "-" + w]) if rng.random() < 0.15 else w for w in chosen)


def corpus(seed: int = 0, size: int = 400) -> list[str]:
    """Sentences to train tokenizers on."""
    rng = random.Random(seed)
    return [sentence(rng, rng.randint(3, 30)) for _ in range(size)]


@cache
def wordpiece() -> PreTrainedTokenizerFast:
    """A BERT tokenizer: lower-cased WordPiece, ``[CLS] a [SEP] b [SEP]`` with types 0 and 1."""
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    backend = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer()
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.train_from_iterator(corpus(), trainers.WordPieceTrainer(vocab_size=300, special_tokens=special))
    cls, sep = backend.token_to_id("[CLS]"), backend.token_to_id("[SEP]")
    backend.post_processor = processors.BertProcessing(("[SEP]", sep), ("[CLS]", cls))
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]",
        mask_token="[MASK]", model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )  # fmt: skip


@cache
def unigram() -> PreTrainedTokenizerFast:
    """An XLM-R tokenizer: SentencePiece unigram, ``<s> a </s></s> b </s>``, padding id 1."""
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    backend = Tokenizer(models.Unigram())
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Metaspace()
    backend.train_from_iterator(
        corpus(), trainers.UnigramTrainer(vocab_size=300, special_tokens=special, unk_token="<unk>")
    )
    backend.post_processor = processors.RobertaProcessing(
        ("</s>", backend.token_to_id("</s>")), ("<s>", backend.token_to_id("<s>")), trim_offsets=True
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", eos_token="</s>", cls_token="<s>", sep_token="</s>",
        pad_token="<pad>", unk_token="<unk>", mask_token="<mask>",
    )  # fmt: skip


@cache
def byte_bpe(pair: str = "roberta") -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer: ``roberta`` adds ``<s> a </s></s> b </s>``, ``modernbert`` ``[CLS] a [SEP] b [SEP]``,
    ``none`` nothing (causal models)."""
    names = {
        "roberta": ["<s>", "<pad>", "</s>", "<unk>"],
        "modernbert": ["[CLS]", "[PAD]", "[SEP]", "[UNK]"],
        "none": ["<|im_start|>", "<|endoftext|>", "<|im_end|>", "<unk>"],
    }[pair]
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    backend.train_from_iterator(
        corpus(), trainers.BpeTrainer(vocab_size=400, special_tokens=names, initial_alphabet=alphabet)
    )
    first, pad, sep, _ = names
    if pair == "roberta":
        backend.post_processor = processors.RobertaProcessing((sep, 2), (first, 0), add_prefix_space=False)
    elif pair == "modernbert":
        backend.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B [SEP]", special_tokens=[("[CLS]", 0), ("[SEP]", 2)]
        )
    special: dict[str, Any] = {"pad_token": pad, "eos_token": sep}
    if pair != "none":
        special |= {"cls_token": first, "sep_token": sep}
    else:
        special |= {"additional_special_tokens": [first]}
    return PreTrainedTokenizerFast(tokenizer_object=backend, **special)


SIZES = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 48}


def classifier_config(kind: str, vocabulary: int, labels: int = 1, positions: int = 96, pad: int = 0) -> Any:
    """The config of a tiny sequence classifier of one architecture."""
    from transformers import (
        BertConfig,
        DebertaV2Config,
        ElectraConfig,
        ModernBertConfig,
        RobertaConfig,
        XLMRobertaConfig,
    )

    common: dict[str, Any] = SIZES | {"vocab_size": vocabulary, "num_labels": labels, "pad_token_id": pad}
    if kind == "modernbert":
        return ModernBertConfig(
            **common, max_position_embeddings=positions, local_attention=16, global_attn_every_n_layers=2,
            cls_token_id=0, sep_token_id=2, bos_token_id=0, eos_token_id=2, classifier_pooling="cls",
        )  # fmt: skip
    if kind == "deberta-v2":
        return DebertaV2Config(
            **common, max_position_embeddings=positions, relative_attention=True, position_buckets=16,
            pos_att_type=["p2c", "c2p"], position_biased_input=False, share_att_key=True, norm_rel_ebd="layer_norm",
        )  # fmt: skip
    classes = {
        "bert": BertConfig,
        "electra": ElectraConfig,
        "roberta": RobertaConfig,
        "xlm-roberta": XLMRobertaConfig,
    }
    extra = {"embedding_size": 24} if kind == "electra" else {}
    types = 2 if kind in ("bert", "electra") else 1
    return classes[kind](**common, **extra, max_position_embeddings=positions, type_vocab_size=types)


TOKENIZERS = {
    "bert": wordpiece, "electra": wordpiece, "deberta-v2": wordpiece, "xlm-roberta": unigram,
    "roberta": byte_bpe, "modernbert": lambda: byte_bpe("modernbert"),
}  # fmt: skip


def save_classifier(folder: Path, kind: str, labels: int = 1, seed: int = 0, positions: int = 96) -> Path:
    """A tiny random cross-encoder of architecture ``kind`` with its tokenizer; weights large enough to matter."""
    from transformers import AutoModelForSequenceClassification

    tokenizer = TOKENIZERS[kind]()
    config = classifier_config(kind, len(tokenizer), labels, positions, tokenizer.pad_token_id)
    torch.manual_seed(seed)
    model = AutoModelForSequenceClassification.from_config(config)
    enlarge(model)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def save_bi_encoder(
    folder: Path, seed: int = 0, similarity: str = "cosine", prompts: bool = False, dense: bool = False
) -> Path:
    """A tiny random sentence-transformers model, mean-pooled; ``dense`` adds a module with weights of its own."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.models import Dense, Pooling, Transformer
    from transformers import BertConfig, BertModel

    tokenizer = wordpiece()
    torch.manual_seed(seed)
    body = BertModel(BertConfig(**SIZES, vocab_size=len(tokenizer), max_position_embeddings=64))
    body.save_pretrained(folder / "body")
    tokenizer.save_pretrained(folder / "body")
    transformer = Transformer(str(folder / "body"), max_seq_length=32)
    words = {"query": "search query: ", "document": "passage: "} if prompts else None
    modules = [transformer, Pooling(SIZES["hidden_size"], "mean")]
    modules += [Dense(SIZES["hidden_size"], 16)] if dense else []
    model = SentenceTransformer(modules=modules, device="cpu", similarity_fn_name=similarity, prompts=words)
    model.save_pretrained(str(folder / "model"), create_model_card=False)
    return folder / "model"


def enlarge(model: torch.nn.Module, scale: float = 8.0) -> None:
    """Scales the weight matrices up, so that tiny random models give scores that differ visibly."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(scale)


def tiny_topics(count: int = 3, size: int = 12, seed: int = 5, words: int = 25) -> list[Candidates]:
    rng = random.Random(seed)
    return [
        Candidates(
            f"q{t}",
            sentence(rng, 4),
            tuple(f"d{i}" for i in range(size)),
            [sentence(rng, rng.randint(1, words)) for _ in range(size)],
            -np.arange(size, dtype=np.float64),
        )
        for t in range(count)
    ]


def everything(topics: list[Candidates]) -> list[np.ndarray]:
    """Every candidate of each topic alone."""
    return [np.arange(len(topic), dtype=np.int32)[:, None] for topic in topics]


def whole(topics: list[Candidates]) -> list[np.ndarray]:
    """All candidates of each topic as one list."""
    return [np.arange(len(topic), dtype=np.int32)[None] for topic in topics]


def batch_of(model: Any, topics: list[Candidates], groups: list[np.ndarray]) -> Batch:
    """One batch of all groups, as a model gets it."""
    shard = build_shard(TokenStore(model.tokenizer, 512), model, topics, groups, range(len(topics)))
    return shard.batch(np.arange(len(shard)))


def hugging_face(folder: Path, topics: list[Candidates], length: int) -> np.ndarray:
    """The scores by transformers' own classifier: one padded batch per topic, eager attention."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    model = AutoModelForSequenceClassification.from_pretrained(folder, attn_implementation="eager").eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    rows = []
    for topic in topics:
        encoded = tokenizer(
            [topic.query] * len(topic), list(topic.texts), padding=True, truncation="only_second",
            max_length=length, return_tensors="pt",
        )  # fmt: skip
        with torch.inference_mode():
            logits = model(**encoded).logits
        rows.append(logits[:, 0] if logits.shape[1] == 1 else logits[:, 1] - logits[:, 0])
    return torch.cat(rows).numpy()


def tokenised(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """From now on, how often each text is handed to a tokenizer by a `TokenStore`."""
    given: Counter[str] = Counter()
    encode = TokenStore._encode

    def counted(store: TokenStore, texts: list[str]) -> list[list[int]]:
        given.update(texts)
        return encode(store, texts)

    monkeypatch.setattr(TokenStore, "_encode", counted)
    return given
