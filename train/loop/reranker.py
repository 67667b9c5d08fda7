"""Training of rerankers of every kind: what ``sparring train`` does once options and data are read."""

from __future__ import annotations

from pathlib import Path

from transformers import TrainingArguments

from ...rerank import registry
from ...rerank.engine.devices import default_budget
from ...rerank.errors import UsageError
from ...rerank.rounds import check_widths
from ...rerank.vocabulary import Schedule
from ..data.collator import Collator
from ..data.mixture import Mixture
from ..losses import Loss, input_of
from ..rankers.adapters import adapters
from ..rankers.kinds import Start
from ..rankers.ranker import Kind, Ranker
from .arguments import arguments
from .card import write_card
from .development import Development, Judge
from .fit import check_loss
from .options import TrainingOptions
from .session import begin, callbacks, run
from .trainer import RankingTrainer


class RerankerTraining:
    """A ranker that stands where training starts, checked against its loss and its sampler.

    Raises UsageError or InputError where they do not fit; nothing is written.
    """

    def __init__(self, options: TrainingOptions, kind: Kind, loss: Loss) -> None:
        self.options = options
        self.loss = loss
        self.device = begin(options)
        self.ranker = kind.start(
            Start(
                options.model_name_or_path,
                options.max_length,
                options.dropout,
                options.gradient_caching,
                options.gradient_checkpointing,
                adapters.parse(options.adapter) if options.adapter else None,
            )
        )
        check_loss(loss, options.family, self.ranker.layout, options.list_size)
        budget = options.token_budget or default_budget(self.device)
        sampler, novelty = _sampler(options, self.ranker, loss), input_of(loss) == "near_duplicates"
        ranker = self.ranker
        self.collator = Collator(ranker.tokenizer, ranker.layout, budget, sampler, options.seed, novelty)
        self.schedule = _schedule(options, self.ranker, sampler)

    def run(self, mixture: Mixture, development: Development | None, checkpoint: Path | None) -> None:
        """Trains from a checkpoint on, and leaves the best model with its card in ``output_dir``."""
        options = self.options
        asked = arguments(options, len(mixture), self.device, checkpoint)
        trainer = RankingTrainer(
            self.ranker,
            TrainingArguments(**asked, ddp_find_unused_parameters=False),
            mixture,
            self.collator,
            self.loss,
            output=options.output_dir,
            head_learning_rate=options.head_learning_rate,
            judge=None if development is None else self._judge(development),
            callbacks=callbacks(options, checkpoint),
        )
        run(trainer, options, mixture, checkpoint, write_card)

    def _judge(self, development: Development) -> Judge:
        name = self.options.dev_aggregator or ("tsp" if input_of(self.loss) == "successors" else None)
        aggregator = registry.aggregators.parse(name) if name else None
        return Judge(development, self.collator, self.schedule, aggregator, self.options.seed)


def _sampler(options: TrainingOptions, ranker: Ranker, loss: Loss) -> Schedule | None:
    """What chooses the pairs of a list; None where the ranker does not look at pairs."""
    if ranker.layout.width != 2:
        if options.sampler is not None:
            raise UsageError(f"--sampler chooses pairs, and {options.family} looks at none")
        return None
    tours = input_of(loss) == "successors"
    default = "all" if ranker.layout.alone or tours else "random(rate=0.1)"  # pairs of what is read alone are free
    chosen: Schedule = registry.schedules.parse(options.sampler or default)
    check_widths(chosen, 2)
    if tours and str(chosen) != "all":
        raise UsageError(
            f"--loss {loss} looks at every pair of a list: leave out --sampler {chosen}, or write all"
        )
    return chosen


def _schedule(options: TrainingOptions, ranker: Ranker, sampler: Schedule | None) -> Schedule:
    """What the ranker is asked about the development set."""
    defaults = {1: "pointwise", 2: str(sampler), None: "whole"}
    schedule: Schedule = registry.schedules.parse(options.dev_schedule or defaults[ranker.layout.width])
    check_widths(schedule, ranker.layout.width)
    return schedule
