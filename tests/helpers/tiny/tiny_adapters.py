"""Tiny random adapters, made by peft on the tiny checkpoints of `tiny_models`."""

from __future__ import annotations

import copy
import shutil
from pathlib import Path
from typing import Any

import torch


def save_adapter(folder: Path, base: Path, task: str | None = "SEQ_CLS", seed: int = 3, **options: Any) -> Any:
    """Writes an adapter of ``base`` with random weights and returns the merged model, by peft's own code.

    ``options`` are those of ``LoraConfig``; the tokenizer is not copied, as peft does not.
    """
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModel, AutoModelForCausalLM, AutoModelForSequenceClassification

    kinds: dict[str | None, tuple[Any, dict[str, Any]]] = {
        "SEQ_CLS": (AutoModelForSequenceClassification, {"num_labels": 1}),
        "CAUSAL_LM": (AutoModelForCausalLM, {}),
    }
    auto, more = kinds.get(task, (AutoModel, {}))
    torch.manual_seed(seed)
    module = auto.from_pretrained(base, dtype=torch.float32, **more)
    config = LoraConfig(**{"r": 4, "lora_alpha": 8, "task_type": task, **copy.deepcopy(options)})
    model = get_peft_model(module, config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                scale = 0.3 if "lora_" in name else float(parameter.abs().mean().clamp(min=0.1))
                parameter.add_(torch.randn_like(parameter) * scale)
    model.save_pretrained(folder)
    (folder / "README.md").unlink(missing_ok=True)
    return model.merge_and_unload().eval()


def save_merged(folder: Path, module: Any, base: Path) -> Path:
    """Writes a merged model as a whole checkpoint, with the tokenizer of its base."""
    module.save_pretrained(folder)
    for path in base.glob("tokenizer*"):
        shutil.copy(path, folder)
    return folder
