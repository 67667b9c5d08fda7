"""What to do with a checkpoint that no family claims: its files do not say what it is, and its name may not."""

from __future__ import annotations

from ..registry import families
from .checkpoints import Checkpoint

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
