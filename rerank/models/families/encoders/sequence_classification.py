"""Cross-encoders with a classification head: BERT, ELECTRA, RoBERTa/XLM-R, ModernBERT and DeBERTa-v2.

One label is the score; of two labels the score is l1 - l0, which orders as log_softmax(l)[1] does (see
`sparring.rerank.models.heads` for more, and for heads whose second label is not the relevant one). The body runs
packed (DeBERTa, whose attention is eager only, padded); the head runs in fp32 on the first token's state alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from ....engine.batches import Batch
from ....engine.templates import Template, Truncation, pair_template
from ....errors import InputError
from ....registry import families
from ...attention.layers import POST_NORM
from ...attention.packed import attach, packed_kwargs
from ...attention.post_norm import PostNormEncoder, token_states
from ...checkpoints import Checkpoint
from ...config_fields import mean_pooled, token_types
from ...heads import detach_head, label_names, label_score, score_column
from ...loading import clamp_length, fingerprint, load_pretrained, load_tokenizer
from ..about import UNSTATED, About, Example

ROBERTA = frozenset({"roberta", "xlm-roberta", "xlm-roberta-xl", "camembert"})
PACKABLE = ROBERTA | {"bert", "electra", "modernbert"}
SUPPORTED = PACKABLE | {"deberta-v2"}
ARCHITECTURES = frozenset(
    f"{body}ForSequenceClassification"
    for body in (
        "Bert",
        "Electra",
        "Roberta",
        "XLMRoberta",
        "XLMRobertaXL",
        "Camembert",
        "ModernBert",
        "DebertaV2",
    )
)


class SequenceClassifier:
    """A cross-encoder with a classification head; see `sparring.rerank.engine.model.Model`.

    ``template`` is that of a query and one passage unless another is given; its passages are the model's width.
    ``live`` leaves the weights where they are, with gradients, for training; without ``lean`` the forward pass is
    transformers' own, which knows dropout and checkpointing. ``column`` is the label that is the score, by default
    the last.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        module: Any,
        tokenizer: Any,
        truncation: Truncation,
        first_position: int,
        template: Template | None = None,
        lean: bool = True,
        live: bool = False,
        column: int | None = None,
    ) -> None:
        config = module.config
        self.name = checkpoint.name
        self.tokenizer = tokenizer
        self.template = template or pair_template(tokenizer, token_types(config) > 1)
        self.width: int | None = self.template.passages
        self.truncation = truncation
        self.first_position = first_position
        self.packed = config.model_type in PACKABLE
        last = config.num_labels - 1
        self.column = last if column is None else column
        chosen = () if self.column == last else (self.column,)
        self.fingerprint = fingerprint(checkpoint, self.template, truncation, *chosen)
        self.deterministic = False
        self.pad_id = int(tokenizer.pad_token_id or 0)
        self.typed = token_types(config) > 1
        self.mean_pooled = mean_pooled(config)
        self.head, self.head_parts = detach_head(module)
        self.lean = lean and config.model_type in POST_NORM
        if self.packed:
            attach(module.base_model)
        else:
            module.base_model.set_attn_implementation("eager")
        self.body: Any = PostNormEncoder(module.base_model, live) if self.lean else module.base_model

    def place(self, device: torch.device, dtype: torch.dtype, deterministic: bool = False) -> None:
        """Moves the body in ``dtype`` and the head in fp32 to a device."""
        self.deterministic = deterministic
        self.body.to(device=device, dtype=dtype)
        if self.lean:
            self.body.pack()
        for part in self.head_parts:
            part.to(device=device, dtype=torch.float32)

    def forward(self, batch: Batch) -> torch.Tensor:
        """Raw fp32 scores, (S,)."""
        return self.score(self.states(batch))

    def states(self, batch: Batch) -> torch.Tensor:
        """What the head reads, (S, H), in fp32."""
        if self.lean:
            states: torch.Tensor = self.body(batch, self.deterministic)
        else:
            states = self._packed(batch) if self.packed else self._padded(batch)
        return states.float()

    def score(self, states: torch.Tensor) -> torch.Tensor:
        """The head's scores, (S,), of states (S, H)."""
        return label_score(self.head(states), self.column)

    def _packed(self, batch: Batch) -> torch.Tensor:
        hidden = token_states(self.body, batch, **packed_kwargs(batch, self.deterministic))
        if not self.mean_pooled:
            return hidden[batch.boundaries[:-1]]
        owner = torch.repeat_interleave(
            torch.arange(len(batch.lengths), device=hidden.device),
            batch.boundaries.diff(),
            output_size=len(hidden),
        )
        sums = hidden.new_zeros(len(batch.lengths), hidden.shape[1], dtype=torch.float32)
        return sums.index_add_(0, owner, hidden.float()) / batch.boundaries.diff()[:, None]

    def _padded(self, batch: Batch) -> torch.Tensor:
        rows = batch.padded(self.pad_id)
        inputs = {"token_type_ids": rows.segments} if self.typed else {}
        hidden: torch.Tensor = self.body(
            input_ids=rows.input_ids, attention_mask=rows.mask.long(), position_ids=rows.positions, **inputs
        ).last_hidden_state
        return hidden[:, 0]


