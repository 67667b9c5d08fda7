"""``sparring train``: fine-tunes a reranker from named data, measures it as a ranker, survives being killed."""

from __future__ import annotations

import os
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from ...rerank import console, registry
from ...rerank.errors import MissingPrerequisiteError, UsageError
from ..loop.options import Options

if TYPE_CHECKING:
    from ..data.mixture import Mixture
    from ..loop.development import Development


def main(options: Options) -> None:
    """Checks everything, trains, and leaves the best model with its card in ``output_dir``."""
    first = os.environ.get("RANK", "0") == "0"  # under torchrun one process speaks and writes for all
    if not first:
        console.configure(quiet=True)
    output = options.output_dir
    if first and output.exists() and any(output.iterdir()) and not (options.resume or options.overwrite):
        raise UsageError(f"{output} is not empty: add --resume to go on, --overwrite to start anew")
    for name in ("list_size", "per_device_train_batch_size", "gradient_accumulation_steps", "eval_steps"):
        if getattr(options, name) < 1:
            raise UsageError(f"--{name.replace('_', '-')} must be at least 1")
    from ..loop.folder import prepare

    kind, loss = _named(options)
    for spec in filter(None, (options.sampler, options.dev_schedule)):
        registry.schedules.parse(spec)
    if options.tensorboard and not find_spec("tensorboard"):
        raise MissingPrerequisiteError("TensorBoard is needed for --tensorboard: pip install tensorboard")
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
        prepare(options)
    if _retrieves(options):
        from ..retrievers.training import train as train_retriever

        train_retriever(options, kind, loss, mixture, development)
    else:
        from ..loop.reranker import train as train_reranker

        train_reranker(options, kind, loss, mixture, development)


def _retrieves(options: Options) -> bool:
    """Whether a retriever is trained: those have losses and a trainer of their own."""
    return options.kind.replace("-", "_").partition("(")[0] in ("bi_encoder", "poly_encoder")


def _named(options: Options) -> tuple[Any, Any]:
    """The kind and the loss that the options name."""
    if _retrieves(options):
        from ..retrievers.model import named

        if options.sampler or options.dev_schedule or options.dev_aggregator:
            raise UsageError(f"--sampler, --dev-schedule and --dev-aggregator are not for {options.kind}")
        return named(options.kind.replace("-", "_"), options.loss)
    from ..losses import losses
    from ..rankers.kinds import kinds

    return kinds.parse(options.kind), losses.parse(options.loss)


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
    elif options.num_train_epochs <= 0:
        raise UsageError("--max-steps or --num-train-epochs must be above 0")
    return Mixture(parts, options.list_size, options.seed, total, options.num_train_epochs), development
