"""Rotary positions for packed tokens (Su et al., 2021), plain or stretched by NTK scaling."""

from __future__ import annotations

import math

import torch


def frequencies(size: int, theta: float, factor: float = 1.0, mixed: float | None = None) -> torch.Tensor:
    """Radians per position of each pair of a head of ``size``, (size / 2,), in fp32.

    ``factor`` stretches the positions: by a larger base, and all frequencies by ``factor^(2 / size)``; with
    ``mixed`` b by ``factor^((i / n)^b)`` for the i-th of n pairs instead (Su, "mixed NTK").
    """
    pairs = size // 2
    exponent = torch.arange(pairs, dtype=torch.float64) / pairs
    if mixed is not None:
        order = torch.arange(1, pairs + 1, dtype=torch.float64)
        stretch = torch.exp(math.log(factor) * (order / pairs) ** mixed)
        return torch.div(torch.pow(theta, -exponent), stretch).float()
    return torch.div(torch.pow(theta * factor, -exponent), factor ** (1 / pairs)).float()


def rotation(
    positions: torch.Tensor, frequency: torch.Tensor, dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosines and sines of positions (T,), each (T, 1, d / 2), computed in fp32."""
    angle = (positions.float()[:, None] * frequency)[:, None]
    return angle.cos().to(dtype), angle.sin().to(dtype)


def turn(values: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Turns values (T, heads, d): the first half of each head against the second."""
    left, right = values.chunk(2, dim=-1)
    return torch.cat([left * cos - right * sin, right * cos + left * sin], dim=-1)
