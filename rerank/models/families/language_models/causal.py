"""Rerankers on causal language models: Qwen3-Reranker, BGE-gemma, mxbai, zerank, ctxl, RankLLaMA, any prompt.

The score is read at the last token: the logit of "yes" less that of "no" (of "Yes" alone for BGE and zerank), from
a head of these rows only, in fp32. Conversions to a sequence classifier hold that difference as their one row. The
prompt and the query are computed once for the passages of a batch (see
`sparring.rerank.models.attention.prefix_tree`); `formats` says how each kind is asked.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import nn

from ....engine.batches import Batch
from ....engine.templates import Template, Text, Truncation
from ....errors import InputError, UsageError
from ....registry import families, unknown
from ...attention.prefix_tree import Tree, attach
from ...checkpoints import Checkpoint
from ...config_fields import position_limit
from ...heads import decoder_head
from ...loading import clamp_length, fingerprint, load_pretrained, load_tokenizer
from ...prompts import answer_ids, check_joins, check_placeholders, own_chat, prompt_template
from ..about import About, Example
from .formats import BOS, FORMATS, OWN_CHAT, Format, known_format

PACKABLE = frozenset({"qwen2", "qwen3", "llama", "mistral", "gemma"})
"""Architectures whose attention needs nothing but queries, keys, values and positions; others run padded."""


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
        instructed: Callable[[str], Template] | None = None,
    ) -> None:
        config = module.config
        self.name = checkpoint.name
        self.width: int | None = template.passages
        self.tokenizer, self.template = tokenizer, template
        self.truncation = Truncation(length)
        self.told = instructed is not None
        self._instructed = instructed
        self.packed = config.model_type in PACKABLE
        self.pad_id = padding(tokenizer)
        self.deterministic = False
        self.module = module
        self.language_model = not is_decoder_classifier(checkpoint)
        if self.language_model:
            module.set_output_embeddings(AnswerHead(module.get_output_embeddings(), answers))
        self.head: Any = module.get_output_embeddings() if self.language_model else decoder_head(module)
        stripped = ["stripped"] if any(isinstance(slot, Text) and slot.strip for slot in template.slots) else []
        self.fingerprint = fingerprint(checkpoint, template, self.truncation, answers, *stripped)
        if self.packed:
            attach(module)

    def instructed(self, instruction: str) -> Template:
        """The input with another instruction."""
        if self._instructed is None:
            raise UsageError(f"{self.name}: topics carry an instruction, and this format has none")
        return self._instructed(instruction)

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


def padding(tokenizer: Any) -> int:
    """The id that fills rows, which no token attends to: of a tokenizer without one its end of sequence, or 0.

    Nothing is written into the tokenizer or the config.
    """
    candidates = (tokenizer.pad_token_id, tokenizer.eos_token_id, 0)
    return int(next(token for token in candidates if token is not None))


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


def begins_with_bos(tokenizer: Any) -> bool:
    """Whether a tokenizer puts its beginning-of-sequence token before a text."""
    begun = tokenizer("a")["input_ids"]
    return tokenizer.bos_token_id is not None and begun[:1] == [tokenizer.bos_token_id]


def sequence_length(module: Any, asked: int | None, default: int) -> int:
    """Tokens of one input: what was asked, else the default, never beyond the positions of the model."""
    return clamp_length(asked, position_limit(module.config) or 1 << 20, default)


@families.register("causal")
@dataclass(frozen=True)
class Causal:
    """Pointwise prompts to a causal language model, scored by the logits of "yes" and "no" at the last token.

    ``format`` is that of qwen3, bge, mxbai, zerank, ctxl or rankllama, or ``prompt`` gives another with {query}
    and {a}; ``yes`` and ``no`` are single tokens. ``instruction`` is for formats that have one: what to judge by,
    for bge the whole task after query and passage.
    """

    format: Literal["auto", "qwen3", "bge", "mxbai", "zerank", "ctxl", "rankllama"] = "auto"
    about: ClassVar[About] = About(
        "pointwise",
        "packed or padded",
        "the logit of yes less that of no at the last token; of one answer or label its logit",
        examples=(
            Example("Qwen/Qwen3-Reranker-0.6B", "apache-2.0"),
            Example("mixedbread-ai/mxbai-rerank-base-v2", "apache-2.0"),
            Example("BAAI/bge-reranker-v2-gemma", "apache-2.0"),
            Example("tomaarsen/Qwen3-Reranker-0.6B-seq-cls", "apache-2.0"),
        ),
    )
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
        """Checkpoints whose name on the hub or whose files say how they are asked."""
        return known_format(checkpoint) is not None

    def load(self, checkpoint: Checkpoint) -> CausalReranker:
        """Loads the checkpoint; where nothing says how it is asked, ``format`` or ``prompt`` must be given."""
        asked = self._format(checkpoint)
        classifier = is_decoder_classifier(checkpoint)
        if not asked.answers and not classifier:
            raise InputError(
                f"{checkpoint.name}: format rankllama is for sequence classifiers, this is "
                f"{checkpoint.architecture or 'of no architecture'}: merge its adapter first"
            )
        if asked.instruction is None and self.instruction is not None:
            raise UsageError(f"{checkpoint.name}: this format has no instruction: leave --instruction out")
        module = load_decoder(checkpoint)
        tokenizer = load_tokenizer(checkpoint)

        def template(instruction: str) -> Template:
            return self._template(checkpoint, tokenizer, asked, instruction)

        answers = [] if classifier else answer_ids(tokenizer, asked.answers)
        length = sequence_length(module, self.max_length, asked.max_length)
        own = template((asked.instruction or "") if self.instruction is None else self.instruction)
        told = None if asked.instruction is None else template
        return CausalReranker(checkpoint, module, tokenizer, own, answers, length, told)

    def _format(self, checkpoint: Checkpoint) -> Format:
        if self.prompt is not None:
            return Format((self.prompt,), (self.yes, self.no), 4096)
        name = known_format(checkpoint) if self.format == "auto" else self.format
        if name is None:
            raise InputError(
                f"{checkpoint.name}: nothing in its files says how it is asked, and names of folders decide "
                "nothing; say it with --family 'causal(format=qwen3)', bge, mxbai, zerank, ctxl or rankllama, or "
                "causal(prompt='... {query} ... {a} ...')"
            )
        return FORMATS[name]

    def _template(self, checkpoint: Checkpoint, tokenizer: Any, asked: Format, instruction: str) -> Template:
        """The input, from the tokenizer's own chat template where the format says so."""
        instruction = instruction.replace("{", "(").replace("}", ")")  # it is no template itself
        text = asked.told.format(instruction) if instruction else ""
        pieces = tuple(piece.replace("{instruction}", text) for piece in asked.pieces)
        if pieces == (OWN_CHAT,):
            pieces = (own_chat(tokenizer, checkpoint.name),)
        if BOS in pieces or asked.bos:
            if tokenizer.bos_token is None:
                raise InputError(f"{checkpoint.name}: its tokenizer has no token for the beginning of a sequence")
            pieces = tuple(tokenizer.bos_token if piece == BOS else piece for piece in pieces)
        bos = asked.bos or (asked.joined and begins_with_bos(tokenizer))
        template = prompt_template(tokenizer, pieces, bos, asked.strip)
        if asked.joined:
            check_joins(tokenizer, template, "".join(pieces), checkpoint.name)
        return template
