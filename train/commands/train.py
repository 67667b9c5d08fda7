"""``sparring train``: fine-tunes a reranker from named data, measures it as a ranker, survives being killed."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from ...rerank import console, registry
from ...rerank.commands.options import CommonOptions
from ...rerank.data.locks import hold
from ...rerank.errors import MissingPrerequisiteError, UsageError
from ..loop.limits import check_numbers
from ..loop.options import TrainingOptions

if TYPE_CHECKING:
    from ..data.mixture import Mixture
    from ..loop.development import Development
    from ..loop.reranker import RerankerTraining
    from ..retrievers.training import RetrieverTraining

OF_ONE_RUN = ("config", "dry_run", "debug", "resume", "overwrite", "quiet")
"""Flags that say how one run of the command behaves, not what is trained."""


@dataclass(frozen=True, kw_only=True)
class Options(TrainingOptions, CommonOptions):
    """Train a reranker or a retriever: see configs/train for recipes."""


def main(options: Options) -> None:
    """Checks everything, trains, and leaves the best model with its card in ``output_dir``."""
    first = os.environ.get("RANK", "0") == "0"  # under torchrun one process speaks and writes for all
    if not first:
        console.configure(quiet=True)
    check_numbers(options)
    with _alone(options.output_dir, wanted=first and not options.dry_run), console.quiet_transformers():
        _train(options, first)


@contextlib.contextmanager
def _alone(output: Path, wanted: bool) -> Iterator[None]:
    """Holds the folder for this process, and says how an interrupted training goes on."""
    if not wanted:
        yield
        return
    output.parent.mkdir(parents=True, exist_ok=True)
    with hold(output):
        try:
            yield
        except KeyboardInterrupt:
            raise KeyboardInterrupt("interrupted; the same command, without --overwrite, goes on") from None


def _train(options: Options, first: bool) -> None:
    from ..loop.checkpoints import last_checkpoint
    from ..loop.folder import goes_on, prepare

    config = config_text(options)
    # the first process checks the folder and fills it; the others only ask whether to look for checkpoints
    going_on = goes_on(options, config) if first else options.resume or not options.overwrite
    training = _training(options)
    mixture, development = _data(options)
    for part in mixture.describe():
        console.log.info("%(lists)d lists of %(queries)d queries from %(source)s", part)
    if development is not None:
        value = development.value()
        console.log.info(
            "%d development topics: %s %.4f before reranking", len(development.topics), options.dev_measure, value
        )
    if options.dry_run:
        from ..loop.arguments import steps

        console.out(
            f"{len(mixture)} lists of {options.list_size} candidates, {steps(options, len(mixture))} steps"
        )
        return
    if first:
        prepare(options, config, going_on)
    checkpoint = last_checkpoint(options.output_dir) if going_on else None
    if checkpoint is not None:
        console.log.info("going on from %s", checkpoint)
    training.run(mixture, development, checkpoint)


def config_text(options: Options) -> str:
    """The YAML file that gives all options of a training back, one per line."""
    import yaml

    values = {}
    for field in dataclasses.fields(options):
        value = getattr(options, field.name)
        if field.name not in OF_ONE_RUN:
            values[registry.option_name(field)] = (
                list(value) if isinstance(value, tuple) else str(value) if isinstance(value, Path) else value
            )
    return "# sparring train --config THIS_FILE\n" + yaml.safe_dump(values, sort_keys=False)


def _training(options: Options) -> RerankerTraining | RetrieverTraining:
    """The model that stands where training starts; what does not fit it is refused."""
    for spec in filter(None, (options.sampler, options.dev_schedule)):
        registry.schedules.parse(spec)
    if options.dev_aggregator:
        registry.aggregators.parse(options.dev_aggregator)
    if options.tensorboard and not find_spec("tensorboard"):
        raise MissingPrerequisiteError("TensorBoard is needed for --tensorboard: pip install tensorboard")
    if _retrieves(options.family):
        if options.sampler or options.dev_schedule or options.dev_aggregator:
            raise UsageError(f"--sampler, --dev-schedule and --dev-aggregator are not for {options.family}")
        if options.adapter:
            raise UsageError(f"--adapter is for rerankers, not for {options.family}")
        from ..retrievers.training import RetrieverTraining

        return RetrieverTraining(options)
    from ..loop.reranker import RerankerTraining
    from ..losses import losses
    from ..rankers.kinds import kinds

    return RerankerTraining(options, kinds.parse(options.family), losses.parse(options.loss))


def _data(options: Options) -> tuple[Mixture, Development | None]:
    from ..data.mixture import Mixture
    from ..loop.development import Development
    from ..sources import parse

    parts = parse(options.data)
    development = None
    if options.dev_run is not None:
        if options.dev_dataset is None:
            raise UsageError("--dev-run needs --dev-dataset")
        development = Development.read(
            options.dev_run,
            options.dev_dataset,
            options.dev_qrels,
            options.dev_depth,
            options.dev_measure,
            options.dev_holdout,
        )
    total = None
    if options.max_steps:
        devices = int(os.environ.get("WORLD_SIZE", "1"))
        total = (
            options.max_steps * options.per_device_train_batch_size * options.gradient_accumulation_steps * devices
        )
    return Mixture(parts, options.list_size, options.seed, total, options.num_train_epochs), development


def _retrieves(kind: str) -> bool:
    """Whether a retriever is trained: those have losses and a trainer of their own."""
    from ..rankers.kinds import kinds

    name = kind.replace("-", "_").partition("(")[0]
    if name in kinds.names():
        return False
    from ..retrievers.model import retrievers

    return name in retrievers.names()
