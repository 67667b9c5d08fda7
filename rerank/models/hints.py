"""What a checkpoint could be that no family claims: its files do not say, and names of folders decide nothing."""

from __future__ import annotations

from .checkpoints import Checkpoint

CHAT = {"qwen2": "mxbai", "qwen3": "qwen3", "gemma": "bge", "mistral": "ctxl"}
"""The format that most rerankers on an architecture have; there are others of each."""
T5 = ("t5", "mt5", "umt5")


def could_be(checkpoint: Checkpoint) -> str | None:
    """What to write after ``--family``, with what it stands for; None where the families' names say as much."""
    kind, architecture = checkpoint.model_type, checkpoint.architecture
    if "vision_config" in checkpoint.config or "audio_config" in checkpoint.config:
        return (
            "of another model: this one reads images or sound, such as LightOn-rerank, Qwen3-VL-Reranker and "
            "jina-reranker-m0, and these are not read here"
        )
    if kind in T5 and architecture.endswith(("ForConditionalGeneration", "FiDT5")):
        return "'t5(kind=mono)' (monoT5), 't5(kind=duo)' (duoT5), 't5(kind=rank)' (RankT5) or listt5 (ListT5)"
    if architecture.endswith("ForCausalLM"):
        return (
            f"'causal(format={CHAT.get(kind, 'qwen3')})' for a reranker that answers yes or no (formats: qwen3, "
            "bge, mxbai, zerank, ctxl; or a prompt of your own), causal_pair or list_llm for a chat model"
        )
    if architecture.endswith("ForSequenceClassification") and kind in ("llama", "mistral", *CHAT):
        return (
            f"'causal(format={'rankllama' if kind == 'llama' else CHAT[kind]})' for a classifier on a language "
            "model (formats: qwen3, bge, mxbai, zerank, ctxl, rankllama; or a prompt of your own)"
        )
    return None
