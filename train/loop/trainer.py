"""Training on ``transformers.Trainer``: lists in, one loss over them, and a ranking measured while it runs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader
from transformers import TrainerCallback, TrainingArguments
from transformers.trainer_callback import PrinterCallback, ProgressCallback

from ...rerank.errors import SparringError
from ..data.collator import Collator
from ..data.mixture import Mixture
from ..losses import Loss, input_of
from ..losses.tours import successor_scores
from ..rankers.ranker import Ranker
from .callbacks import Bar, Record
from .checkpoints import keep_best, last_checkpoint, read_best
from .development import Judge
from .trainer_seams import OwnCheckpoints


class DivergedError(SparringError):
    """The training blew up: its loss or its weights are not finite."""


class Measured(OwnCheckpoints):
    """What training measures: a CSV log, the development set and the best model so far, of any trainer."""

    def watch(self, ranker: Any, output: Path, judge: Any, callbacks: Sequence[TrainerCallback] = ()) -> None:
        """Says what is measured, and where that goes.

        Args:
            ranker: what is trained; its ``save`` writes a model folder.
            output: the folder of the training, see `sparring.train.loop.checkpoints`.
            judge: measures the ranker in a dtype; it has a ``development`` set.
            callbacks: what else is told, such as patience or curves.
        """
        self.remove_callback(PrinterCallback)
        self.remove_callback(ProgressCallback)
        self.record = Record(output / "training_log.csv", self._mean)
        for callback in (Bar(), self.record, *callbacks):
            self.add_callback(callback)
        self.ranker = ranker
        self.output = output
        self.judge = judge
        self.last_inputs: dict[str, Any] | None = None
        self.checked: int | None = None

    def _mean(self, value: float) -> float:
        number = torch.tensor(value, dtype=torch.float32, device=self.args.device)
        return float(self.accelerator.reduce(number, "mean"))

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Completes a row, and warns where the loss has not left the constant-prediction level."""
        if "loss" in logs:
            self.record.complete(logs)
            self.record.warn_if_flat(self.state.global_step, self.args.get_warmup_steps(self.state.max_steps))
        super().log(logs, start_time)

    def training_step(self, model: Any, inputs: dict[str, Any], num_items_in_batch: Any = None) -> torch.Tensor:
        """Forward and backward of one batch; DivergedError where its loss is not finite."""
        loss: torch.Tensor = super().training_step(model, inputs, num_items_in_batch)
        value = float(loss)
        if not math.isfinite(value):
            raise self._diverged(self.state.global_step + 1, f"the loss is {value}")
        self.record.add(value)
        return loss

    def check_finite(self) -> None:
        """DivergedError where the weights are not finite, or the last batch has no finite loss with them.

        Called before anything is measured or written: the loss of a step is that of the weights before it.
        """
        step = self.state.global_step
        if self.checked == step:
            return
        self.checked = step
        model: Any = self.model
        if not all(bool(weights.detach().isfinite().all()) for weights in model.parameters()):
            raise self._diverged(step, "the weights are not finite")
        if self.last_inputs is None:
            return
        pairs, levels = self.record.pairs, len(self.record.levels)
        devices = [self.args.device] if self.args.device.type == "cuda" else []
        with torch.no_grad(), torch.random.fork_rng(devices), self.compute_loss_context_manager():
            loss: Any = self.compute_loss(model, self.last_inputs)
        value = float(loss)
        self.record.pairs = pairs
        del self.record.levels[levels:]
        if not math.isfinite(value):
            raise self._diverged(step, f"after it the loss is {value}")

    def _diverged(self, step: int, what: str) -> DivergedError:
        rate = self.record.rate
        if rate is None and self.lr_scheduler is not None:
            rate = max(map(float, self.lr_scheduler.get_last_lr()))
        good = last_checkpoint(self.output)
        best = read_best(self.output)
        kept = f"last good checkpoint: {good or 'none'}" + (f", best model: step {best['step']}" if best else "")
        return DivergedError(
            f"step {step}: {what} (learning rate {rate:.3g}): stopped, no model is written; {kept}; lower "
            "--learning-rate and --head-learning-rate, or check the labels"
        )

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Measures the development set and keeps the best model."""
        if self.judge is None:
            return {}
        self.check_finite()
        dtype = torch.bfloat16 if self.args.bf16 else torch.float32
        value = self.judge(self.ranker, dtype)
        measure = self.judge.development.measure
        metrics = {f"eval_{measure}": value}
        best = read_best(self.output)
        if (best is None or value > best["value"]) and self.is_world_process_zero():
            best = {"step": self.state.global_step, "value": value, "measure": measure}
            keep_best(self.output, self.ranker.save, best)
        self.log(dict(metrics))
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Writes the ranker as a folder that the toolkit loads; DivergedError where it is not finite."""
        self.check_finite()
        if self.is_world_process_zero():
            self.ranker.save(Path(output_dir or str(self.args.output_dir)))


class RankingTrainer(Measured):
    """Trains a ranker on the lists of a mixture, in their order; keeps the best model in ``output``.

    Args:
        head_learning_rate: for the parameters of the head; the body has ``args.learning_rate``.
        output, judge, callbacks: as for `Measured.watch`.
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
        callbacks: Sequence[TrainerCallback] = (),
    ) -> None:
        topics = judge.development.topics if judge else None
        super().__init__(
            model=ranker, args=args, train_dataset=mixture, eval_dataset=topics, data_collator=collator
        )
        self.model_accepts_loss_kwargs = False  # the loss is a mean of its own batch
        self.watch(ranker, output, judge, callbacks)
        self.mixture = mixture
        self.loss = ranker.objective(loss)
        self.tours = input_of(loss) == "successors"
        self.head_learning_rate = head_learning_rate

    def get_train_dataloader(self) -> DataLoader[Any]:
        """Lists in the order of the mixture, which has shuffled them."""
        loader: DataLoader[Any] = DataLoader(
            self.mixture,  # type: ignore[arg-type]
            batch_size=self.args.train_batch_size,
            collate_fn=self.data_collator,
            num_workers=self.args.dataloader_num_workers,
            pin_memory=self.args.dataloader_pin_memory,
        )
        prepared: DataLoader[Any] = self.accelerator.prepare(loader)
        return prepared

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
        self.last_inputs = inputs
        scores = model(inputs["batches"], inputs["order"], inputs["table"])
        labels, mask = inputs["labels"].to(scores.device), inputs["mask"].to(scores.device)
        if self.tours:
            owner, members = inputs["owner"].to(scores.device), inputs["members"].to(scores.device)
            scores, labels, mask = successor_scores(scores, labels, owner, members)
        value = self.loss(scores, labels, mask)
        with torch.no_grad():
            level = torch.zeros_like(scores) if self.tours else scores[mask].mean(dim=0).expand_as(scores)
            self.record.levels.append((float(value.detach()), float(self.loss(level, labels, mask))))
        self.record.pairs += len(inputs["order"])
        return (value, {"scores": scores}) if return_outputs else value

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        """Not counted: batches are packed."""
        return 0
