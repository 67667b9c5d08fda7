"""Attention over packed sequences: every token sees its own sequence only, and nothing is padded.

Registered with transformers under `PACKED`; `packed_kwargs` makes the keyword arguments that carry the lengths
from the model's call to the attention function. CUDA in half precision uses ``varlen_attn`` of torch; elsewhere
runs of sequences of equal length share one ``scaled_dot_product_attention``, since batches are sorted by length.
"""

from __future__ import annotations

import inspect
from functools import cache
from typing import Any

import numpy as np
import torch
from torch.nn.functional import scaled_dot_product_attention

from .batching import Batch

PACKED = "sparring_packed"
Runs = list[tuple[int, int, int]]
"""Neighbouring sequences of equal length: first token, number of sequences, length."""


def runs_of(batch: Batch) -> Runs:
    """The runs of equal length in a batch."""
    lengths = batch.lengths
    edges = np.concatenate([[0], np.flatnonzero(np.diff(lengths)) + 1, [len(lengths)]])
    counts = np.diff(edges)
    sizes = lengths[edges[:-1]]
    starts = np.cumsum(counts * sizes) - counts * sizes
    return list(zip(starts.tolist(), counts.tolist(), sizes.tolist(), strict=True))


def packed_kwargs(batch: Batch, deterministic: bool = False) -> dict[str, Any]:
    """Keyword arguments for a transformers model whose attention is `PACKED`."""
    longest = int(batch.lengths.max())
    return {
        "attention_mask": None,
        "cu_seq_lens_q": batch.boundaries,
        "cu_seq_lens_k": batch.boundaries,
        "max_length_q": longest,
        "max_length_k": longest,
        "sequence_runs": runs_of(batch),
        "fixed_splits": deterministic,
    }


def packed_attention(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Attention inside each sequence; query, key and value are (1, heads, T, d), the result is (1, T, heads, d).

    A module with ``is_causal`` sees no later token; ``sliding_window`` w lets i see j where |i - j| < w.
    """
    causal = bool(getattr(module, "is_causal", False))
    if _kernel_fits(query, sliding_window):
        out = _cuda(query, key, value, scaling, causal, sliding_window, kwargs)
    else:
        out = _by_runs(query, key, value, scaling, causal, sliding_window, kwargs["sequence_runs"])
    return out, None


def _by_runs(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    scaling: float | None,
    causal: bool,
    window: int | None,
    runs: Runs,
) -> torch.Tensor:
    heads, grouped = query.shape[1], query.shape[1] != key.shape[1]
    parts = []
    for start, count, length in runs:
        stop = start + count * length
        q, k, v = (
            x[0, :, start:stop].reshape(x.shape[1], count, length, -1).transpose(0, 1) for x in (query, key, value)
        )
        mask = None
        if window is not None and length > window:
            place = torch.arange(length, device=query.device)
            distance = place[:, None] - place[None, :]
            mask = (distance < window) & ((distance >= 0) if causal else (distance > -window))
        out = scaled_dot_product_attention(
            q, k, v, attn_mask=mask, is_causal=causal and mask is None, scale=scaling, enable_gqa=grouped
        )
        parts.append(out.transpose(1, 2).reshape(count * length, heads, -1))
    return (parts[0] if len(parts) == 1 else torch.cat(parts))[None]


def _kernel_fits(query: torch.Tensor, window: int | None) -> bool:
    found = _varlen() if query.is_cuda and query.dtype in (torch.bfloat16, torch.float16) else None
    return found is not None and (window is None or "window_size" in found[1])


@cache
def _varlen() -> tuple[Any, frozenset[str]] | None:
    """torch's variable-length attention and the parameters it has in this release; None where it is absent."""
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return None
    return varlen_attn, frozenset(inspect.signature(varlen_attn).parameters)


def _cuda(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    scaling: float | None,
    causal: bool,
    window: int | None,
    kwargs: dict[str, Any],
) -> torch.Tensor:
    found = _varlen()
    if found is None:
        raise RuntimeError("torch has no varlen_attn")
    function, known = found
    options: dict[str, Any] = {}
    if scaling is not None:
        if "scale" in known:
            options["scale"] = scaling
        else:  # torch 2.10 scales by the head size alone
            query = query * (scaling * query.shape[-1] ** 0.5)
    if "window_size" in known:
        reach = -1 if window is None else window - 1
        options["window_size"] = (reach, 0 if causal else reach)
    elif "is_causal" in known:  # torch 2.10
        options["is_causal"] = causal
    if query.shape[1] != key.shape[1]:
        if "enable_gqa" in known:
            options["enable_gqa"] = True
        else:
            times = query.shape[1] // key.shape[1]
            key, value = key.repeat_interleave(times, 1), value.repeat_interleave(times, 1)
    if kwargs.get("fixed_splits") and "num_splits" in known:
        options["num_splits"] = 1  # one split per sequence: bits do not depend on the neighbours
    q, k, v = (x[0].transpose(0, 1).contiguous() for x in (query, key, value))
    cu, longest = kwargs["cu_seq_lens_q"], kwargs["max_length_q"]
    out: torch.Tensor = function(q, k, v, cu, cu, longest, longest, **options)
    return out[None]


def register() -> None:
    """Makes `PACKED` known to transformers."""
    from transformers import AttentionInterface

    AttentionInterface.register(PACKED, packed_attention)
