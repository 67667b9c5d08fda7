"""What a training asks of ``transformers.Trainer``, whatever is trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from ...rerank.engine.devices import choose_dtype
from .checkpoints import CHECKPOINTS
from .options import TrainingOptions


def steps(options: TrainingOptions, lists: int) -> int:
    """Steps of the optimiser that so many lists make."""
    return -(-lists // (options.per_device_train_batch_size * options.gradient_accumulation_steps))


def arguments(
    options: TrainingOptions, lists: int, device: torch.device, checkpoint: Path | None
) -> dict[str, Any]:
    """Keyword arguments of ``TrainingArguments``; one epoch, because a mixture repeats its rows itself."""
    dtype = choose_dtype(options.dtype, device)
    judged = options.dev_run is not None
    workers = options.dataloader_num_workers
    if workers is None:  # a GPU should not wait for the tokenizer, a CPU has no cores to spare
        workers = 2 if device.type == "cuda" else 0
    patient: dict[str, Any] = {}
    if judged and options.early_stopping_patience:
        patient = {"metric_for_best_model": f"eval_{options.dev_measure}", "greater_is_better": True}
    return patient | {
        "output_dir": str(options.output_dir / CHECKPOINTS),
        "per_device_train_batch_size": options.per_device_train_batch_size,
        "gradient_accumulation_steps": options.gradient_accumulation_steps,
        "num_train_epochs": 1,
        "learning_rate": options.learning_rate,
        "warmup_steps": int(options.warmup_ratio * steps(options, lists)),
        "lr_scheduler_type": options.lr_scheduler_type,
        "weight_decay": options.weight_decay,
        "max_grad_norm": options.max_grad_norm,
        "use_cpu": device.type == "cpu",
        "bf16": dtype == torch.bfloat16,
        "fp16": dtype == torch.float16,
        "seed": options.seed,
        "eval_strategy": "steps" if judged else "no",
        "eval_steps": options.eval_steps,
        "eval_on_start": judged and checkpoint is None,
        "save_strategy": "steps",
        "save_steps": options.save_steps,
        "save_total_limit": 2,
        "logging_steps": options.logging_steps,
        "logging_nan_inf_filter": False,  # the trainer stops at a loss that is not finite
        "remove_unused_columns": False,
        "dataloader_pin_memory": False,
        "dataloader_num_workers": workers,
        "report_to": "none",
        "disable_tqdm": True,
    }
