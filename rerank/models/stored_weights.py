"""Weights of a checkpoint by name, for families whose network is built here and not by transformers."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from ..errors import InputError
from .checkpoints import Checkpoint


def stored(checkpoint: Checkpoint) -> dict[str, torch.Tensor]:
    """All tensors of a checkpoint by name, in fp32 whatever they are stored in."""
    from safetensors.torch import load_file

    state: dict[str, torch.Tensor] = {}
    for path in checkpoint.weights:
        state |= load_file(path)
    return {name: value.float() if value.is_floating_point() else value for name, value in state.items()}


def fill(checkpoint: Checkpoint, module: nn.Module, state: Mapping[str, torch.Tensor], what: str) -> None:
    """Puts weights into a module, all of them; ``what`` says what the checkpoint would have to be.

    Raises InputError where one is missing, superfluous or of another shape.
    """
    own = module.state_dict()
    missing, unexpected = sorted({*own} - {*state}), sorted({*state} - {*own})
    if missing or unexpected:
        raise InputError(f"{checkpoint.name}: not {what}: missing {some(missing)}; unexpected {some(unexpected)}")
    for name, value in own.items():
        if value.shape != state[name].shape:
            raise InputError(
                f"{checkpoint.name}: weights do not fit the config: {name} is {tuple(state[name].shape)} in the "
                f"file, {tuple(value.shape)} by the config"
            )
    module.load_state_dict(dict(state))


def some(names: list[str]) -> str:
    """The first of some names, and how many more there are."""
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "") if names else "nothing"
