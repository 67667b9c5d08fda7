"""Rerankers on causal language models: Qwen3-Reranker, BGE-gemma, mxbai-rerank v2, their conversions, any prompt.

The score is read at the last token: the logit of "yes" less that of "no" (of "Yes" alone for BGE), from a head of
these rows only, in fp32. Conversions to a sequence classifier hold that difference as their one row. The prompt
and the query are computed once for the passages of a batch (see `sparring.rerank.models.attention.prefix_tree`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

from ....engine.batches import Batch
from ....engine.templates import Template, Truncation
from ....errors import InputError, UsageError
from ....registry import families, unknown
from ...attention.prefix_tree import Tree, attach
from ...checkpoints import Checkpoint
from ...config_fields import position_limit
from ...heads import decoder_head
from ...loading import clamp_length, fingerprint, load_pretrained, load_tokenizer
from ...prompts import answer_ids, check_placeholders, prompt_template

PACKABLE = frozenset({"qwen2", "qwen3", "llama", "mistral", "gemma"})
"""Architectures whose attention needs nothing but queries, keys, values and positions; others run padded."""


@dataclass(frozen=True, slots=True)
class Format:
    """How a family of checkpoints is asked: pieces tokenised apart, the answers, and its default instruction."""

    pieces: tuple[str, ...]
    answers: tuple[str, ...]
    max_length: int
    instruction: str | None = None
    bos: bool = False


FORMATS = {
    "qwen3": Format(
        (
            "<|im_start|>system\nJudge whether the Document meets the requirements based on the Query and the "
            'Instruct provided. Note that the answer can only be "yes" or "no".<|im_end|>\n<|im_start|>user\n',
            "<Instruct>: {instruction}\n<Query>: {query}\n<Document>: {a}",
            "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n",
        ),
        ("yes", "no"),
        8192,
        "Given a web search query, retrieve relevant passages that answer the query",
    ),
    "bge": Format(
        (
            "A: {query}",
            "\n",
            "B: {a}",
            "\n",
            "Given a query A and a passage B, determine whether the passage contains an answer to the query by "
            "providing a prediction of either 'Yes' or 'No'.",
        ),
        ("Yes",),
        1024,
        bos=True,
    ),
    "mxbai": Format(
        (
            "<|im_start|>system\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant.<|im_end|>\n"
            "<|im_start|>user\n",
            "{instruction}query: {query}",
            "\n",
            "document: {a}",
            "\n",
            "You are a search relevance expert who evaluates how well documents match search queries. For each "
            "query-document pair, carefully analyze the semantic relationship between them, then provide your "
            "binary relevance judgment (0 for not relevant, 1 for relevant).\nRelevance:",
            "<|im_end|>\n<|im_start|>assistant\n",
        ),
        ("1", "0"),
        8192,
        "",
    ),
}

CHECKPOINTS = {
    "Qwen/Qwen3-Reranker-0.6B": "qwen3",
    "Qwen/Qwen3-Reranker-4B": "qwen3",
    "Qwen/Qwen3-Reranker-8B": "qwen3",
    "tomaarsen/Qwen3-Reranker-0.6B-seq-cls": "qwen3",
    "tomaarsen/Qwen3-Reranker-4B-seq-cls": "qwen3",
    "tomaarsen/Qwen3-Reranker-8B-seq-cls": "qwen3",
    "BAAI/bge-reranker-v2-gemma": "bge",
    "mixedbread-ai/mxbai-rerank-base-v2": "mxbai",
    "mixedbread-ai/mxbai-rerank-large-v2": "mxbai",
    "michaelfeil/mxbai-rerank-base-v2-seq": "mxbai",
    "michaelfeil/mxbai-rerank-large-v2-seq": "mxbai",
}
BY_FOLDER = {name.rpartition("/")[2]: kind for name, kind in CHECKPOINTS.items()}


class AnswerHead(nn.Module):
    """The rows of an output embedding that belong to the answers, applied in fp32."""

    def __init__(self, head: nn.Linear, rows: list[int]) -> None:
        super().__init__()
        self.weight = nn.Parameter(head.weight.detach()[rows].float().clone(), requires_grad=False)
        bias = head.bias.detach()[rows].float().clone() if head.bias is not None else None
        self.bias = None if bias is None else nn.Parameter(bias, requires_grad=False)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """Logits of the answers, (..., answers)."""
        return nn.functional.linear(states.float(), self.weight, self.bias)


class CausalReranker:
    """A decoder that answers at its last token; see `sparring.rerank.engine.model.Model`.

    Of one answer (or label) the score is its logit, of two the first's less the second's.
    """

    first_position = 0

    def __init__(
        self,
        checkpoint: Checkpoint,
        module: Any,
        tokenizer: Any,
        template: Template,
        answers: list[int],
        length: int,
    ) -> None:
        config = module.config
        self.name = checkpoint.name
        self.width: int | None = template.passages
        self.tokenizer, self.template = tokenizer, template
        self.truncation = Truncation(length)
        self.packed = config.model_type in PACKABLE
        self.pad_id = int(tokenizer.pad_token_id or tokenizer.eos_token_id or 0)
        self.deterministic = False
        self.module = module
        self.language_model = not is_decoder_classifier(checkpoint)
        if self.language_model:
            module.set_output_embeddings(AnswerHead(module.get_output_embeddings(), answers))
        self.head: Any = module.get_output_embeddings() if self.language_model else decoder_head(module)
        self.fingerprint = fingerprint(checkpoint, template, self.truncation, answers)
        if self.packed:
            attach(module)

    def place(self, device: torch.device, dtype: torch.dtype, deterministic: bool = False) -> None:
        """Moves the decoder in ``dtype`` and the answers' head in fp32 to a device."""
        self.deterministic = deterministic
        self.module.to(device=device, dtype=dtype)
        self.head.to(torch.float32)

    def forward(self, batch: Batch) -> torch.Tensor:
        """Raw fp32 scores, (S,); of a pair the logit of "the first is better"."""
        logits = self._packed(batch) if self.packed else self._padded(batch)
        return logits[:, 0] if logits.shape[1] == 1 else logits[:, 0] - logits[:, 1]

    def _packed(self, batch: Batch) -> torch.Tensor:
        tree = Tree(batch)
        return self._logits(
            tree.last,
            input_ids=batch.input_ids[tree.tokens][None],
            position_ids=batch.positions[tree.tokens][None],
            attention_mask=None,
            tree=tree,
            fixed_splits=self.deterministic,
        )[0]

    def _padded(self, batch: Batch) -> torch.Tensor:
        rows = batch.padded(self.pad_id, side="left")
        last = torch.tensor([rows.input_ids.shape[1] - 1], device=rows.input_ids.device)
        return self._logits(
            last, input_ids=rows.input_ids, position_ids=rows.positions, attention_mask=rows.mask.long()
        )[:, 0]

    def _logits(self, places: torch.Tensor, **inputs: Any) -> torch.Tensor:
        """Logits of the answers at some places of every row, (rows, places, answers)."""
        logits: torch.Tensor
        if self.language_model:  # the model's own forward: it may scale or cap its logits
            logits = self.module(**inputs, use_cache=False, logits_to_keep=places).logits
        else:
            states = self.module.base_model(**inputs, use_cache=False).last_hidden_state
            logits = self.head(states[:, places].float()).flip(-1)  # label 1 is the positive one
        return logits.float()


