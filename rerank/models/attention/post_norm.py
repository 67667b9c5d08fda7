"""A lean forward pass for post-norm encoders (BERT, ELECTRA, RoBERTa, XLM-R), equal to transformers' to 1e-5.

One projection for query, key and value; the last layer computes only what the first token needs, which is all that
a cross-encoder's head reads. On CPUs a layer goes through the batch by blocks that stay in the cache, and weights
of linear layers are packed once for the matrix kernels, which apply GELU and add residuals as they write.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import nn
from torch.nn.functional import gelu, linear

from ...engine.batches import Batch
from . import mkldnn
from .cpu_blocks import TOKENS, fits
from .layers import TYPED, LayerParts, PostNormParts, parts_of
from .packed import Layout, Mixing

ROWS = 512  # weights are packed for so many tokens; 4 x hidden values of each stay in a core's cache


def token_states(body: Any, batch: Batch, **attention: Any) -> torch.Tensor:
    """Last states of all tokens, (T, H), by a transformers encoder's own forward pass.

    ``attention`` are the keyword arguments of its attention function (see `packed.packed_kwargs`).
    """
    typed = {"token_type_ids": batch.segments[None]} if body.config.model_type in TYPED else {}
    states: torch.Tensor = body(
        input_ids=batch.input_ids[None], position_ids=batch.positions[None], **typed, **attention
    ).last_hidden_state[0]
    return states


class PostNormEncoder(nn.Module):
    """States of the first tokens, computed from the weights of a transformers encoder.

    Args:
        body: the encoder, whose weights are taken over.
        live: reads the weights of ``body`` at every pass instead, with gradients, for training without dropout.
    """

    def __init__(self, body: Any, live: bool = False) -> None:
        super().__init__()
        parts = parts_of(body)
        self.words, self.positions = parts.embeddings.words, parts.embeddings.positions
        self.types, self.norm = parts.embeddings.types, parts.embeddings.norm
        self.project = parts.embeddings.project
        kind = _Live if live else _Linear
        self.layers = nn.ModuleList(_Layer(parts, layer, kind) for layer in parts.layers)
        if not live:
            self.eval()

    def forward(self, batch: Batch, deterministic: bool = False, layout: Mixing | None = None) -> torch.Tensor:
        """States of the first tokens after the last layer, (S, H); ``layout`` says who attends to whom.

        By default a token attends to its own sequence.
        """
        inputs = torch.stack([batch.input_ids, batch.positions, batch.segments])
        parts = torch.split(inputs, TOKENS, dim=1) if inputs.device.type == "cpu" else [inputs]
        states = torch.cat([self._embed(*part) for part in parts])
        layout = layout or Layout(batch)
        *layers, last = cast("list[_Layer]", list(self.layers))
        for layer in layers:
            states = layer(states, layout, deterministic)
        return last.first_tokens(states, layout, deterministic)

    def _embed(self, words: torch.Tensor, positions: torch.Tensor, types: torch.Tensor) -> torch.Tensor:
        states: torch.Tensor = self.norm(self.words(words) + self.positions(positions) + self.types(types))
        return states if self.project is None else self.project(states)

    def pack(self) -> None:
        """Lays the weights out for the CPU's bf16 kernels; to be called when they have moved or changed dtype."""
        for part in self.modules():
            if isinstance(part, _Linear):
                part.pack_weight()


class _Linear(nn.Linear):
    """A linear layer that keeps a packed copy of its weight where that is faster (CPU, bf16)."""

    def __init__(self, *sources: nn.Linear) -> None:
        weight = torch.cat([source.weight.detach() for source in sources])
        nn.Module.__init__(self)
        self.out_features, self.in_features = weight.shape
        self.weight = nn.Parameter(weight, requires_grad=False)
        bias = torch.cat([source.bias.detach() for source in sources])
        self.bias = nn.Parameter(bias, requires_grad=False)
        self._packed: torch.Tensor | None = None
        self._ops: mkldnn.Operations | None = None

    @property
    def packed(self) -> bool:
        """Whether the CPU's fused kernels do the work."""
        return self._packed is not None

    def pack_weight(self) -> None:
        suits = self.weight.device.type == "cpu" and self.weight.dtype == torch.bfloat16
        self._ops = mkldnn.operations() if suits else None
        self._packed = None if self._ops is None else self._ops.pack(self.weight.detach(), ROWS)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        if self._packed is None or self._ops is None:
            return linear(states, self.weight, self.bias)
        return self._ops.linear(states, self._packed, self.bias)

    def gelu(self, states: torch.Tensor) -> torch.Tensor:
        """The exact GELU of the layer's output."""
        if self._packed is None or self._ops is None:
            out: torch.Tensor = gelu(self(states))
            return out
        return self._ops.gelu(states, self._packed, self.bias)

    def plus(self, states: torch.Tensor, residual: torch.Tensor) -> torch.Tensor:
        """The layer's output plus a residual."""
        if self._packed is None or self._ops is None:
            summed: torch.Tensor = self(states) + residual
            return summed
        return self._ops.plus(states, residual, self._packed, self.bias)


