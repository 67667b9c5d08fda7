"""What the engine asks of a model, and how a model that batches on its own is opened."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from ..errors import UsageError
from ..vocabulary import Scorer
from .templates import Template, Truncation

if TYPE_CHECKING:
    import torch

    from .batches import Batch


class Model(Protocol):
    """Weights with a template: turns batches of token ids into raw fp32 scores.

    Attributes:
        name: what the user called it.
        width: passages in one group: 1, 2, or None for any number.
        fingerprint: SHA-256 of weights, config, template and truncation; with a dtype it keys stored outcomes.
        tokenizer: a fast tokenizer of transformers.
        template, truncation: how inputs are written and cut.
        first_position: the position of the first token (2 for RoBERTa).
        packed: whether a batch costs its true tokens; else rows of its longest sequence.
    """

    name: str
    width: int | None
    fingerprint: str
    tokenizer: Any
    template: Template
    truncation: Truncation
    first_position: int
    packed: bool

    def place(self, device: torch.device, dtype: torch.dtype, deterministic: bool = False) -> None:
        """Moves the weights to a device, the body in ``dtype`` and the head in fp32."""
        ...

    def forward(self, batch: Batch) -> torch.Tensor:
        """Raw fp32 scores (S,), one per sequence; of a pair the logit of "first is better"."""
        ...


@dataclass(frozen=True, kw_only=True)
class ScorerOptions:
    """How a model is run.

    Args:
        device: auto, cpu, cuda or cuda:N.
        dtype: auto (bf16 body and fp32 head where the hardware has bf16, else fp32), float32, bfloat16, float16.
        token_budget: tokens of one batch; by default what suits the device.
        deterministic: bit-identical scores from run to run.
        progress: show a bar on terminals.
    """

    device: str = "auto"
    dtype: str = "auto"
    token_budget: int | None = None
    deterministic: bool = False
    progress: bool = True

    def __post_init__(self) -> None:
        if self.token_budget is not None and self.token_budget < 1:
            raise UsageError(f"token budget {self.token_budget} must be at least 1")

    def refuse(self, name: str, why: str, *options: str) -> None:
        """Raises UsageError for each of these options that was given, as the model ``name`` does not honour it."""
        defaults = ScorerOptions()
        given = [option for option in options if getattr(self, option) != getattr(defaults, option)]
        if given:
            flags = " and ".join(f"--{option.replace('_', '-')}" for option in given)
            raise UsageError(f"{name} does not honour {flags}: {why}; leave it out")


@runtime_checkable
class OwnScorer(Protocol):
    """A model that batches on its own: a bi-encoder, late pairs, heads over lists, language models in words.

    Attributes:
        schedule: the spec by which it is asked unless the user says otherwise.
        tokenizer: None where there is none on this machine.
        max_length: tokens of one input; None where only the far end knows.
    """

    name: str
    width: int | None
    fingerprint: str
    schedule: str
    tokenizer: Any
    max_length: int | None

    def scorer(self, options: ScorerOptions) -> Scorer:
        """A new scorer; the model's fingerprint stays as it is.

        Raises UsageError for an option that the model does not honour.
        """
        ...


@runtime_checkable
class Told(Protocol):
    """A model that can be told what to judge by, topic by topic.

    Attributes:
        told: whether this one can; of one class some checkpoints can and others cannot.
    """

    told: bool

    def instructed(self, instruction: str) -> Template:
        """The template of its input with this instruction; UsageError where it is not ``told``."""
        ...


AnyModel = Model | OwnScorer
SCHEDULES = {1: "pointwise", 2: "bayes", None: "whole"}
"""What a model of each width is asked, unless it has a schedule of its own."""


def takes_instructions(model: object) -> bool:
    """Whether a topic may carry an instruction of its own."""
    return isinstance(model, Told) and model.told


def default_schedule(model: AnyModel) -> str:
    """The spec of the schedule by which a model is asked unless the user says otherwise."""
    return model.schedule if isinstance(model, OwnScorer) else SCHEDULES[model.width]


def longest_input(model: AnyModel) -> int | None:
    """Tokens of one input; None where only the far end knows."""
    return model.max_length if isinstance(model, OwnScorer) else model.truncation.max_length
