"""Training of retrievers through sentence-transformers' own trainer: its losses and ours, measured as rankers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from sentence_transformers import SentenceTransformerTrainer, SentenceTransformerTrainingArguments
from torch import Tensor, nn
from torch.utils.data import BatchSampler, SequentialSampler
from transformers import TrainerCallback

from ...rerank.engine.devices import default_budget
from ...rerank.models.families.encoders.poly_encoder import CONTEXTS
from ..data.mixture import Mixture
from ..loop.arguments import arguments
from ..loop.development import Development
from ..loop.options import TrainingOptions
from ..loop.session import begin, callbacks, run
from ..loop.trainer import Measured
from .card import write_card
from .data import DOCUMENT, QUERY, ColumnCollator, EncodedCollator, as_dataset
from .losses import Encoded, LibraryLoss, RetrieverLoss
from .model import VECTOR, Retriever, RetrieverJudge, embed, named


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


class RetrieverTrainer(Measured, SentenceTransformerTrainer):
    """sentence-transformers' trainer on the lists of a mixture; keeps the best model in ``output``.

    Args:
        loss: ours (an `Objective`) or sentence-transformers'.
        columns: documents per list where the loss takes columns, else None; see `ColumnCollator`.
        labelled: whether a loss that takes columns reads labels.
        output, judge, callbacks: as for `Measured.watch`.
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
        callbacks: Sequence[TrainerCallback] = (),
    ) -> None:
        self.columns, self.labelled = columns, labelled  # read while the trainer is set up
        dataset = as_dataset(mixture)
        super().__init__(model=retriever.model, args=args, train_dataset=dataset, eval_dataset=dataset, loss=loss)
        self.watch(retriever, output, judge, callbacks)
        if isinstance(loss, Objective):
            loss.levels = self.record.levels

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
        self.record.pairs += sum(map(len, tokens))
        self.last_inputs = inputs
        return super().compute_loss(model, inputs, *args, **kwargs)

    def get_batch_sampler(
        self, dataset: Any, batch_size: int, drop_last: bool, *args: Any, **kwargs: Any
    ) -> BatchSampler:
        """Batches in the order of the dataset: the mixture has shuffled it."""
        return BatchSampler(SequentialSampler(dataset), batch_size, drop_last)


class RetrieverTraining:
    """A retriever that stands where training starts, and its loss; nothing is written before `run`."""

    def __init__(self, options: TrainingOptions) -> None:
        self.options = options
        kind, self.loss = named(options.family.replace("-", "_"), options.loss, options.list_size)
        self.device = begin(options)
        self.retriever = Retriever(options.model_name_or_path, kind, options.max_length, options.dropout)
        if options.gradient_checkpointing:
            self.retriever.body.gradient_checkpointing_enable()

    def run(self, mixture: Mixture, development: Development | None, checkpoint: Path | None) -> None:
        """Trains from a checkpoint on, and leaves the best model with its card in ``output_dir``."""
        options, loss = self.options, self.loss
        if isinstance(loss, LibraryLoss):
            objective, columns, labelled = loss.module(self.retriever.model), options.list_size, loss.labelled
        else:
            budget = options.token_budget or default_budget(self.device)
            objective = Objective(self.retriever, loss, budget, options.gradient_caching)
            columns, labelled = None, False
        trainer = RetrieverTrainer(
            self.retriever,
            _arguments(options, self.retriever, len(mixture), self.device, checkpoint),
            mixture,
            objective,
            output=options.output_dir,
            columns=columns,
            labelled=labelled,
            judge=RetrieverJudge(development) if development is not None else None,
            callbacks=callbacks(options, checkpoint),
        )
        run(trainer, options, mixture, checkpoint, write_card)


def _arguments(
    options: TrainingOptions, retriever: Retriever, lists: int, device: torch.device, checkpoint: Path | None
) -> SentenceTransformerTrainingArguments:
    prompts = retriever.prompts()
    columns = {f"{DOCUMENT}_{place}": prompts[DOCUMENT] for place in range(1, options.list_size + 1)}
    return SentenceTransformerTrainingArguments(
        **arguments(options, lists, device, checkpoint),
        learning_rate_mapping={r"\.codes$": options.head_learning_rate} if retriever.codes is not None else {},
        prompts={QUERY: prompts[QUERY], DOCUMENT: prompts[DOCUMENT], **columns},
    )