def is_classifier(checkpoint: Checkpoint) -> bool:
    """Whether the config names an encoder with a classification head that this module can run.

    A config that names a classifier of remote code as well may be of another network under the same name.
    """
    named = checkpoint.config.get("auto_map")
    if isinstance(named, dict) and "AutoModelForSequenceClassification" in named:
        return False
    return checkpoint.architecture in ARCHITECTURES and checkpoint.model_type in SUPPORTED


def load_classifier(
    checkpoint: Checkpoint, max_length: int | None, any_labels: bool = False
) -> tuple[Any, Any, Truncation, int]:
    """Module, tokenizer, truncation and first position of a classifier with one or two labels, else InputError.

    ``any_labels`` lets more labels pass, for callers that choose one.
    """
    from transformers import AutoModelForSequenceClassification

    if checkpoint.model_type not in SUPPORTED:
        raise InputError(
            f"{checkpoint.name}: model_type {checkpoint.model_type!r} is not an encoder of this family "
            f"({', '.join(sorted(SUPPORTED))})"
        )
    module = load_pretrained(AutoModelForSequenceClassification, checkpoint)
    if module.config.num_labels not in (1, 2) and not any_labels:
        raise InputError(
            f"{checkpoint.name}: the head has {module.config.num_labels} labels; a reranker has 1 or 2"
        )
    tokenizer = load_tokenizer(checkpoint)
    config = module.config
    first = config.pad_token_id + 1 if checkpoint.model_type in ROBERTA else 0
    limit = config.max_position_embeddings - first
    length = clamp_length(max_length, limit, tokenizer.model_max_length)
    return module, tokenizer, Truncation(length), first


def column_of(checkpoint: Checkpoint, module: Any, label: str | int | None) -> int:
    """The label of a transformers classifier that is the score; InputError where it must be named."""
    names = label_names({"id2label": module.config.id2label}, module.config.num_labels)
    return score_column(checkpoint, names, label)


@families.register("sequence_classification")
@dataclass(frozen=True)
class SequenceClassification:
    """Cross-encoders of one or two labels on BERT, ELECTRA, RoBERTa/XLM-R, ModernBERT and DeBERTa-v2.

    ``label`` names the label that means relevant, by name or number, where the head does not say it.
    """

    label: str | int | None = None
    about: ClassVar[About] = About(
        "pointwise",
        "packed or padded",
        "the logit of the one label; of two labels l1 - l0",
        examples=(
            Example("cross-encoder/ms-marco-MiniLM-L6-v2", "apache-2.0"),
            Example("cross-encoder/ms-marco-electra-base", "apache-2.0"),
            Example("BAAI/bge-reranker-v2-m3", "apache-2.0"),
            Example("BAAI/bge-reranker-large", "mit"),
            Example("Alibaba-NLP/gte-reranker-modernbert-base", "apache-2.0"),
            Example("mixedbread-ai/mxbai-rerank-base-v1", "apache-2.0"),
            Example("castorini/monobert-large-msmarco", UNSTATED),
        ),
    )
    max_length: int | None = None

    def claims(self, checkpoint: Checkpoint) -> bool:
        """Checkpoints whose config names one of the architectures; a third token type means pairs (see `duo`)."""
        typed = checkpoint.config.get("type_vocab_size", 2)
        return checkpoint.plain and is_classifier(checkpoint) and typed < 3

    def load(self, checkpoint: Checkpoint) -> SequenceClassifier:
        """Loads the checkpoint; its head must have one or two labels unless one is chosen."""
        module, tokenizer, truncation, first = load_classifier(checkpoint, self.max_length, any_labels=True)
        column = column_of(checkpoint, module, self.label)
        return SequenceClassifier(checkpoint, module, tokenizer, truncation, first, column=column)