class _Live(nn.Module):
    """Linear layers that remain their owner's, side by side as one: what `_Linear` does, with gradients."""

    packed = False

    def __init__(self, *sources: nn.Linear) -> None:
        super().__init__()
        self.sources = nn.ModuleList(sources)
        self.in_features = sources[0].in_features

    @property
    def weight(self) -> torch.Tensor:
        return self._joined("weight")

    @property
    def bias(self) -> torch.Tensor:
        return self._joined("bias")

    def _joined(self, name: str) -> torch.Tensor:
        found: list[torch.Tensor] = [getattr(source, name) for source in self.sources]
        return found[0] if len(found) == 1 else torch.cat(found)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        return linear(states, self.weight, self.bias)

    def gelu(self, states: torch.Tensor) -> torch.Tensor:
        """The exact GELU of the layer's output."""
        return gelu(self(states))

    def plus(self, states: torch.Tensor, residual: torch.Tensor) -> torch.Tensor:
        """The layer's output plus a residual."""
        out: torch.Tensor = self(states) + residual
        return out


class _Layer(nn.Module):
    """One post-norm layer over packed tokens."""

    def __init__(self, parts: PostNormParts, layer: LayerParts, kind: type[_Linear | _Live]) -> None:
        super().__init__()
        self.heads, self.head_size = parts.heads, parts.head_size
        self.scaling = self.head_size**-0.5
        self.qkv = kind(layer.query, layer.key, layer.value)
        self.attention_out = kind(layer.attention_out)
        self.attention_norm = layer.attention_norm
        self.inner = kind(layer.inner)
        self.activation = layer.activation
        self.exact_gelu = parts.exact_gelu
        self.out = kind(layer.out)
        self.norm = layer.norm

    def forward(self, states: torch.Tensor, layout: Mixing, deterministic: bool) -> torch.Tensor:
        """All tokens: states (T, H) to states (T, H)."""
        if not fits(states):
            qkv = self._by_head(self.qkv(states))
            return self._feed(states, layout.mix(qkv, self.scaling, deterministic).flatten(1))
        weight, bias = self.qkv.weight, self.qkv.bias
        shared = layout.shared(lambda places: self._keys_values(states.index_select(0, places), weight, bias))
        for block in layout.blocks(self.heads, states.dtype):
            own = states[block.tokens]
            mixed = block.mix(self._by_head(self.qkv(own)), self.scaling, shared).flatten(1)
            for rows, values in zip(torch.split(own, ROWS), torch.split(mixed, ROWS), strict=True):
                rows.copy_(self._feed(rows, values))  # no other block reads them
        return states

    def first_tokens(self, states: torch.Tensor, layout: Mixing, deterministic: bool) -> torch.Tensor:
        """First tokens alone: states (T, H) to states (S, H)."""
        width = self.qkv.in_features
        first = states.index_select(0, layout.boundaries[:-1])
        # three quarters of a layer's work is on rows that nobody reads again: only keys and values need all tokens
        weight, bias = self.qkv.weight, self.qkv.bias  # in training each access joins them anew
        q = self._by_head(linear(first, weight[:width], bias[:width]))[:, 0]
        if not fits(states):
            mixed = layout.mix_first(q, self._keys_values(states, weight, bias), self.scaling, deterministic)
            return self._feed(first, mixed.flatten(1))
        shared = layout.shared(lambda places: self._keys_values(states.index_select(0, places), weight, bias))
        parts = []
        for block in layout.blocks(self.heads, states.dtype):
            kv = self._keys_values(states[block.tokens], weight, bias)
            parts.append(block.mix_first(q[block.sequences], kv, self.scaling, shared))
        return self._feed(first, torch.cat(parts).flatten(1))

    def _by_head(self, projected: torch.Tensor) -> torch.Tensor:
        return projected.view(len(projected), -1, self.heads, self.head_size)

    def _keys_values(self, states: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        """Keys and values (T, 2, heads, d), by the weights of queries, keys and values."""
        width = self.qkv.in_features
        return self._by_head(linear(states, weight[width:], bias[width:]))

    def _feed(self, states: torch.Tensor, mixed: torch.Tensor) -> torch.Tensor:
        states = self.attention_norm(self.attention_out.plus(mixed, states))
        inner = self.inner.gelu(states) if self.exact_gelu else self.activation(self.inner(states))
        out: torch.Tensor = self.norm(self.out.plus(inner, states))
        return out