def is_decoder_classifier(checkpoint: Checkpoint) -> bool:
    """Whether the config names a sequence classifier, which has a head of its own and no answers."""
    return checkpoint.architecture.endswith("ForSequenceClassification")


def load_decoder(checkpoint: Checkpoint) -> Any:
    """A language model, or a sequence classifier of one or two labels on one."""
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

    if is_decoder_classifier(checkpoint):
        module = load_pretrained(AutoModelForSequenceClassification, checkpoint)
        if module.config.num_labels not in (1, 2) or decoder_head(module) is None:
            raise InputError(
                f"{checkpoint.name}: {checkpoint.architecture} with {module.config.num_labels} labels; expected a "
                "decoder with one or two"
            )
        return module
    if not checkpoint.architecture.endswith("ForCausalLM"):
        raise InputError(
            f"{checkpoint.name}: architecture {checkpoint.architecture!r} is not a causal language model"
        )
    return load_pretrained(AutoModelForCausalLM, checkpoint)


def sequence_length(module: Any, asked: int | None, default: int) -> int:
    """Tokens of one input: what was asked, else the default, never beyond the positions of the model."""
    return clamp_length(asked, position_limit(module.config) or 1 << 20, default)


@families.register("causal")
@dataclass(frozen=True)
class Causal:
    """Pointwise prompts to a causal language model, scored by the logits of "yes" and "no" at the last token.

    ``format`` is that of qwen3, bge or mxbai, or ``prompt`` gives another with {query} and {a}; ``yes`` and ``no``
    are single tokens. Query and passage come in this order; ``instruction`` is for formats that have one.
    """

    format: Literal["auto", "qwen3", "bge", "mxbai"] = "auto"
    prompt: str | None = None
    yes: str = "yes"
    no: str = "no"
    instruction: str | None = None
    max_length: int | None = None

    def __post_init__(self) -> None:
        if self.format not in ("auto", *FORMATS):
            raise ValueError(unknown("format", self.format, ["auto", *FORMATS]))
        if self.prompt is not None:
            check_placeholders(self.prompt, ("query", "a"))
            if self.format != "auto":
                raise ValueError("give a format or a prompt, not both")

    def claims(self, checkpoint: Checkpoint) -> bool:
        """Checkpoints of the table of names: a reranker and a chat model have the same config."""
        return checkpoint.plain and known_format(checkpoint) is not None

    def load(self, checkpoint: Checkpoint) -> CausalReranker:
        """Loads the checkpoint; of one that is not in the table, ``format`` or ``prompt`` must be given."""
        asked = self._format(checkpoint)
        module = load_decoder(checkpoint)
        tokenizer = load_tokenizer(checkpoint)
        template = prompt_template(tokenizer, self._instructed(checkpoint, asked), asked.bos)
        answers = answer_ids(tokenizer, asked.answers) if not is_decoder_classifier(checkpoint) else []
        length = sequence_length(module, self.max_length, asked.max_length)
        return CausalReranker(checkpoint, module, tokenizer, template, answers, length)

    def _format(self, checkpoint: Checkpoint) -> Format:
        if self.prompt is not None:
            return Format((self.prompt,), (self.yes, self.no), 4096)
        name = known_format(checkpoint) if self.format == "auto" else self.format
        if name is None:
            raise InputError(
                f"{checkpoint.name}: not in the table of causal rerankers; say how it is asked with --family "
                "'causal(format=qwen3)', bge or mxbai, or causal(prompt='... {query} ... {a} ...')"
            )
        return FORMATS[name]

    def _instructed(self, checkpoint: Checkpoint, asked: Format) -> tuple[str, ...]:
        if asked.instruction is None:
            if self.instruction is not None:
                raise UsageError(f"{checkpoint.name}: this format has no instruction")
            return asked.pieces
        text = asked.instruction if self.instruction is None else self.instruction
        if asked is FORMATS["mxbai"] and text:
            text = f"instruction: {text}\n"
        text = text.replace("{", "(").replace("}", ")")  # an instruction is not a template
        return tuple(piece.replace("{instruction}", text) for piece in asked.pieces)


def known_format(checkpoint: Checkpoint) -> str | None:
    """The table's format of a checkpoint, by its name on the hub or its folder's name."""
    name = checkpoint.name.rstrip("/")
    return CHECKPOINTS.get(name) or BY_FOLDER.get(name.rpartition("/")[2])
