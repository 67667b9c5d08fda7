"""torch's packed linear layers on CPUs: private operations, which its own compiler emits for bf16.

No public interface packs a weight once and applies GELU or adds a residual as the product is written. Tried with
torch 2.13; where a release lacks an operation, or torch is built without mkldnn, `operations` is None and plain
linear layers do the work. ``tests/rerank/models/attention/test_mkldnn.py`` says which release changed them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch


@dataclass(frozen=True, slots=True)
class Operations:
    """The three operations; states are (T, in), ``packed`` is what `pack` made of a weight (out, in)."""

    reorder: Callable[..., Any]
    pointwise: Callable[..., Any]
    binary: Callable[..., Any]

    def pack(self, weight: torch.Tensor, rows: int) -> torch.Tensor:
        """A bf16 weight laid out for products with about ``rows`` tokens."""
        packed: torch.Tensor = self.reorder(weight, rows)
        return packed

    def linear(self, states: torch.Tensor, packed: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        """The layer's output, (T, out)."""
        out: torch.Tensor = self.pointwise(states, packed, bias, "none", [], "none")
        return out

    def gelu(self, states: torch.Tensor, packed: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        """The exact GELU of the layer's output, (T, out)."""
        # the last argument says that it is not the approximation by tanh
        out: torch.Tensor = self.pointwise(states, packed, bias, "gelu", [], "none")
        return out

    def plus(
        self, states: torch.Tensor, residual: torch.Tensor, packed: torch.Tensor, bias: torch.Tensor
    ) -> torch.Tensor:
        """The layer's output plus a residual, (T, out)."""
        out: torch.Tensor = self.binary(states, residual, packed, bias, "add")
        return out


@cache
def operations() -> Operations | None:
    """The operations of the installed torch; None where it lacks one of them."""
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return None
    known = torch.ops.mkldnn
    try:
        return Operations(known._reorder_linear_weight, known._linear_pointwise, known._linear_pointwise.binary)
    except AttributeError:
        return None
