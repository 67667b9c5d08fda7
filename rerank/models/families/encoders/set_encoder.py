"""Set-Encoder: a cross-encoder whose passages see each other (Schlatt et al., ECIR 2025).

Every passage has a sequence of its own, ``[CLS] [INT] query [SEP] passage [SEP]``, with positions from the
start. In every layer a token also attends to the interaction tokens (``[INT]``, else the first token) of the
other passages of its list. There is no order among passages and no new weight: every cross-encoder can be run
as a Set-Encoder.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import torch

from ....engine.batches import Batch
from ....engine.templates import Template, Truncation
from ....errors import InputError, UsageError
from ....registry import families
from ...attention.layers import POST_NORM
from ...attention.post_norm import PostNormEncoder, token_states
from ...attention.set_packed import SetLayout, attach
from ...checkpoints import Checkpoint
from ...config_fields import mean_pooled
from ...heads import Head, detach_head
from ...loading import fingerprint, load_tokenizer
from ..about import UNSTATED, About, Example
from .sequence_classification import PACKABLE, load_classifier
from .webis import first_position, load_webis, webis_template, webis_truncation


@dataclass(frozen=True, slots=True)
class Parts:
    """What a checkpoint holds, in either layout: ``head`` maps first-token states (S, H) to logits."""

    body: Any
    head: Head
    head_modules: Sequence[torch.nn.Module]
    tokenizer: Any
    template: Template
    truncation: Truncation
    duplicates: torch.nn.Linear | None = None


class SetEncoder:
    """A cross-encoder over lists; see `sparring.rerank.engine.model.Model`.

    Attributes:
        interaction: offset of the interaction token in its sequence, 0 for the first.
        depth: lists are filled up to so many passages with their mean; None invents nothing.
        duplicates: the head that says whether a passage has a duplicate in its list, if the checkpoint has one.

    ``live`` leaves the weights where they are, with gradients, for training; without ``lean`` the forward pass is
    transformers' own, which knows dropout and checkpointing.
    """

    width = None
    packed = True

    def __init__(
        self,
        checkpoint: Checkpoint,
        parts: Parts,
        interaction: int,
        depth: int | None,
        lean: bool = True,
        live: bool = False,
    ) -> None:
        config = parts.body.config
        self.name = checkpoint.name
        self.tokenizer = parts.tokenizer
        self.template = replace(parts.template, per_member=True)
        self.truncation = parts.truncation
        self.first_position = first_position(config)
        self.interaction, self.depth = interaction, depth
        self.fingerprint = fingerprint(checkpoint, self.template, self.truncation, "set", interaction, depth)
        self.deterministic = False
        self.head, self.duplicates = parts.head, parts.duplicates
        self._head_modules = [*parts.head_modules, *([parts.duplicates] if parts.duplicates is not None else [])]
        self._mean_pooled = mean_pooled(config)
        self._lean = lean and config.model_type in POST_NORM
        attach(parts.body)
        self.body: Any = PostNormEncoder(parts.body, live) if self._lean else parts.body

    def place(self, device: torch.device, dtype: torch.dtype, deterministic: bool = False) -> None:
        """Moves the body in ``dtype`` and the heads in fp32 to a device."""
        self.deterministic = deterministic
        self.body.to(device=device, dtype=dtype)
        if self._lean:
            self.body.pack()
        for module in self._head_modules:
            module.to(device=device, dtype=torch.float32)

    def forward(self, batch: Batch) -> torch.Tensor:
        """Raw fp32 scores, (S,)."""
        return self.score(self.states(batch))

    def score(self, states: torch.Tensor) -> torch.Tensor:
        """The head's scores, (S,), of states (S, H)."""
        logits = self.head(states)
        if logits.ndim == 1:
            return logits
        return logits[:, 0] if logits.shape[1] == 1 else logits[:, 1] - logits[:, 0]

    def duplicate_logits(self, batch: Batch) -> torch.Tensor:
        """Raw fp32 logits of "this passage has a duplicate in its list", (S,); UsageError without such a head."""
        if self.duplicates is None:
            raise UsageError(f"{self.name}: the checkpoint has no head for duplicates (repeat_linear)")
        logits: torch.Tensor = self.duplicates(self.states(batch))
        return logits[:, 0]

    def states(self, batch: Batch) -> torch.Tensor:
        """What the heads read, (S, H), in fp32."""
        layout = SetLayout(batch, self.interaction, self.depth)
        if self._lean:
            first: torch.Tensor = self.body(batch, self.deterministic, layout)
            return first.float()
        attention = {"attention_mask": None, "layout": layout, "fixed_splits": self.deterministic}
        hidden = token_states(self.body, batch, **attention)
        if not self._mean_pooled:
            return hidden.index_select(0, batch.boundaries[:-1]).float()
        means: torch.Tensor = torch.segment_reduce(hidden.float(), "mean", lengths=batch.boundaries.diff().long())
        return means


