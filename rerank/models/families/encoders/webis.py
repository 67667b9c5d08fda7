"""monoELECTRA and its relatives in the webis layout: a bare encoder and one linear layer on the first token.

``config.json`` has ``model_type: cross-encoder`` (lightning-ir: ``mono``) and ``backbone_model_type``; the
weights are the encoder's (an ``electra.`` or ``bert.`` prefix is dropped) and ``linear.weight`` (1, H) or (2,
H), with or without ``linear.bias``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from ....engine.batches import Batch
from ....engine.templates import Constant, Template, Truncation, pair_template
from ....errors import InputError
from ....registry import families
from ...attention.layers import POST_NORM
from ...attention.packed import attach, packed_kwargs
from ...attention.post_norm import PostNormEncoder
from ...checkpoints import Checkpoint
from ...config_fields import token_types
from ...loading import clamp_length, fingerprint, load_tokenizer
from ..about import UNSTATED, About, Example
from .sequence_classification import ROBERTA

BACKBONES = ("electra", "bert", "roberta", "xlm-roberta", "camembert", "modernbert")
LIMITS = (("query_length", 32), ("doc_length", 256))
INTERACTION = "[INT]"
"""The token by which the passages of a Set-Encoder see each other."""


class FirstTokenHead(torch.nn.Module):
    """A linear layer with one or two rows on the first token, behind a pooler (dense, tanh) if there is one."""

    def __init__(self, linear: torch.nn.Linear, dense: torch.nn.Linear | None = None) -> None:
        super().__init__()
        self.linear, self.dense = linear, dense

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """States (S, H) to raw scores (S,); of two rows l1 - l0."""
        if self.dense is not None:
            states = torch.tanh(self.dense(states))
        logits: torch.Tensor = self.linear(states)
        return logits[:, 0] if logits.shape[1] == 1 else logits[:, 1] - logits[:, 0]


class FirstTokenEncoder:
    """An encoder with a linear layer on the first token; see `sparring.rerank.engine.model.Model`."""

    width = 1
    packed = True

    def __init__(
        self, checkpoint: Checkpoint, body: Any, head: FirstTokenHead, tokenizer: Any, truncation: Truncation
    ) -> None:
        self.name = checkpoint.name
        self.lean = body.config.model_type in POST_NORM
        self.first_position = first_position(body.config)
        attach(body)
        self.body: Any = PostNormEncoder(body) if self.lean else body
        self.head, self.tokenizer, self.truncation = head, tokenizer, truncation
        self.template = webis_template(checkpoint, tokenizer, body.config)
        self.fingerprint = fingerprint(checkpoint, self.template, truncation)
        self.deterministic = False

    def place(self, device: torch.device, dtype: torch.dtype, deterministic: bool = False) -> None:
        """Moves the encoder in ``dtype`` and the linear layer in fp32 to a device."""
        self.deterministic = deterministic
        self.body.to(device=device, dtype=dtype)
        if self.lean:
            self.body.pack()
        self.head.to(device=device, dtype=torch.float32)

    def forward(self, batch: Batch) -> torch.Tensor:
        """Raw fp32 scores, (S,)."""
        if self.lean:
            states = self.body(batch, self.deterministic)
        else:
            hidden = self.body(
                input_ids=batch.input_ids[None],
                position_ids=batch.positions[None],
                **packed_kwargs(batch, self.deterministic),
            ).last_hidden_state[0]
            states = hidden[batch.boundaries[:-1]]
        scores: torch.Tensor = self.head(states.float())
        return scores


def first_position(config: Any) -> int:
    """The position of the first token: behind the padding id for RoBERTa, else 0."""
    return int(config.pad_token_id) + 1 if config.model_type in ROBERTA else 0


def webis_template(checkpoint: Checkpoint, tokenizer: Any, config: Any) -> Template:
    """The tokenizer's own template; with ``add_extra_token``, `INTERACTION` stands behind the first token.

    Raises InputError where that token is asked for and the tokenizer has none.
    """
    theirs = (
        "backbone_model_type" in checkpoint.config
    )  # lightning-ir asks for types, whatever its tokenizer yields
    pair = pair_template(tokenizer, token_types(config) > 1, always=theirs)
    if not checkpoint.config.get("add_extra_token", False):
        return pair
    token = tokenizer.convert_tokens_to_ids(INTERACTION)
    if token is None or token == tokenizer.unk_token_id or token >= config.vocab_size:
        raise InputError(f"{checkpoint.name}: add_extra_token is set, but the tokenizer has no {INTERACTION}")
    first = pair.slots[0]
    if not isinstance(first, Constant):
        raise InputError(f"{checkpoint.name}: its tokenizer puts no token before the query")
    if first.ids[1:2] == (token,):
        return pair
    return Template((Constant((first.ids[0], token, *first.ids[1:]), first.segment), *pair.slots[1:]))


def load_webis(checkpoint: Checkpoint) -> tuple[Any, FirstTokenHead, dict[str, torch.Tensor]]:
    """The encoder, the head, and the weights of a duplicate-detection head (``repeat_linear``) if there is one.

    Raises InputError where the backbone is unknown or a weight is missing, superfluous or of another shape.
    """
    from safetensors.torch import load_file

    pooling = checkpoint.config.get("pooling_strategy", "first")
    if pooling != "first":
        raise InputError(f"{checkpoint.name}: pooling_strategy {pooling!r}; this family pools the first token")
    state: dict[str, torch.Tensor] = {}
    for path in checkpoint.weights:
        state |= load_file(path)
    body = _empty_body(checkpoint)
    state = {name.removeprefix(f"{body.base_model_prefix}."): value.float() for name, value in state.items()}
    head = _head(checkpoint, state, body.config.hidden_size)
    repeat = {name: state.pop(name) for name in [*state] if name.startswith("repeat_linear.")}
    for name in [name for name in state if name.startswith("pooler.") or name.endswith("position_ids")]:
        del state[name]
    try:
        report = body.load_state_dict(state, strict=False)
    except RuntimeError as error:
        raise InputError(f"{checkpoint.name}: weights do not fit the config: {error}") from None
    missing = [name for name in report.missing_keys if not name.endswith(("position_ids", "token_type_ids"))]
    if missing or report.unexpected_keys:
        raise InputError(
            f"{checkpoint.name}: no {body.config.model_type} encoder with a linear layer: missing {missing[:3]}, "
            f"unknown {report.unexpected_keys[:3]}"
        )
    return body.eval(), head.eval(), repeat


def _empty_body(checkpoint: Checkpoint) -> Any:
    from transformers import AutoConfig, AutoModel

    auto: Any = AutoModel
    kind = checkpoint.config.get("backbone_model_type")
    if kind not in BACKBONES:
        raise InputError(f"{checkpoint.name}: backbone_model_type is {kind!r}, expected {', '.join(BACKBONES)}")
    shared = {key: value for key, value in checkpoint.config.items() if key not in ("model_type", "architectures")}
    pooler = {} if kind in ("electra", "modernbert") else {"add_pooling_layer": False}
    return auto.from_config(AutoConfig.for_model(kind, **shared), **pooler)


def _head(checkpoint: Checkpoint, state: dict[str, torch.Tensor], width: int) -> FirstTokenHead:
    """Takes the head's weights out of ``state``."""
    if "linear.weight" not in state:
        raise InputError(f"{checkpoint.name}: the weights hold no linear.weight: the head would be random")
    weight, bias = state.pop("linear.weight"), state.pop("linear.bias", None)
    if weight.shape[0] not in (1, 2) or weight.shape[1:] != (width,):
        raise InputError(
            f"{checkpoint.name}: linear.weight is {tuple(weight.shape)}, expected (1, {width}) or (2, {width})"
        )
    linear = torch.nn.Linear(width, len(weight), bias=bias is not None)
    linear.load_state_dict({"weight": weight} if bias is None else {"weight": weight, "bias": bias})
    pool = {name: state.pop(f"bert_pool.0.{name}", None) for name in ("weight", "bias")}
    if pool["weight"] is None or pool["bias"] is None:
        return FirstTokenHead(linear)
    dense = torch.nn.Linear(width, width)
    dense.load_state_dict(pool)
    return FirstTokenHead(linear, dense)


