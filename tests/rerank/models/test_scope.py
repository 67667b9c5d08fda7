"""Checkpoints that are known and not run are refused in one line; each of the others has one family."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import tiny_models
from sparring.rerank.errors import UsageError
from sparring.rerank.models.checkpoints import Checkpoint
from sparring.rerank.models.loading import load
from sparring.rerank.registry import families

IMAGES: dict[str, dict[str, Any]] = {
    "Qwen/Qwen3-VL-Reranker-2B": {
        "model_type": "qwen3_vl", "architectures": ["Qwen3VLForConditionalGeneration"], "vision_config": {},
    },
    "jinaai/jina-reranker-m0": {"model_type": "qwen2_vl", "architectures": ["JinaVLForRanking"], "vision_config": {}},
    "nvidia/llama-nemotron-rerank-vl-1b-v2": {
        "model_type": "llama_nemotron_vl_rerank", "architectures": ["LlamaNemotronVLForSequenceClassification"],
    },
    "vidore/colpali-v1.3": {"model_type": "colpali", "architectures": ["ColPali"]},
    "vidore/colqwen2-v1.0": {"model_type": "qwen2_vl", "architectures": ["ColQwen2"]},
    "lightonai/MonoQwen2-VL-v0.1": {
        "model_type": "qwen2_vl", "architectures": ["Qwen2VLForConditionalGeneration"], "vision_config": {},
    },
    "ModernVBERT/colmodernvbert": {"model_type": "modernvbert", "architectures": ["ColModernVBert"]},
    "a/gemma-3-4b": {
        "model_type": "gemma3", "architectures": ["Gemma3ForConditionalGeneration"], "vision_config": {"depth": 2},
    },
}  # fmt: skip

REMOTE: dict[str, tuple[str, dict[str, Any]]] = {
    "Alibaba-NLP/gte-multilingual-reranker-base": ("gte", {
        "model_type": "new", "architectures": ["NewForSequenceClassification"],
        "auto_map": {
            "AutoConfig": "Alibaba-NLP/new-impl--configuration.NewConfig",
            "AutoModelForSequenceClassification": "Alibaba-NLP/new-impl--modeling.NewForSequenceClassification",
        },
    }),
    "jinaai/jina-reranker-v1-turbo-en": ("jina_bert", {
        "model_type": "bert", "architectures": ["JinaBertForSequenceClassification"],
        "auto_map": {
            "AutoConfig": "configuration_bert.JinaBertConfig",
            "AutoModelForSequenceClassification": "modeling_bert.JinaBertForSequenceClassification",
        },
        "position_embedding_type": "alibi",
    }),
    "a fine-tune that says only by its remote code that it is one": ("jina_bert", {
        "model_type": "bert", "architectures": ["BertForSequenceClassification"],
        "auto_map": {
            "AutoConfig": "jinaai/jina-bert-implementation--configuration_bert.JinaBertConfig",
            "AutoModelForSequenceClassification":
                "jinaai/jina-bert-implementation--modeling_bert.JinaBertForSequenceClassification",
        },
    }),
    "jinaai/jina-reranker-v2-base-multilingual": ("jina", {
        "architectures": ["XLMRobertaForSequenceClassification"],
        "auto_map": {
            "AutoConfig": "configuration_xlm_roberta.XLMRobertaFlashConfig",
            "AutoModelForSequenceClassification": "modeling_xlm_roberta.XLMRobertaForSequenceClassification",
        },
    }),
    "one of its fine-tunes": ("jina", {
        "model_type": "xlm-roberta", "architectures": ["XLMRobertaForSequenceClassification"],
        "auto_map": {
            "AutoConfig": "configuration_xlm_roberta.XLMRobertaFlashConfig",
            "AutoModelForSequenceClassification": "modeling_xlm_roberta.XLMRobertaForSequenceClassification",
        },
    }),
    "jinaai/jina-reranker-v3": ("jina_v3", {
        "model_type": "qwen3", "architectures": ["JinaForRanking"],
        "auto_map": {"AutoModel": "modeling.JinaForRanking"},
    }),
    "nvidia/llama-nemotron-rerank-1b-v2": ("nemotron", {
        "model_type": "llama_bidirec", "architectures": ["LlamaBidirectionalForSequenceClassification"],
        "auto_map": {
            "AutoConfig": "llama_bidirectional_model.LlamaBidirectionalConfig",
            "AutoModelForSequenceClassification":
                "llama_bidirectional_model.LlamaBidirectionalForSequenceClassification",
        },
    }),
    "ibm-granite/granite-embedding-reranker-english-r2": ("sequence_classification", {
        "model_type": "modernbert", "architectures": ["ModernBertForSequenceClassification"],
        "classifier_pooling": "cls",
    }),
}  # fmt: skip


def folder_of(folder: Path, config: dict[str, Any]) -> Path:
    """A whole checkpoint with another config."""
    tiny_models.save_classifier(folder, "bert")
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize("name", IMAGES)
def test_what_reads_images_is_refused_in_one_line(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match=r"^[^\n]* reads images: out of scope$"):
        load(str(folder_of(tmp_path / "m", IMAGES[name])))


def test_what_is_known_and_not_run_is_named(tmp_path: Path) -> None:
    folder = folder_of(
        tmp_path / "m", {"model_type": "t5gemma", "architectures": ["T5GemmaForConditionalGeneration"]}
    )
    with pytest.raises(UsageError, match=r"is a T5Gemma: no family of rerankers runs that$"):
        load(str(folder))


@pytest.mark.parametrize("name", REMOTE)
def test_one_family_claims_each_by_what_its_config_says(tmp_path: Path, name: str) -> None:
    family, config = REMOTE[name]
    checkpoint = Checkpoint("a-folder", tmp_path, config, ())
    assert [name for name, cls in families if cls().claims(checkpoint)] == [family]


def test_a_classifier_of_unknown_remote_code_is_not_taken_for_its_namesake(tmp_path: Path) -> None:
    folder = tiny_models.save_classifier(tmp_path / "m", "bert")
    config = json.loads((folder / "config.json").read_text())
    config["auto_map"] = {"AutoModelForSequenceClassification": "modeling_x.BertForSequenceClassification"}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(UsageError, match="remote code BertForSequenceClassification, which is never run"):
        load(str(folder))
    load(str(folder), family="sequence_classification")
