"""Checkpoints that no family claims: those that are known and not run, and what to do with the others."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from ..errors import UsageError
from ..registry import families
from .checkpoints import Checkpoint

IMAGE_TYPES = frozenset(
    {
        "colidefics", "colpali", "colqwen2", "idefics2", "idefics3", "internvl_chat", "llava", "llava_next",
        "mllama", "moondream1", "paligemma", "phi3_v", "pixtral", "smolvlm", "vision-encoder-decoder",
        "visualbert", "vilt",
    }
)  # fmt: skip
"""Kinds that read images and whose name does not say so by a part of its own."""
IMAGE_PARTS = re.compile(r"(^|[_\-])(vl|vlm|vision|clip|siglip|omni)([_\-]|$)")
IMAGE_CLASSES = re.compile(r"VL[A-Z]|VL$|Vision|^Col(Pali|Qwen|Idefics|Smol|ModernVBert)|^Jina(VL|M0)")
UNCLAIMED = {
    "t5gemma2": "a T5Gemma 2 by its config; a KaLM-Reranker is loaded with --family kalm",
    "t5gemma": "a T5Gemma: no family of rerankers runs that",
}
"""Kinds that no config tells from a language model: what is said where no name on the hub does."""


def reads_images(checkpoint: Checkpoint) -> bool:
    """Whether a config is that of a model that reads images beside text: by its kind, its class, or its parts."""
    kind = checkpoint.model_type.lower()
    return (
        kind in IMAGE_TYPES
        or IMAGE_PARTS.search(kind) is not None
        or IMAGE_CLASSES.search(checkpoint.architecture) is not None
        or isinstance(checkpoint.config.get("vision_config"), dict)
    )


def refuse_out_of_scope(checkpoint: Checkpoint) -> None:
    """Raises UsageError in one line for a checkpoint of a model that reads images."""
    if reads_images(checkpoint):
        named = checkpoint.architecture or checkpoint.model_type
        raise UsageError(f"{checkpoint.name} ({named}) reads images: out of scope")


def refuse_unclaimed(checkpoint: Checkpoint) -> None:
    """Raises UsageError for a checkpoint that no family claims and whose kind is known."""
    if checkpoint.model_type in UNCLAIMED:
        raise UsageError(f"{checkpoint.name} is {UNCLAIMED[checkpoint.model_type]}")


def remote_code(checkpoint: Checkpoint) -> str:
    """The class of remote code that a config names, the classifier's first; empty without one."""
    named = checkpoint.config.get("auto_map")
    return next(_classes(named), "") if isinstance(named, dict) else ""


def _classes(named: dict[str, Any]) -> Iterator[str]:
    for key in ("AutoModelForSequenceClassification", "AutoModelForCausalLM", "AutoModel", "AutoConfig"):
        found = named.get(key)
        if isinstance(found, str) and found:
            yield found.rpartition(".")[2]


CHAT = {"qwen2": "mxbai", "qwen3": "qwen3", "gemma": "bge", "mistral": "ctxl"}
"""The format that most rerankers on an architecture have; there are others of each."""
T5 = ("t5", "mt5", "umt5")


def advice(checkpoint: Checkpoint) -> str:
    """Which families could be meant and the flag to write, in one line."""
    kind, architecture = checkpoint.model_type, checkpoint.architecture
    choose = "choose one with --family "
    if kind in T5 and architecture.endswith(("ForConditionalGeneration", "FiDT5")):
        return (
            f"{choose}'t5(kind=mono)' (monoT5), 't5(kind=duo)' (duoT5), 't5(kind=rank)' (RankT5) or listt5 "
            "(ListT5)"
        )
    if architecture.endswith("ForCausalLM"):
        return (
            f"{choose}'causal(format={CHAT.get(kind, 'qwen3')})' for a reranker that answers yes or no (formats: "
            "qwen3, bge, mxbai, zerank, ctxl; or a prompt of your own), causal_pair or list_llm for a chat model"
        )
    if architecture.endswith("ForSequenceClassification") and kind in ("llama", *CHAT):
        return (
            f"{choose}'causal(format={CHAT.get(kind, 'rankllama')})' for a classifier on a language model "
            "(formats: qwen3, bge, mxbai, zerank, ctxl, rankllama; or a prompt of your own)"
        )
    return f"{choose}({', '.join(families.names())})"
