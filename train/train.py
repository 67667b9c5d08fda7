"""``sparring train``: fine-tunes a reranker from named data, measures it as a ranker, survives being killed."""

from __future__ import annotations

import os
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ..rerank import console
from ..rerank.cli import CommonOptions, config_text
from ..rerank.errors import UsageError
from ..rerank.files import atomic_write

if TYPE_CHECKING:
    from .data import Mixture
    from .development import Development
    from .losses import Loss


@dataclass(frozen=True, kw_only=True)
class Options(CommonOptions):
    """Train a reranker: see configs/train for recipes."""

    output_dir: Path
    """Folder for the model, its card, the training log and the checkpoints."""
    data: tuple[str, ...]
    """Sources such as run(path='first.run', dataset='folder', scale=20); several are mixed by their share."""
    model_name_or_path: str = "minilm"
    """Where to start: a folder, minilm (embedded) or a name on the hub; a missing head is made anew."""
    kind: Literal["pointwise"] = "pointwise"
    """What is trained: pointwise scores one passage at a time."""
    loss: str = "kl"
    """A loss by its spec; sparring list losses shows all."""
    list_size: int = 16
    """Candidates drawn per query."""
    per_device_train_batch_size: int = 4
    """Lists per step and device."""
    gradient_accumulation_steps: int = 1
    """Steps whose gradients are added up before the weights change."""
    max_steps: int = 0
    """Steps in all; 0 makes num_train_epochs passes over the queries."""
    num_train_epochs: float = 1.0
    """Passes over the queries of all sources, where max_steps is 0."""
    learning_rate: float = 1e-4
    """Peak learning rate of the body."""
    head_learning_rate: float = 3e-4
    """Peak learning rate of the head."""
    warmup_ratio: float = 0.05
    """Share of the steps in which the learning rate rises; then it falls."""
    lr_scheduler_type: Literal["linear", "cosine", "constant_with_warmup"] = "linear"
    """How the learning rate falls."""
    weight_decay: float = 0.01
    """AdamW's decay, of all but biases and norms."""
    max_grad_norm: float = 1.0
    """Gradients are clipped to this norm; 0 leaves them."""
    dropout: float | None = None
    """Replaces the dropout of the checkpoint."""
    max_length: int | None = 256
    """Tokens of one input; the passage is cut, not the query."""
    token_budget: int | None = None
    """Tokens that go through the model at once; by default what suits the device."""
    gradient_caching: bool = False
    """Compute activations twice: a list of any length needs the memory of one token budget."""
    dev_run: Path | None = None
    """TREC run to rerank for the measure that decides; without one the last model is kept."""
    dev_dataset: str | None = None
    """Dataset of the development run."""
    dev_qrels: Path | None = None
    """Judgments of the development run; the dataset's own where absent."""
    dev_depth: int = 100
    """How many candidates of each topic are reranked."""
    dev_holdout: int = 0
    """Measure on every n-th judged topic only: those that holdout=n in a source keeps from training."""
    dev_measure: str = "nDCG@10"
    """What decides which model is the best."""
    eval_steps: int = 200
    """Steps between measurements."""
    save_steps: int = 200
    """Steps between checkpoints."""
    logging_steps: int = 20
    """Steps between rows of the training log."""
    early_stopping_patience: int = 0
    """Stop after so many measurements without a better one; 0 never stops."""
    resume: bool = False
    """Go on from the last checkpoint in output_dir, with the same order of data."""
    push_to_hub: str | None = None
    """Upload the result to this repository of the hub."""


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
    from .losses import losses

    loss = losses.parse(options.loss)
    mixture, development = _data(options)
    for part in mixture.describe():
        console.log.info("%(lists)d lists of %(queries)d queries from %(source)s", part)
    if development is not None:
        value = development.value()
        console.log.info(
            "%d development topics: %s %.4f before reranking", len(development.topics), options.dev_measure, value
        )
    if options.dry_run:
        console.out(
            f"{len(mixture)} lists of {options.list_size} candidates, {_steps(options, len(mixture))} steps"
        )
        return
    if first:
        _prepare(options)
    _train(options, loss, mixture, development)


def _data(options: Options) -> tuple[Mixture, Development | None]:
    from .data import Mixture
    from .development import Development
    from .sources import parse

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