def webis_truncation(checkpoint: Checkpoint, config: Any, max_length: int | None) -> Truncation:
    """Query and passage are cut to ``query_length`` and ``doc_length`` (None: not cut), all to ``max_length``."""
    length = clamp_length(max_length, config.max_position_embeddings - first_position(config))
    query, passage = (checkpoint.config.get(key, default) for key, default in LIMITS)
    return Truncation(length, None if query is None else int(query), None if passage is None else int(passage))


@families.register("webis")
@dataclass(frozen=True)
class Webis:
    """monoELECTRA in the webis layout; query and passage are cut to ``query_length`` and ``doc_length``."""

    about: ClassVar[About] = About(
        "pointwise",
        "packed",
        "the product of the first token's last state and one vector",
        examples=(
            Example("webis/monoelectra-base", UNSTATED),
            Example("webis/monoelectra-large", UNSTATED),
        ),
    )
    MODEL_TYPES: ClassVar[frozenset[str]] = frozenset({"cross-encoder", "mono"})
    max_length: int | None = None

    def claims(self, checkpoint: Checkpoint) -> bool:
        """Checkpoints whose config says ``model_type: cross-encoder`` (or ``mono``)."""
        return checkpoint.plain and checkpoint.model_type in self.MODEL_TYPES

    def load(self, checkpoint: Checkpoint) -> FirstTokenEncoder:
        """Loads the checkpoint; only pooling of the first token is known."""
        body, head, _ = load_webis(checkpoint)
        truncation = webis_truncation(checkpoint, body.config, self.max_length)
        return FirstTokenEncoder(checkpoint, body, head, load_tokenizer(checkpoint), truncation)
