"""Numbers that no training can mean: refused before any work, each with its flag."""

from __future__ import annotations

import math

from ...rerank.errors import UsageError
from .options import TrainingOptions

AT_LEAST = {
    "list_size": 2,
    "per_device_train_batch_size": 1,
    "gradient_accumulation_steps": 1,
    "dataloader_num_workers": 0,
    "max_steps": 0,
    "learning_rate": 0,
    "head_learning_rate": 0,
    "warmup_ratio": 0,
    "weight_decay": 0,
    "max_grad_norm": 0,
    "dropout": 0,
    "max_length": 8,
    "token_budget": 1,
    "dev_depth": 1,
    "dev_holdout": 0,
    "eval_steps": 1,
    "save_steps": 1,
    "logging_steps": 1,
    "early_stopping_patience": 0,
    "seed": 0,
}
"""The least that each number may be; None, where an option can be None, is always allowed."""
AT_MOST = {"warmup_ratio": 1.0, "dropout": 0.99, "seed": 2**32 - 1}


def check_numbers(options: TrainingOptions) -> None:
    """UsageError that names every option whose number is not finite, too small or too large."""
    problems = []
    for name, least in AT_LEAST.items():
        value = getattr(options, name)
        if value is None:
            continue
        most = AT_MOST.get(name)
        if not math.isfinite(value):
            problems.append(f"{_flag(name)} must be a finite number, not {value}")
        elif value < least:
            problems.append(f"{_flag(name)} must be at least {least}, not {value}")
        elif most is not None and value > most:
            problems.append(f"{_flag(name)} must be at most {most}, not {value}")
    if not options.max_steps and not 0 < options.num_train_epochs < math.inf:
        problems.append("--max-steps or --num-train-epochs must be above 0, and finite")
    if problems:
        raise UsageError("; ".join(problems))


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"
