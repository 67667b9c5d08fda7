"""Training of rerankers of every kind: what ``sparring train`` does once options and data are read."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from transformers import TrainingArguments, set_seed
from transformers.utils import logging as transformers_logging

from ...rerank import console, registry
from ...rerank.engine.devices import choose_device, default_budget
from ...rerank.errors import UsageError
from ...rerank.rounds import check_widths
from ...rerank.vocabulary import Schedule
from ..data.collator import Collator
from ..data.mixture import Mixture
from ..losses import Loss
from ..losses.pairwise import DuplicateAwareRankNet
from ..rankers.kinds import Start
from ..rankers.ranker import Kind, Ranker
from .arguments import arguments
from .card import write_card
from .development import Development, Judge
from .folder import push, tensorboard_writer
from .trainer import RankingTrainer, last_checkpoint, read_best

if TYPE_CHECKING:
    from .options import Options


def train(options: Options, kind: Kind, loss: Loss, mixture: Mixture, development: Development | None) -> None:
    """Trains a ranker and leaves the best model with its card in ``output_dir``."""
    quiet: Any = transformers_logging
    quiet.set_verbosity_error()
    quiet.disable_progress_bar()
    set_seed(options.seed)
    device = choose_device(options.device)
    output = options.output_dir
    start = Start(
        options.model_name_or_path,
        options.max_length,
        options.dropout,
        options.gradient_caching,
        options.gradient_checkpointing,
    )
    ranker = kind.start(start)
    budget = options.token_budget or default_budget(device)
    sampler, novelty = _sampler(options, ranker), _novelty(loss, options, ranker)
    collator = Collator(ranker.tokenizer, ranker.layout, budget, sampler, options.seed, novelty)
    checkpoint = last_checkpoint(output) if options.resume else None
    trainer = RankingTrainer(
        ranker,
        TrainingArguments(
            **arguments(options, len(mixture), device, checkpoint), ddp_find_unused_parameters=False
        ),
        mixture,
        collator,
        loss,
        output=output,
        head_learning_rate=options.head_learning_rate,
        judge=None if development is None else _judge(options, development, ranker, collator),
        patience=options.early_stopping_patience,
        curves=tensorboard_writer(output, checkpoint) if options.tensorboard else None,
    )
    started = time.monotonic()
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    seconds = time.monotonic() - started
    if not trainer.is_world_process_zero():
        return
    best = read_best(output)
    if best is None:
        ranker.save(output)
    write_card(output, options, mixture.describe(), best, seconds)
    value = f"{best['measure']} {best['value']:.4f} at step {best['step']}" if best else "no development set"
    console.out(f"{output}: {value}")
    if options.push_to_hub:
        push(output, options.push_to_hub)


def _sampler(options: Options, ranker: Ranker) -> Schedule | None:
    """What chooses the pairs of a list; None where the ranker does not look at pairs."""
    if ranker.layout.width != 2:
        if options.sampler is not None:
            raise UsageError(f"--sampler chooses pairs, and {options.kind} looks at none")
        return None
    default = "all" if ranker.layout.alone else "random(rate=0.1)"  # pairs of what is read alone cost nothing
    chosen: Schedule = registry.schedules.parse(options.sampler or default)
    check_widths(chosen, 2)
    return chosen


def _novelty(loss: Loss, options: Options, ranker: Ranker) -> bool:
    """Whether the loss asks which passages are near-duplicates of each other."""
    asked = isinstance(loss, DuplicateAwareRankNet)
    if asked and (ranker.layout.width == 2 or ranker.layout.twins):
        raise UsageError(
            f"--loss {loss} is about the passages of whole lists: {options.kind} does not give it these"
        )
    return asked


def _judge(options: Options, development: Development, ranker: Ranker, collator: Collator) -> Judge:
    defaults = {1: "pointwise", 2: str(collator.sampler), None: "whole"}
    schedule: Schedule = registry.schedules.parse(options.dev_schedule or defaults[ranker.layout.width])
    check_widths(schedule, ranker.layout.width)
    aggregator = registry.aggregators.parse(options.dev_aggregator) if options.dev_aggregator else None
    return Judge(development, collator, schedule, aggregator, options.seed)
