"""A packed forward pass for post-norm encoders with a gated feed-forward: gte's ("new") and JinaBERT's.

Their own code comes with the checkpoints and is never run. Both are BERT with another feed-forward (Shazeer,
"GLU variants", 2020) and other positions: rotary ones in gte, a bias by distance in JinaBERT. The last layer
computes only what the first token needs, which is all that their heads read.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import torch
from torch import nn
from torch.nn.functional import linear

from ...engine.batches import Batch
from .alibi import AlibiLayout, alibi_slopes
from .packed import Layout
from .rotary import rotation, turn

Activation = Callable[[torch.Tensor], torch.Tensor]
Rotation = tuple[torch.Tensor, torch.Tensor]


@dataclass(frozen=True, slots=True)
class GluShape:
    """An encoder's sizes and kinds.

    Args:
        types: token types; 0 without any.
        gate_first: whether the gate is the first half of the joint projection, else the second.
        frequency: of rotary positions, (d / 2,); None: a bias by distance instead.
        rms: norms divide by the root of the mean square, without centre and bias.
        norm_queries: queries and keys pass a norm of their own, before they are split by head.
        twice: the input is added and normed a second time after attention.
    """

    words: int
    width: int
    layers: int
    heads: int
    inner: int
    types: int
    eps: float
    activation: Activation
    gate_first: bool
    frequency: torch.Tensor | None = None
    rms: bool = False
    norm_queries: bool = False
    twice: bool = False

    def norm(self) -> nn.Module:
        """A new norm of the encoder's width."""
        return nn.RMSNorm(self.width, self.eps) if self.rms else nn.LayerNorm(self.width, self.eps)


class GluEncoder(nn.Module):
    """States of the first tokens of packed sequences."""

    def __init__(self, shape: GluShape) -> None:
        super().__init__()
        self.shape = shape
        self.words = nn.Embedding(shape.words, shape.width)
        self.types = nn.Embedding(shape.types, shape.width) if shape.types else None
        self.norm = shape.norm()
        self.layers = nn.ModuleList(_Layer(shape) for _ in range(shape.layers))

    def forward(self, batch: Batch, deterministic: bool = False) -> torch.Tensor:
        """States of the first tokens after the last layer, (S, H)."""
        states = self.words(batch.input_ids)
        if self.types is not None:
            states = states + self.types(batch.segments)
        states = self.norm(states)
        layout, turned = self._places(batch, states.dtype)
        *layers, last = cast("list[_Layer]", list(self.layers))
        for layer in layers:
            states = layer(states, turned, layout, deterministic)
        return last.first_tokens(states, turned, layout, deterministic)

    def _places(self, batch: Batch, dtype: torch.dtype) -> tuple[Layout, Rotation | None]:
        """Where the tokens lie, once for all layers; the frequencies stay in fp32 whatever the weights are in."""
        device = batch.input_ids.device
        if self.shape.frequency is not None:
            return Layout(batch), rotation(batch.positions, self.shape.frequency.to(device), dtype)
        return AlibiLayout(batch, torch.tensor(alibi_slopes(self.shape.heads), device=device)), None


class _Layer(nn.Module):
    """One post-norm layer over packed tokens."""

    def __init__(self, shape: GluShape) -> None:
        super().__init__()
        self.shape, width = shape, shape.width
        self.scaling = (width // shape.heads) ** -0.5
        self.qkv = nn.Linear(width, 3 * width)
        self.query_norm = shape.norm() if shape.norm_queries else None
        self.key_norm = shape.norm() if shape.norm_queries else None
        self.attention_out = nn.Linear(width, width)
        self.attention_norm = shape.norm()
        self.second_norm = shape.norm() if shape.twice else None
        self.joint = nn.Linear(width, 2 * shape.inner, bias=False)
        self.down = nn.Linear(shape.inner, width)
        self.norm = shape.norm()

    def forward(
        self, states: torch.Tensor, turned: Rotation | None, layout: Layout, deterministic: bool
    ) -> torch.Tensor:
        """All tokens: states (T, H) to states (T, H)."""
        q, k, v = self.qkv(states).chunk(3, dim=-1)
        q, k = self._placed(q, self.query_norm, turned), self._placed(k, self.key_norm, turned)
        mixed = layout.mix(torch.stack([q, k, self._by_head(v)], dim=1), self.scaling, deterministic)
        return self._feed(states, mixed.flatten(1))

    def first_tokens(
        self, states: torch.Tensor, turned: Rotation | None, layout: Layout, deterministic: bool
    ) -> torch.Tensor:
        """First tokens alone: states (T, H) to states (S, H)."""
        width, first = self.shape.width, layout.boundaries[:-1]
        weight, bias = self.qkv.weight, self.qkv.bias
        own = states.index_select(0, first)
        q = linear(own, weight[:width], bias[:width])
        k, v = linear(states, weight[width:], bias[width:]).chunk(2, dim=-1)
        there = None if turned is None else (turned[0].index_select(0, first), turned[1].index_select(0, first))
        q = self._placed(q, self.query_norm, there)
        kv = torch.stack([self._placed(k, self.key_norm, turned), self._by_head(v)], dim=1)
        return self._feed(own, layout.mix_first(q, kv, self.scaling, deterministic).flatten(1))

    def _by_head(self, values: torch.Tensor) -> torch.Tensor:
        return values.unflatten(-1, (self.shape.heads, -1))  # type: ignore[no-untyped-call, no-any-return]

    def _placed(self, values: torch.Tensor, norm: nn.Module | None, turned: Rotation | None) -> torch.Tensor:
        """Queries or keys (T, H) by head, normed and turned by their positions where the encoder does that."""
        values = self._by_head(values if norm is None else norm(values))
        return values if turned is None else turn(values, *turned)

    def _feed(self, states: torch.Tensor, mixed: torch.Tensor) -> torch.Tensor:
        middle = self.attention_norm(self.attention_out(mixed) + states)
        if self.second_norm is not None:
            middle = self.second_norm(middle + states)
        gate, value = self.joint(middle).chunk(2, dim=-1)
        if not self.shape.gate_first:
            gate, value = value, gate
        out: torch.Tensor = self.norm(self.down(self.shape.activation(gate) * value) + middle)
        return out
