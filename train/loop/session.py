"""What every training does before and after its steps, whatever is trained."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from transformers import TrainerCallback, set_seed

from ...rerank import console
from ...rerank.engine.devices import choose_device
from ..data.mixture import Mixture
from .callbacks import Patience, tensorboard
from .card import Report
from .checkpoints import install_best, keep_best, read_best
from .folder import push
from .options import TrainingOptions
from .trainer import Measured


def begin(options: TrainingOptions) -> torch.device:
    """Seeds everything, and says where the training runs."""
    set_seed(options.seed)
    return choose_device(options.device)


def callbacks(options: TrainingOptions, checkpoint: Path | None) -> list[TrainerCallback]:
    """What a training is watched by, beside its record."""
    found: list[TrainerCallback] = []
    if options.early_stopping_patience and options.dev_run is not None:
        found.append(Patience(options.early_stopping_patience))
    if options.tensorboard:
        found.append(tensorboard(options.output_dir, checkpoint))
    return found


def run(
    trainer: Measured,
    options: TrainingOptions,
    mixture: Mixture,
    checkpoint: Path | None,
    write_card: Callable[[TrainingOptions, Report], Path],
) -> None:
    """Trains from a checkpoint on, and leaves the best model with its card in ``output_dir``."""
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    trainer.check_finite()
    if not trainer.is_world_process_zero():
        return
    output = options.output_dir
    best = read_best(output)
    if best is None:
        keep_best(output, trainer.ranker.save, None)
    install_best(output)
    write_card(options, Report(mixture.describe(), best, trainer.record.seconds, trainer.record.pairs))
    value = f"{best['measure']} {best['value']:.4f} at step {best['step']}" if best else "no development set"
    console.out(f"{output}: {value}")
    if options.push_to_hub:
        push(output, options.push_to_hub)