def load_parts(checkpoint: Checkpoint, max_length: int | None) -> Parts:
    """Reads a checkpoint in the webis layout, or a sequence classifier."""
    if "backbone_model_type" in checkpoint.config:
        body, head, repeat = load_webis(checkpoint)
        tokenizer = load_tokenizer(checkpoint)
        return Parts(
            body=body,
            head=head,
            head_modules=[head],
            tokenizer=tokenizer,
            template=webis_template(checkpoint, tokenizer, body.config),
            truncation=webis_truncation(checkpoint, body.config, max_length),
            duplicates=_duplicates(repeat),
        )
    if checkpoint.model_type not in PACKABLE:
        raise InputError(
            f"{checkpoint.name}: model_type {checkpoint.model_type!r} cannot be run as a Set-Encoder; its layers "
            f"must take packed sequences ({', '.join(sorted(PACKABLE))})"
        )
    module, tokenizer, truncation, _ = load_classifier(checkpoint, max_length)
    classify, modules = detach_head(module)
    return Parts(
        body=module.base_model,
        head=classify,
        head_modules=modules,
        tokenizer=tokenizer,
        template=webis_template(checkpoint, tokenizer, module.config),
        truncation=truncation,
        duplicates=load_duplicates(checkpoint),
    )


def load_duplicates(checkpoint: Checkpoint) -> torch.nn.Linear | None:
    """The head for duplicates that lies among a sequence classifier's weights, if there is one."""
    from safetensors import safe_open

    found: dict[str, torch.Tensor] = {}
    for path in checkpoint.weights:
        with safe_open(path, "pt") as file:
            names = [name for name in file.keys() if name.startswith("repeat_linear.")]  # noqa: SIM118
            found |= {name: file.get_tensor(name).float() for name in names}
    return _duplicates(found)


def _duplicates(weights: dict[str, torch.Tensor]) -> torch.nn.Linear | None:
    if not weights:
        return None
    width = weights["repeat_linear.weight"].shape[1]
    linear = torch.nn.Linear(width, 1, bias="repeat_linear.bias" in weights)
    linear.load_state_dict({name.removeprefix("repeat_linear."): value for name, value in weights.items()})
    return linear


@families.register("set_encoder")
@dataclass(frozen=True)
class SetEncoders:
    """Set-Encoders as webis and lightning-ir save them, and any packable sequence classifier run as one.

    ``missing`` says what stands for the documents that a list has less than ``depth`` of: nothing, or their mean,
    the deterministic form of the noise that checkpoints with ``sample_missing_docs`` saw in training.
    """

    about: ClassVar[About] = About(
        "listwise",
        "packed",
        "a logit per passage, which has seen the others' interaction tokens",
        examples=(
            Example("webis/set-encoder-base", UNSTATED),
            Example("webis/set-encoder-large", UNSTATED),
        ),
    )
    missing: Literal["none", "mean"] = "none"
    depth: int | None = None
    max_length: int | None = None

    def __post_init__(self) -> None:
        if self.depth is not None and self.depth < 1:
            raise ValueError("depth must be at least 1")
        if self.depth is not None and self.missing == "none":
            raise ValueError("depth counts with missing=mean only")

    def claims(self, checkpoint: Checkpoint) -> bool:
        """Checkpoints whose config says ``model_type: set-encoder``."""
        return checkpoint.plain and checkpoint.model_type == "set-encoder"

    def load(self, checkpoint: Checkpoint) -> SetEncoder:
        """Loads the checkpoint; what interacts is ``[INT]`` with ``add_extra_token``, else the first token."""
        parts = load_parts(checkpoint, self.max_length)
        interaction = 1 if checkpoint.config.get("add_extra_token", False) else 0
        depth = None
        if self.missing == "mean":
            depth = self.depth or int(checkpoint.config.get("depth") or 100)
        return SetEncoder(checkpoint, parts, interaction, depth)
