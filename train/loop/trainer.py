"""Training on ``transformers.Trainer``: lists in, one loss over them, and a ranking measured while it runs."""

from __future__ import annotations

import csv
import json
import time
from collections import deque
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import SequentialSampler
from transformers import Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_callback import PrinterCallback, ProgressCallback

from ...rerank.console import log, progress
from ...rerank.data.atomic import atomic_write
from ..data.collator import Collator
from ..data.mixture import Mixture
from ..losses import Loss
from ..rankers.ranker import Ranker
from .development import Judge

CHECKPOINTS = "checkpoints"
FLAT = 0.99
"""A loss above this share of the constant-prediction level has learnt nothing."""
PATIENT_STEPS = 50
"""So many steps are looked at before that is said."""


class Measured(Trainer):
    """What training measures: a CSV log, the development set and the best model so far, of any trainer."""

    def watch(self, ranker: Any, output: Path, judge: Any, patience: int, curves: Any) -> None:
        """Says what is measured, and where that goes.

        Args:
            ranker: what is trained; its ``save`` writes a model folder.
            output: where the best model is written (the last one, without a development set).
            judge: measures the ranker in a dtype; it has a ``development`` set.
            patience: stop after so many measurements without a better one; 0 never stops.
            curves: a TensorBoard writer, which gets every number that is logged.
        """
        self.remove_callback(PrinterCallback)
        self.remove_callback(ProgressCallback)
        self.add_callback(Bar())
        self.ranker = ranker
        self.output = output
        self.judge = judge
        self.patience = patience
        self.curves = curves
        self.started = time.monotonic()
        self._levels: list[tuple[float, float]] = []
        self._recent: deque[tuple[float, float]] = deque(maxlen=PATIENT_STEPS)
        self._warned = False
        self._pairs = 0

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Writes a row of the CSV log, and a warning where the loss has not left the constant-prediction level."""
        if "loss" in logs and self._levels:
            logs["constant_loss"] = sum(level for _, level in self._levels) / len(self._levels)
            self._recent.extend(self._levels)
            self._levels.clear()
            self._warn_if_flat()
        seconds = time.monotonic() - self.started
        row = {"step": self.state.global_step, "pairs": self._pairs, "seconds": round(seconds, 1), **logs}
        if self.is_world_process_zero():
            append_csv(self.output / "training_log.csv", row)
            shown = ", ".join(f"{key} {value:.5g}" for key, value in row.items() if isinstance(value, int | float))
            log.info("%s", shown)
            if self.curves is not None:
                for key in logs:
                    self.curves.add_scalar(key, logs[key], self.state.global_step)
                self.curves.flush()
        self.state.log_history.append({**logs, "step": self.state.global_step})

    def _warn_if_flat(self) -> None:
        """Says once that the last steps were no better than predicting one score for everything."""
        warm = self.state.global_step >= self.args.get_warmup_steps(self.state.max_steps) + PATIENT_STEPS
        now, constant = (sum(values) / len(self._recent) for values in zip(*self._recent, strict=True))
        if warm and not self._warned and constant > 0 and now > FLAT * constant:
            self._warned = True
            log.warning(
                "step %d: the loss %.4g is still that of a constant prediction (%.4g): nothing is learnt; raise "
                "the learning rate or --max-steps, or check the labels",
                self.state.global_step,
                now,
                constant,
            )

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Measures the development set, keeps the best model, and stops when patience is out."""
        if self.judge is None:
            return {}
        dtype = torch.bfloat16 if self.args.bf16 else torch.float32
        value = self.judge(self.ranker, dtype)
        name = f"eval_{self.judge.development.measure}"
        metrics = {name: value}
        step = self.state.global_step
        best = read_best(self.output)
        if best is None or value > best["value"]:
            best = {"step": step, "value": value, "measure": self.judge.development.measure}
            if self.is_world_process_zero():
                self.ranker.save(self.output)
                with atomic_write(self.output / "best.json") as stream:
                    stream.write(json.dumps(best) + "\n")
        elif self.patience and (step - best["step"]) / max(1.0, float(self.args.eval_steps or 1)) >= self.patience:
            log.info("step %d: no better %s since step %d: stopping", step, best["measure"], best["step"])
            self.control.should_training_stop = True
        self.log(dict(metrics))
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics


