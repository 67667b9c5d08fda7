"""What a family says of itself to people: ``sparring list models`` and ``sparring doctor --model`` print it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol, runtime_checkable

UNSTATED = "licence: see its card"
Width = Literal["pointwise", "pairwise", "listwise", "pointwise or pairwise", "pairwise or listwise"]
Forward = Literal["packed", "padded", "packed or padded", "its own batches"]


@dataclass(frozen=True, slots=True)
class Example:
    """A published checkpoint: its name on the hub, and the licence that its card states."""

    name: str
    licence: str

    def __str__(self) -> str:
        return f"{self.name} ({self.licence})"


@dataclass(frozen=True, slots=True)
class About:
    """What a family runs and what comes out.

    Args:
        width: how many passages one score is about.
        forward: whether a batch costs its true tokens (packed) or rows of its longest sequence (padded).
        returns: the score's rule, in a few words.
        examples: published checkpoints.
        made_by: what makes a checkpoint where none is published.
    """

    width: Width
    forward: Forward
    returns: str
    examples: tuple[Example, ...] = ()
    made_by: str = ""


@runtime_checkable
class Described(Protocol):
    """A family that says what it is; every family of this project does, and those of plugins should."""

    about: ClassVar[About]
