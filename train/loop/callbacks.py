"""What watches a training: its record over all its parts, a progress bar, patience, and TensorBoard's curves."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

from transformers import EarlyStoppingCallback, TrainerCallback
from transformers.trainer_callback import ExportableState

from ...rerank.console import log, progress
from .checkpoints import step_of
from .log_file import append_csv

FLAT = 0.99
"""A loss above this share of the constant-prediction level has learnt nothing."""
PATIENT_STEPS = 50
"""So many steps are looked at before that is said."""


class Record(TrainerCallback, ExportableState):
    """Totals of a training over all its parts, and its log; checkpoints hold it, and a resumed training goes on.

    Args:
        path: the CSV log.
        mean: the mean of a number over all processes.

    Attributes:
        levels: of every batch since the last row: the loss, and what a constant prediction would cost.
        pairs: of a query and a passage that were trained on.
        rate: the highest learning rate of the last update.
    """

    def __init__(self, path: Path, mean: Callable[[float], float]) -> None:
        self.path = path
        self.mean = mean
        self.pairs = 0
        self.rate: float | None = None
        self.levels: list[tuple[float, float]] = []
        self._recent: deque[tuple[float, float]] = deque(maxlen=PATIENT_STEPS)
        self._warned = False
        self._started = time.monotonic()
        self._earlier_seconds = 0.0
        self._loss = 0.0  # summed over the steps since the last row, in this part of the training
        self._steps = 0
        self._saved = 0.0  # the same as the mean over processes, when a checkpoint is due
        self._carried = (0.0, 0)  # loss and steps since the last row before the checkpoint that is resumed

    @property
    def seconds(self) -> float:
        """How long the training took so far, in all its parts."""
        return self._earlier_seconds + time.monotonic() - self._started

    def add(self, loss: float) -> None:
        """Counts the loss of a batch, divided by the batches of a step."""
        self._loss += loss

    def complete(self, logs: dict[str, float]) -> None:
        """Makes a row whole: the loss since the last row, whatever was resumed, and that of a constant."""
        loss, steps = self._carried
        if steps:
            logs["loss"] = (logs["loss"] * self._steps + loss) / (self._steps + steps)
        self._loss, self._steps, self._saved, self._carried = 0.0, 0, 0.0, (0.0, 0)
        if self.levels:
            logs["constant_loss"] = sum(level for _, level in self.levels) / len(self.levels)
            self._recent.extend(self.levels)
            self.levels.clear()

    def warn_if_flat(self, step: int, warmup: int) -> None:
        """Says once that the last steps were no better than predicting one score for everything."""
        if self._warned or not self._recent or step < warmup + PATIENT_STEPS:
            return
        now, constant = (sum(values) / len(self._recent) for values in zip(*self._recent, strict=True))
        if constant > 0 and now > FLAT * constant:
            self._warned = True
            log.warning(
                "step %d: the loss %.4g is still that of a constant prediction (%.4g): nothing is learnt; raise "
                "the learning rate or --max-steps, or check the labels",
                step,
                now,
                constant,
            )

    def state(self) -> dict[str, Any]:
        """What a checkpoint holds of this."""
        loss, steps = self._carried
        attributes = {
            "pairs": self.pairs,
            "seconds": self.seconds,
            "loss": self._saved + loss,
            "steps": self._steps + steps,
            "levels": [list(level) for level in self.levels],
            "recent": [list(level) for level in self._recent],
            "warned": self._warned,
        }
        return {"args": {}, "attributes": attributes}

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Goes on with what the checkpoint holds."""
        held = state.stateful_callbacks.get(type(self).__name__)
        if not held or not state.global_step:
            return
        attributes = held["attributes"]
        self.pairs = attributes["pairs"]
        self._earlier_seconds = attributes["seconds"]
        self._carried = (attributes["loss"], attributes["steps"])
        self.levels[:] = [(loss, constant) for loss, constant in attributes["levels"]]
        self._recent.extend((loss, constant) for loss, constant in attributes["recent"])
        self._warned = attributes["warned"]

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Remembers the learning rate, before the next one is set."""
        self.rate = max(kwargs["lr_scheduler"].get_last_lr())

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Counts the step; all processes come here, so that the loss of a checkpoint can be the mean of theirs."""
        self._steps += 1
        if control.should_save:
            self._saved = self.mean(self._loss)

    def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Writes a row of the log and says it."""
        logs: dict[str, float] = kwargs["logs"]
        if not state.is_world_process_zero or "train_runtime" in logs:  # transformers' summary at the end
            return
        shown = {key: value for key, value in logs.items() if key != "epoch"}
        row = {"step": state.global_step, "pairs": self.pairs, "seconds": round(self.seconds, 1), **shown}
        append_csv(self.path, row)
        log.info(
            "%s", ", ".join(f"{key} {value:.5g}" for key, value in row.items() if isinstance(value, int | float))
        )


class Bar(TrainerCallback):
    """A progress bar over steps, on a terminal."""

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Opens it at the first step of this part."""
        self.bar = progress(total=state.max_steps, unit="step", label="train")
        self.bar.update(state.global_step)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Moves it."""
        self.bar.update(1)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Closes it."""
        self.bar.close()


class Patience(EarlyStoppingCallback):
    """Early stopping of transformers that goes on counting after a resume, and says why it stops.

    The best model is kept by `sparring.train.loop.checkpoints.keep_best`, so that the trainer need not load it.
    """

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Goes on with the count that the checkpoint holds."""
        held = state.stateful_callbacks.get(type(self).__name__)
        if held and state.global_step:
            self.early_stopping_patience_counter = held["attributes"]["early_stopping_patience_counter"]

    def on_evaluate(self, args: Any, state: Any, control: Any, metrics: Any = None, **kwargs: Any) -> None:
        """Stops when so many measurements were no better than the best one."""
        counted: Any = super()
        counted.on_evaluate(args, state, control, metrics, **kwargs)
        if not state.global_step:  # the trainer does not take the measurement before the first step for the best
            state.best_metric = metrics[args.metric_for_best_model]
        if self.early_stopping_patience_counter >= self.early_stopping_patience:
            measure, best = args.metric_for_best_model.removeprefix("eval_"), state.best_global_step or 0
            log.info("step %d: no better %s since step %d: stopping", state.global_step, measure, best)


def tensorboard(output: Path, checkpoint: Path | None) -> TrainerCallback:
    """TensorBoard's curves in a folder; what was written after the checkpoint is not shown any more."""
    from torch.utils.tensorboard import SummaryWriter
    from transformers.integrations.integration_utils import TensorBoardCallback

    writer: Any = SummaryWriter
    made: Any = TensorBoardCallback
    step = step_of(checkpoint) + 1 if checkpoint else None
    callback: TrainerCallback = made(writer(output / "tensorboard", purge_step=step))
    return callback