class RankingTrainer(Measured):
    """Trains a ranker on the lists of a mixture, in their order; keeps the best model in ``output``.

    Args:
        head_learning_rate: for the parameters of the head; the body has ``args.learning_rate``.
        output, judge, patience, curves: as for `Measured.watch`.
    """

    def __init__(
        self,
        ranker: Ranker,
        args: TrainingArguments,
        mixture: Mixture,
        collator: Collator,
        loss: Loss,
        *,
        output: Path,
        head_learning_rate: float,
        judge: Judge | None = None,
        patience: int = 0,
        curves: Any = None,
    ) -> None:
        topics = judge.development.topics if judge else None
        super().__init__(
            model=ranker, args=args, train_dataset=mixture, eval_dataset=topics, data_collator=collator
        )
        self.model_accepts_loss_kwargs = False  # the loss is a mean of its own batch
        self.watch(ranker, output, judge, patience, curves)
        self.mixture = mixture
        self.loss = ranker.objective(loss)
        self.head_learning_rate = head_learning_rate

    def _get_train_sampler(self, train_dataset: Any = None) -> SequentialSampler:
        return SequentialSampler(self.mixture)

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """AdamW with a learning rate of its own for the head, and no decay of biases and norms."""
        if self.optimizer is None:
            model = self.model if model is None else model
            decayed = set(self.get_decay_parameter_names(model))
            groups: dict[tuple[bool, bool], list[Any]] = {}
            for name, parameter in model.named_parameters():
                if parameter.requires_grad:
                    key = (id(parameter) in self.ranker.head_parameters, name in decayed)
                    groups.setdefault(key, []).append(parameter)
            kind, options = self.get_optimizer_cls_and_kwargs(self.args, model)
            rates = {True: self.head_learning_rate, False: self.args.learning_rate}
            self.optimizer = kind(
                [
                    {
                        "params": found,
                        "lr": rates[head],
                        "weight_decay": self.args.weight_decay if decay else 0.0,
                    }
                    for (head, decay), found in groups.items()
                ],
                **options,
            )
        return self.optimizer

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """The loss of one batch of lists; remembers what a constant prediction would have cost."""
        scores = model(inputs["batches"], inputs["order"], inputs["table"])
        labels, mask = inputs["labels"].to(scores.device), inputs["mask"].to(scores.device)
        value = self.loss(scores, labels, mask)
        with torch.no_grad():
            constant = scores[mask].mean(dim=0).expand_as(scores)
            self._levels.append((float(value.detach()), float(self.loss(constant, labels, mask))))
        self._pairs += len(inputs["order"])
        return (value, {"scores": scores}) if return_outputs else value

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        """Not counted: batches are packed."""
        return 0

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        if self.is_world_process_zero():
            self.ranker.save(Path(output_dir or str(self.args.output_dir)))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        self.ranker.load(Path(resume_from_checkpoint))


class Bar(TrainerCallback):
    """A progress bar over steps, on a terminal."""

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.bar = progress(total=state.max_steps, unit="step", label="train")
        self.bar.update(state.global_step)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.bar.update(1)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.bar.close()


def read_best(output: Path) -> dict[str, Any] | None:
    """Step, measure and value of the model in a folder; None where none was measured."""
    path = output / "best.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def last_checkpoint(output: Path) -> Path | None:
    """The latest checkpoint that was written to its end; a killed one has no readable trainer state."""
    found = []
    for folder in (output / CHECKPOINTS).glob("checkpoint-*"):
        try:
            state = json.loads((folder / "trainer_state.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        found.append((int(state["global_step"]), folder))
    return max(found)[1] if found else None


COLUMNS = ("step", "pairs", "seconds", "loss", "constant_loss", "grad_norm", "learning_rate", "measure", "value")


def append_csv(path: Path, row: dict[str, Any]) -> None:
    """Adds a row to the training log; measures are name and value."""
    fields = {key: row[key] for key in COLUMNS if key in row}
    for key in row:
        if key.startswith("eval_"):
            fields["measure"], fields["value"] = key.removeprefix("eval_"), row[key]
    if not fields.keys() & {"loss", "value"}:
        return
    fresh = not path.exists()
    with path.open("a", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, COLUMNS, lineterminator="\n")
        if fresh:
            writer.writeheader()
        writer.writerow(fields)


def cut_csv(path: Path, step: int) -> None:
    """Drops the rows of the training log from after a step: what is trained again is logged again."""
    if not path.is_file():
        return
    with path.open(encoding="utf-8", newline="") as stream:
        rows = [
            row for row in csv.DictReader(stream) if (row["step"] or "").isdigit() and int(row["step"]) <= step
        ]
    with atomic_write(path) as stream:
        writer = csv.DictWriter(stream, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
