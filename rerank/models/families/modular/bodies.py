"""The transformer of a modular CrossEncoder: states of the tokens that its pooling reads, packed if possible."""

from __future__ import annotations

from typing import Any, Literal

import torch

from ....engine.batches import Batch
from ....errors import InputError
from ...attention import packed, prefix_tree
from ...attention.layers import POST_NORM
from ...attention.post_norm import PostNormEncoder, token_states
from ...checkpoints import Checkpoint
from ...config_fields import position_limit, token_types
from ...loading import load_pretrained
from ..encoders.sequence_classification import PACKABLE, ROBERTA, SUPPORTED
from ..language_models.causal import PACKABLE as DECODERS

Wanted = Literal["first", "last", "all"]
"""Which tokens of a sequence are read: where it is one, the others' last layer need not be computed."""


class TokenReader:
    """A transformer without a head, placed; ``wanted`` tokens of every sequence are its result."""

    def __init__(self, module: Any, wanted: Wanted, pad_id: int) -> None:
        kind = module.config.model_type
        self.wanted, self.pad_id = wanted, pad_id
        self.decoder = kind in DECODERS
        self.packed = self.decoder or kind in PACKABLE
        self.typed = token_types(module.config) > 1
        self.lean = wanted == "first" and kind in POST_NORM
        self.tree = wanted == "last" and self.decoder
        if self.tree:
            prefix_tree.attach(module)
        elif self.packed:
            packed.attach(module)
        else:
            module.set_attn_implementation("eager")
        self.body: Any = PostNormEncoder(module) if self.lean else module

    def place(self, device: torch.device, dtype: torch.dtype) -> None:
        """Moves the transformer to a device in ``dtype``."""
        self.body.to(device=device, dtype=dtype)
        if self.lean:
            self.body.pack()

    def states(self, batch: Batch, deterministic: bool) -> tuple[torch.Tensor, torch.Tensor]:
        """States (T, H) in fp32 of what is read, and the boundaries (S + 1,) of the sequences among them."""
        alone = torch.arange(len(batch.lengths) + 1, device=batch.boundaries.device)
        if self.lean:
            return self.body(batch, deterministic).float(), alone
        if self.tree:
            tree = prefix_tree.Tree(batch)
            hidden = self.body(
                input_ids=batch.input_ids[tree.tokens][None],
                position_ids=batch.positions[tree.tokens][None],
                attention_mask=None,
                tree=tree,
                fixed_splits=deterministic,
                use_cache=False,
            ).last_hidden_state[0]
            return hidden[tree.last].float(), alone
        hidden = self._packed(batch, deterministic) if self.packed else self._padded(batch)
        if self.wanted == "all":
            return hidden.float(), batch.boundaries
        read = batch.boundaries[:-1] if self.wanted == "first" else batch.boundaries[1:] - 1
        return hidden[read.long()].float(), alone

    def _packed(self, batch: Batch, deterministic: bool) -> torch.Tensor:
        attention = packed.packed_kwargs(batch, deterministic, self.decoder)
        return token_states(self.body, batch, **attention, **({"use_cache": False} if self.decoder else {}))

    def _padded(self, batch: Batch) -> torch.Tensor:
        rows = batch.padded(self.pad_id)
        inputs = {"token_type_ids": rows.segments} if self.typed else {}
        hidden: torch.Tensor = self.body(
            input_ids=rows.input_ids, attention_mask=rows.mask.long(), position_ids=rows.positions, **inputs
        ).last_hidden_state
        return hidden[rows.mask]


def load_body(checkpoint: Checkpoint) -> Any:
    """The transformer of a CrossEncoder without a head, on the CPU in fp32.

    Raises InputError for an architecture that is not run here, or a decoder that looks ahead.
    """
    from transformers import AutoModel

    kind = checkpoint.model_type
    if kind not in SUPPORTED | DECODERS:
        known = ", ".join(sorted(SUPPORTED | DECODERS))
        raise InputError(f"{checkpoint.name}: its transformer is of model_type {kind!r}; known: {known}")
    check_causal(checkpoint)
    pooled = {"add_pooling_layer": False} if kind in POST_NORM - {"electra"} else {}
    return load_pretrained(AutoModel, checkpoint, **pooled)


def check_causal(checkpoint: Checkpoint) -> None:
    """Raises InputError for a decoder whose config says that tokens see what follows them."""
    config = checkpoint.config
    if checkpoint.model_type in DECODERS and (
        config.get("use_bidirectional_attention") or config.get("is_causal") is False
    ):
        raise InputError(f"{checkpoint.name}: a {checkpoint.model_type} that looks ahead, which is not run here")


def first_position(config: Any) -> int:
    """The position of the first token: behind the padding id for RoBERTa, else 0."""
    return int(config.pad_token_id) + 1 if config.model_type in ROBERTA else 0


def longest(config: Any) -> int:
    """Tokens of one sequence that the position table holds."""
    return (position_limit(config) or 1 << 20) - first_position(config)