def _steps(options: Options, lists: int) -> int:
    return -(-lists // (options.per_device_train_batch_size * options.gradient_accumulation_steps))


def _prepare(options: Options) -> None:
    """Makes the folder with the options in it; cuts from it what was written after the last checkpoint."""
    from .trainer import cut_csv, last_checkpoint

    output = options.output_dir
    if options.overwrite and not options.resume:
        shutil.rmtree(output, ignore_errors=True)
    _check_resumed(options)
    output.mkdir(parents=True, exist_ok=True)
    with atomic_write(output / "config.yaml") as stream:
        stream.write(config_text("train", options))
    checkpoint = last_checkpoint(output)
    if checkpoint is None:
        (output / "best.json").unlink(missing_ok=True)  # of a training that was killed before its first checkpoint
    cut_csv(output / "training_log.csv", int(checkpoint.name.rpartition("-")[2]) if checkpoint else -1)


def _check_resumed(options: Options) -> None:
    """Refuses to resume with other options: the order of the data would be another."""
    path = options.output_dir / "config.yaml"
    if not options.resume or not path.is_file():
        return
    ignored = ("resume:", "overwrite:", "quiet:", "device:")
    old, new = (
        {line for line in text.splitlines()[1:] if not line.startswith(ignored)}
        for text in (path.read_text(encoding="utf-8"), config_text("train", options))
    )
    if old != new:
        changed = "; ".join(sorted(old ^ new))
        raise UsageError(
            f"{path} was made with other options ({changed}): resume with the same ones, or --overwrite"
        )


def _train(options: Options, loss: Loss, mixture: Mixture, development: Development | None) -> None:
    import torch
    from transformers import TrainingArguments, set_seed
    from transformers.utils import logging as transformers_logging

    from ..rerank.devices import choose_device, choose_dtype, default_budget
    from .card import write_card
    from .collator import Collator
    from .development import Judge
    from .ranker import PointwiseRanker
    from .trainer import CHECKPOINTS, RankingTrainer, last_checkpoint, read_best

    quiet: Any = transformers_logging
    quiet.set_verbosity_error()
    quiet.disable_progress_bar()
    set_seed(options.seed)
    device = choose_device(options.device)
    dtype = choose_dtype(options.dtype, device)
    output = options.output_dir
    ranker = PointwiseRanker(
        options.model_name_or_path, options.max_length, options.dropout, options.gradient_caching
    )
    collator = Collator(ranker.tokenizer, ranker.layout, options.token_budget or default_budget(device))
    judge = Judge(development, collator) if development is not None else None
    checkpoint = last_checkpoint(output) if options.resume else None
    arguments = TrainingArguments(
        output_dir=str(output / CHECKPOINTS),
        per_device_train_batch_size=options.per_device_train_batch_size,
        gradient_accumulation_steps=options.gradient_accumulation_steps,
        num_train_epochs=1,
        learning_rate=options.learning_rate,
        warmup_steps=int(options.warmup_ratio * _steps(options, len(mixture))),
        lr_scheduler_type=options.lr_scheduler_type,
        weight_decay=options.weight_decay,
        max_grad_norm=options.max_grad_norm,
        use_cpu=device.type == "cpu",
        bf16=dtype == torch.bfloat16,
        fp16=dtype == torch.float16,
        seed=options.seed,
        eval_strategy="steps" if judge else "no",
        eval_steps=options.eval_steps,
        eval_on_start=judge is not None and checkpoint is None,
        save_strategy="steps",
        save_steps=options.save_steps,
        save_total_limit=2,
        logging_steps=options.logging_steps,
        remove_unused_columns=False,
        ddp_find_unused_parameters=False,
        dataloader_pin_memory=False,
        report_to="none",
        disable_tqdm=True,
    )
    trainer = RankingTrainer(
        ranker,
        arguments,
        mixture,
        collator,
        loss,
        output=output,
        head_learning_rate=options.head_learning_rate,
        judge=judge,
        patience=options.early_stopping_patience,
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
        _push(output, options.push_to_hub)


def _push(output: Path, repository: str) -> None:
    from huggingface_hub import HfApi

    api = HfApi()
    api.create_repo(repository, exist_ok=True)
    api.upload_folder(repo_id=repository, folder_path=str(output), ignore_patterns=["checkpoints/*"])
