"""From a loaded model to a scorer: the seam at which every way to run a model registers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from ..engine.engine import open_on_device
from ..engine.model import AnyModel, ScorerOptions
from ..errors import UsageError
from ..registry import Registry
from ..vocabulary import Scorer

executors = Registry("executor", "sparring.rerank.executors")


class Executor(Protocol):
    """A way to run a loaded model."""

    def open(self, model: AnyModel, options: ScorerOptions) -> Scorer:
        """The model's scorer; whoever opens it closes it."""
        ...


@executors.register("single")
@dataclass(frozen=True)
class Single:
    """One device, in this process."""

    def open(self, model: AnyModel, options: ScorerOptions) -> Scorer:
        if "," in options.device:
            raise UsageError(f"--device {options.device}: this executor runs on one device; try --executor pool")
        return open_on_device(model, options)


def open_scorer(
    model: AnyModel,
    *,
    executor: str | None = None,
    device: str = "auto",
    dtype: str = "auto",
    token_budget: int | None = None,
    deterministic: bool = False,
    progress: bool = True,
) -> Scorer:
    """The scorer of a loaded model.

    Args:
        executor: spec of who runs it (``sparring list executors``); by default ``pool`` where ``device`` names
            several devices, such as ``cuda:0,1``, else ``single``.
        device, dtype, token_budget, deterministic, progress: see `sparring.rerank.engine.model.ScorerOptions`.
    """
    options = ScorerOptions(
        device=device, dtype=dtype, token_budget=token_budget, deterministic=deterministic, progress=progress
    )
    chosen: Executor = executors.parse(executor or ("pool" if "," in device else "single"))
    return chosen.open(model, options)
