"""Attention by batched products, for CPUs, where they take half the time of torch's fused kernel in bf16.

What a softmax costs on CPUs is not its sum but its maximum and its exponentials: `attended` takes powers of two
of the scores as they are and divides by their sum at the end. bf16 has the exponents of fp32, so that this is as
exact as a softmax wherever the sum is an ordinary number; other rows are done again with their maximum.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch.nn.functional import scaled_dot_product_attention

SCORES = 1 << 20  # attention scores at a time: more would not stay in the cache
SAFE = 2.0**100
"""Sums of exponentials between 1 / SAFE and SAFE lost nothing to the range of the numbers."""


@dataclass(frozen=True, slots=True)
class Shared:
    """Keys and values, each (heads, g, d), that all sequences of a group see.

    Args:
        offset: each sequence has one of them, so many tokens behind its first.
        missing: the last one stands for so many; 0 says that it stands for itself.
    """

    keys: torch.Tensor
    values: torch.Tensor
    offset: int
    missing: int = 0


def attended(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    bias: torch.Tensor | None,
    scaling: float,
    shared: Shared | None = None,
) -> torch.Tensor:
    """Attention of queries (heads, m, a, d) to keys (heads, m, b, d), and to shared ones, (heads, m, a, d).

    ``bias`` (m, 1, b), 0 or -inf, is added to the scores.
    """
    heads, m, asking, d = q.shape
    scale = scaling * math.log2(math.e)
    own = _scores(q.flatten(0, 1), k.flatten(0, 1), scale, bias).exp2_()
    if shared is not None:
        own[..., min(shared.offset, k.shape[2] - 1)] = 0  # it is among the shared ones
    found = torch.bmm(own, v.flatten(0, 1))
    sums = own.sum(-1)
    if shared is not None:
        others = _scores(q.view(heads, m * asking, d), shared.keys, scale).exp2_()
        if shared.missing:
            others[..., -1] *= shared.missing
        found.view(heads, m * asking, d).baddbmm_(others, shared.values)
        sums = sums + others.sum(-1).view(sums.shape)
    low, high = (float(bound) for bound in torch.aminmax(sums))
    found /= sums[..., None]
    if not (low > 1 / SAFE and high < SAFE):
        lost = ~((sums > 1 / SAFE) & (sums < SAFE))
        found = torch.where(lost[..., None], _by_softmax(q, k, v, bias, scaling, shared).flatten(0, 1), found)
    return found.view(q.shape)


def attend(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor | None, scale: float | None
) -> torch.Tensor:
    """Attention of rows (n, heads, w, d) to keys (n, heads, k, d) by what is fastest there.

    Args:
        mask: True on keys that are seen, or what is added to the scores; it broadcasts to (n, 1, w, k).
    """
    if query.dtype == torch.bfloat16 and not query.is_cuda:
        return _in_parts(query, key, value, mask, query.shape[-1] ** -0.5 if scale is None else scale)
    return scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=scale)


def _in_parts(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor | None, scale: float
) -> torch.Tensor:
    """`attend` by two batched products, `SCORES` attention scores at a time.

    On CPUs in bf16 this takes two thirds of the time of torch's fused kernel, whose exponentials are slow, and a
    third of it with gradients.
    """
    n, heads, width, _ = query.shape
    q, k, v = (x.flatten(0, 1) for x in (query, key, value))
    if mask is None or mask.dtype == torch.bool:
        bias = q.new_zeros(n, 1, 1, k.shape[1])
        if mask is not None:
            bias = bias.masked_fill(~mask, -torch.inf)
    else:
        bias = mask
    biases = bias.expand(n, heads, -1, -1).flatten(0, 1)
    kept = None if torch.is_grad_enabled() and q.requires_grad else torch.empty_like(q)
    found = []
    step = max(1, SCORES // (width * k.shape[1]))
    for low in range(0, n * heads, step):
        part = slice(low, low + step)
        scores = torch.baddbmm(biases[part], q[part], k[part].transpose(1, 2), alpha=scale)
        if kept is None:  # gradients do not go through memory that is written to
            found.append(torch.bmm(scores.softmax(-1), v[part]))
        else:
            torch.bmm(scores.softmax(-1), v[part], out=kept[part])
    out = torch.cat(found) if kept is None else kept
    return out.unflatten(0, (n, heads))  # type: ignore[no-untyped-call, no-any-return]


def _scores(q: torch.Tensor, k: torch.Tensor, scale: float, bias: torch.Tensor | None = None) -> torch.Tensor:
    shape = len(q), q.shape[1], k.shape[1]
    if bias is None:
        ignored = q.new_empty(1).expand(shape)  # of a product with beta=0
        return torch.baddbmm(ignored, q, k.transpose(1, 2), beta=0, alpha=scale)
    return torch.baddbmm(bias.repeat(len(q) // len(bias), 1, 1).expand(shape), q, k.transpose(1, 2), alpha=scale)


def _by_softmax(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    bias: torch.Tensor | None,
    scaling: float,
    shared: Shared | None,
) -> torch.Tensor:
    """`attended` in fp32 by torch's softmax, which takes off the maximum: for rows of extreme scores."""
    kind = v.dtype
    q, k, v = q.float(), k.float(), v.float()
    scores = q @ k.transpose(2, 3) * scaling
    if bias is not None:
        scores += bias
    if shared is None:
        return (scores.softmax(-1) @ v).to(kind)
    scores[..., min(shared.offset, k.shape[2] - 1)] = -torch.inf
    keys, values = shared.keys.float()[:, None], shared.values.float()[:, None]
    others = q @ keys.transpose(2, 3) * scaling
    if shared.missing:
        others[..., -1] += math.log(shared.missing)
    shares = torch.cat([scores, others], -1).softmax(-1)
    return (shares[..., : k.shape[2]] @ v + shares[..., k.shape[2] :] @ values).to(kind)
