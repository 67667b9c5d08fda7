"""torch's attention over packed sequences on CUDA, ``varlen_attn``, whose options differ between releases.

`OPTIONS` says which release takes which; they were read off the documentation of torch 2.10, 2.12 and of the
development version between them, and tried with 2.13. ``tests/rerank/models/attention/test_varlen.py`` says when
an installed release takes others.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch

OPTIONS = {
    (2, 10): frozenset({"is_causal"}),
    (2, 11): frozenset({"scale", "window_size"}),
    (2, 12): frozenset({"scale", "window_size", "enable_gqa", "num_splits"}),
}
"""What ``varlen_attn`` takes besides tensors and lengths, from that release on."""


def options_of(version: str) -> frozenset[str]:
    """The options of ``varlen_attn`` in a release of torch: ``"2.13.0+cu128"``."""
    major, minor = (int(part) for part in version.split(".")[:2])
    return OPTIONS[max((known for known in OPTIONS if known <= (major, minor)), default=min(OPTIONS))]


def kernel_fits(query: torch.Tensor, window: int | None = None) -> bool:
    """Whether torch's variable-length kernel serves these queries."""
    found = _varlen() if query.is_cuda and query.dtype in (torch.bfloat16, torch.float16) else None
    return found is not None and (window is None or "window_size" in found[1])


@cache
def _varlen() -> tuple[Callable[..., Any], frozenset[str]] | None:
    """torch's variable-length attention and the options it takes in this release; None where it is absent."""
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return None
    return varlen_attn, options_of(torch.__version__)


Ends = tuple[torch.Tensor, int]
"""Where sequences end, cumulative lengths (S + 1,), and the longest of them."""


def varlen(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    query_ends: Ends,
    key_ends: Ends,
    scaling: float | None = None,
    causal: bool = False,
    window: int | None = None,
    fixed_splits: bool = False,
) -> torch.Tensor:
    """``varlen_attn`` of the installed torch (2.10 to 2.13 differ); tensors (T, heads, d), ends (cu, longest)."""
    options = _options(scaling, causal, window, fixed_splits)
    out: torch.Tensor = _call(query, key, value, query_ends, key_ends, scaling, options)
    return out


def varlen_lse(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    query_ends: Ends,
    key_ends: Ends,
    scaling: float | None = None,
    window: int | None = None,
    fixed_splits: bool = False,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Values as `varlen` gives them, and the log-sum-exp of every query's attention scores, (T, heads)."""
    from torch.nn.attention.varlen import AuxRequest

    options = _options(scaling, False, window, fixed_splits) | {"return_aux": AuxRequest(lse=True)}
    out, lse = _call(query, key, value, query_ends, key_ends, scaling, options)
    swapped = lse.shape[0] == out.shape[1]  # the documents say (T, heads), the kernel (heads, T)
    return out, lse.T if swapped else lse


def _options(scaling: float | None, causal: bool, window: int | None, fixed_splits: bool) -> dict[str, Any]:
    found = _varlen()
    if found is None:
        raise RuntimeError("this torch has no varlen_attn")
    known = found[1]
    options: dict[str, Any] = {}
    if scaling is not None and "scale" in known:
        options["scale"] = scaling
    if "window_size" in known:
        reach = -1 if window is None else window - 1
        options["window_size"] = (reach, 0 if causal else reach)
    elif "is_causal" in known:
        options["is_causal"] = causal
    if fixed_splits and "num_splits" in known:
        options["num_splits"] = 1  # one split per sequence: bits do not depend on the neighbours
    return options


def _call(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    query_ends: Ends,
    key_ends: Ends,
    scaling: float | None,
    options: dict[str, Any],
) -> Any:
    found = _varlen()
    if found is None:
        raise RuntimeError("this torch has no varlen_attn")
    function, known = found
    if scaling is not None and "scale" not in known:  # torch 2.10 scales by the head size alone
        query = query * (scaling * query.shape[-1] ** 0.5)
    if query.shape[1] != key.shape[1]:
        if "enable_gqa" in known:
            options = options | {"enable_gqa": True}
        else:
            times = query.shape[1] // key.shape[1]
            key, value = key.repeat_interleave(times, 1), value.repeat_interleave(times, 1)
    q, k, v = (x.contiguous() for x in (query, key, value))
    return function(q, k, v, query_ends[0], key_ends[0], query_ends[1], key_ends[1], **options)
