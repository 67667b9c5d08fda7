"""How transformers is told to use an attention function of ours, and what it hands to it.

``AttentionInterface.register`` and ``set_attn_implementation`` are public. Not promised is what these functions
rely on: that keyword arguments of a model's call reach every layer's attention, that query, key and value come as
(1, heads, T, d), and that ``sliding_window`` is given by layers that have one. Tried with transformers 5.23;
``tests/rerank/models/attention/test_interface.py`` says which release changed it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

Attention = Callable[..., tuple[torch.Tensor, None]]
"""(module, query, key, value, attention_mask, scaling, dropout, sliding_window, **kwargs) to (1, T, heads, d)."""


def use(module: Any, name: str, function: Attention) -> None:
    """Makes ``function`` known to transformers under ``name``, and the attention of a model's layers."""
    from transformers import AttentionInterface

    AttentionInterface.register(name, function)
    module.set_attn_implementation(name)
