"""Weights in a precision: what that does to a fingerprint, and that nobody rounds them twice."""

from __future__ import annotations

import hashlib
from weakref import WeakKeyDictionary

import torch

from ..errors import UsageError
from .devices import dtype_name
from .model import AnyModel, longest_input

_lowered: WeakKeyDictionary[AnyModel, torch.dtype] = WeakKeyDictionary()


def claim_precision(model: AnyModel, dtype: torch.dtype) -> None:
    """Refuses weights that another scorer has rounded to another precision: their fingerprint would be a lie."""
    before = _lowered.get(model, dtype)
    if before != dtype:
        raise UsageError(
            f"{model.name}: its weights were rounded to {dtype_name(before)} by another engine; load the model "
            f"again to use {dtype_name(dtype)}"
        )
    if dtype != torch.float32:
        _lowered[model] = dtype


def in_precision(fingerprint: str, dtype: torch.dtype) -> str:
    """The fingerprint of a model that runs in a precision."""
    return hashlib.sha256(f"{fingerprint} {dtype_name(dtype)}".encode()).hexdigest()


def described(model: AnyModel, dtype: torch.dtype) -> dict[str, object]:
    """What the fingerprint of a model that batches on its own stands for, in readable fields."""
    return {
        "model": model.name,
        "weights, config and input": model.fingerprint[:16],
        "length": longest_input(model),
        "dtype": dtype_name(dtype),
    }
