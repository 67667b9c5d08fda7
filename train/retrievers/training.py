"""Training of retrievers through sentence-transformers' own trainer: its losses and ours, measured as rankers."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from sentence_transformers import SentenceTransformerTrainer, SentenceTransformerTrainingArguments
from sentence_transformers.base.sampler import DefaultBatchSampler
from torch import Tensor, nn
from torch.utils.data import SequentialSampler
from transformers import set_seed
from transformers.utils import logging as transformers_logging

from ...rerank import console
from ...rerank.engine.devices import choose_device, default_budget
from ...rerank.models.families.encoders.poly_encoder import CONTEXTS
from ..data.mixture import Mixture
from ..loop.arguments import arguments
from ..loop.development import Development
from ..loop.folder import push, tensorboard_writer
from ..loop.trainer import Measured, last_checkpoint, read_best
from .card import write_card
from .data import DOCUMENT, QUERY, ColumnCollator, EncodedCollator, as_dataset
from .losses import Encoded, LibraryLoss, RetrieverLoss
from .model import VECTOR, Retriever, RetrieverJudge, embed

if TYPE_CHECKING:
    from ..loop.options import Options
    from .model import BiEncoderKind, PolyEncoderKind


class Objective(nn.Module):
    """A loss of this toolkit as sentence-transformers' trainer calls them, over the features of `EncodedCollator`.

    Attributes:
        levels: of every batch since they were last read: the loss, and what a constant prediction would cost.
    """

    def __init__(self, retriever: Retriever, loss: RetrieverLoss, budget: int, caching: bool) -> None:
        super().__init__()
        self.model = retriever.model  # under this name the trainer puts a wrapped model in its place
        self.retriever = retriever
        self.loss = loss
        self.budget = budget
        self.caching = caching
        self.levels: list[tuple[float, float]] = []

    def encode(self, features: Sequence[dict[str, Any]], labels: Tensor) -> Encoded:
        """The batch, encoded."""
        queries, documents = (dict(part) for part in features)
        mask, others = documents.pop("mask"), documents.pop("others")
        asked = CONTEXTS if self.retriever.codes is not None else VECTOR
        questions = embed(self.model, queries, asked, self.budget, self.caching)
        vectors = embed(self.model, documents, VECTOR, self.budget, self.caching)
        placed = vectors.new_zeros(*mask.shape, vectors.shape[1])
        placed = placed.masked_scatter(mask[:, :, None], vectors)
        return Encoded(
            questions, placed, labels.float(), mask, others, self.retriever.similarity, self.retriever.scale
        )

    def forward(self, features: Sequence[dict[str, Any]], labels: Tensor) -> Tensor:
        """The loss of one batch."""
        encoded = self.encode(features, labels)
        with torch.autocast(labels.device.type, enabled=False):
            value = self.loss(encoded)
            with torch.no_grad():
                constant = replace(encoded, similarity=_alike)
                self.levels.append((float(value.detach()), float(self.loss(constant))))
        return value


def _alike(queries: Tensor, documents: Tensor) -> Tensor:
    return queries.new_zeros(len(queries), len(documents))


class InOrder(DefaultBatchSampler):
    """Batches in the order of the dataset: the mixture has shuffled it."""

    def __init__(self, dataset: Any, batch_size: int, drop_last: bool, **options: Any) -> None:
        sampler: Any = SequentialSampler(dataset)
        super().__init__(sampler, batch_size, drop_last, **options)


class RetrieverTrainer(Measured, SentenceTransformerTrainer):
    """sentence-transformers' trainer on the lists of a mixture; keeps the best model in ``output``.

    Args:
        loss: ours (an `Objective`) or sentence-transformers'.
        columns: documents per list where the loss takes columns, else None; see `ColumnCollator`.
        labelled: whether a loss that takes columns reads labels.
        output, judge, patience, curves: as for `Measured.watch`.
    """

    def __init__(
        self,
        retriever: Retriever,
        args: SentenceTransformerTrainingArguments,
        mixture: Mixture,
        loss: nn.Module,
        *,
        output: Path,
        columns: int | None = None,
        labelled: bool = False,
        judge: RetrieverJudge | None = None,
        patience: int = 0,
        curves: Any = None,
    ) -> None:
        self.columns, self.labelled = columns, labelled  # read while the trainer is set up
        dataset = as_dataset(mixture)
        super().__init__(model=retriever.model, args=args, train_dataset=dataset, eval_dataset=dataset, loss=loss)
        self.watch(retriever, output, judge, patience, curves)
        if isinstance(loss, Objective):
            self._levels = loss.levels

    def get_data_collator(self, *args: Any, **kwargs: Any) -> Any:
        """The library's collator for columns of text, inside the one that makes them of lists."""
        inner = super().get_data_collator(*args, **kwargs)
        return (
            EncodedCollator(inner) if self.columns is None else ColumnCollator(inner, self.columns, self.labelled)
        )

    def add_model_card_callback(self, default_args_dict: dict[str, Any]) -> None:
        """None: the card is `sparring.train.retrievers.card`'s."""

    def compute_loss(self, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        """The loss of one batch; counts its pairs of a query and a document."""
        tokens = (
            value for name, value in inputs.items() if name.startswith(DOCUMENT) and name.endswith("_input_ids")
        )
        self._pairs += sum(map(len, tokens))
        return super().compute_loss(model, inputs, *args, **kwargs)

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        if self.is_world_process_zero():
            self.ranker.save(Path(output_dir or str(self.args.output_dir)))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        self.ranker.load(Path(resume_from_checkpoint))


def train(
    options: Options,
    kind: BiEncoderKind | PolyEncoderKind,
    loss: RetrieverLoss | LibraryLoss,
    mixture: Mixture,
    development: Development | None,
) -> None:
    """Trains, and leaves the best model with its card in ``output_dir``."""
    quiet: Any = transformers_logging
    quiet.set_verbosity_error()
    quiet.disable_progress_bar()
    set_seed(options.seed)
    device, output = choose_device(options.device), options.output_dir
    retriever = Retriever(options.model_name_or_path, kind, options.max_length, options.dropout)
    if options.gradient_checkpointing:
        retriever.body.gradient_checkpointing_enable()
    library = hasattr(loss, "module")
    checkpoint = last_checkpoint(output) if options.resume else None
    budget = options.token_budget or default_budget(device)
    objective: Any = (
        loss.module(retriever.model)  # type: ignore[union-attr]
        if library
        else Objective(retriever, loss, budget, options.gradient_caching)  # type: ignore[arg-type]
    )
    trainer = RetrieverTrainer(
        retriever,
        _arguments(options, retriever, len(mixture), device, checkpoint),
        mixture,
        objective,
        output=output,
        columns=options.list_size if library else None,
        labelled=library and loss.labelled,  # type: ignore[union-attr]
        judge=RetrieverJudge(development) if development is not None else None,
        patience=options.early_stopping_patience,
        curves=tensorboard_writer(output, checkpoint) if options.tensorboard else None,
    )
    started = time.monotonic()
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    if not trainer.is_world_process_zero():
        return
    best = read_best(output)
    if best is None:
        retriever.save(output)
    write_card(output, options, mixture.describe(), best, time.monotonic() - started)
    value = f"{best['measure']} {best['value']:.4f} at step {best['step']}" if best else "no development set"
    console.out(f"{output}: {value}")
    if options.push_to_hub:
        push(output, options.push_to_hub)


def _arguments(
    options: Options, retriever: Retriever, lists: int, device: torch.device, checkpoint: Path | None
) -> SentenceTransformerTrainingArguments:
    prompts = retriever.prompts()
    columns = {f"{DOCUMENT}_{place}": prompts[DOCUMENT] for place in range(1, options.list_size + 1)}
    return SentenceTransformerTrainingArguments(
        **arguments(options, lists, device, checkpoint),
        learning_rate_mapping={r"\.codes$": options.head_learning_rate} if retriever.codes is not None else {},
        prompts={QUERY: prompts[QUERY], DOCUMENT: prompts[DOCUMENT], **columns},
        batch_sampler=InOrder,
    )
