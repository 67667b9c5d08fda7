"""The training loop: options, trainer, checkpoints, model cards."""
