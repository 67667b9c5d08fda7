"""monoELECTRA and its relatives in the webis layout: a bare encoder and one linear layer on the first token.

``config.json`` has ``model_type: cross-encoder`` and ``backbone_model_type``; the weights are the encoder's (an
``electra.`` or ``bert.`` prefix is dropped) and ``linear.weight`` (1, H), with or without ``linear.bias``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from ..batching import Batch
from ..checkpoints import Checkpoint
from ..encoder import PostNormEncoder
from ..errors import InputError
from ..registry import families
from ..templates import Truncation, pair_template
from . import clamp_length, fingerprint, load_tokenizer

BACKBONES = ("electra", "bert")


class FirstTokenEncoder:
    """An encoder with a linear layer on the first token; see `sparring.rerank.models.Model`."""

    width = 1
    packed = True
    first_position = 0

    def __init__(
        self, checkpoint: Checkpoint, body: Any, linear: torch.nn.Linear, tokenizer: Any, truncation: Truncation
    ) -> None:
        self.name = checkpoint.name
        self.body = PostNormEncoder(body)
        self.linear, self.tokenizer, self.truncation = linear, tokenizer, truncation
        self.template = pair_template(tokenizer, segments=True)
        self.fingerprint = fingerprint(checkpoint, self.template, truncation)
        self.deterministic = False

    def place(self, device: torch.device, dtype: torch.dtype, deterministic: bool = False) -> None:
        """Moves the encoder in ``dtype`` and the linear layer in fp32 to a device."""
        self.deterministic = deterministic
        self.body.to(device=device, dtype=dtype)
        self.body.pack()
        self.linear.to(device=device, dtype=torch.float32)

    def forward(self, batch: Batch) -> torch.Tensor:
        """Raw fp32 scores, (S,)."""
        scores: torch.Tensor = self.linear(self.body(batch, self.deterministic).float())
        return scores[:, 0]


def load_webis(checkpoint: Checkpoint) -> tuple[Any, torch.nn.Linear]:
    """The encoder and the linear layer of a checkpoint in the webis layout.

    Raises InputError where the backbone is unknown or a weight is missing, superfluous or of another shape.
    """
    from safetensors.torch import load_file
    from transformers import BertConfig, BertModel, ElectraConfig, ElectraModel

    kind = checkpoint.config.get("backbone_model_type")
    if kind not in BACKBONES:
        raise InputError(f"{checkpoint.name}: backbone_model_type is {kind!r}, expected {' or '.join(BACKBONES)}")
    state: dict[str, torch.Tensor] = {}
    for path in checkpoint.weights:
        state |= load_file(path)
    state = {name.removeprefix(f"{kind}."): value.float() for name, value in state.items()}
    if "linear.weight" not in state:
        raise InputError(f"{checkpoint.name}: the weights hold no linear.weight: the head would be random")
    weight, bias = state.pop("linear.weight"), state.pop("linear.bias", None)
    shared = {key: value for key, value in checkpoint.config.items() if key not in ("model_type", "architectures")}
    body: Any
    if kind == "electra":
        body = ElectraModel(ElectraConfig(**shared))
    else:
        body = BertModel(BertConfig(**shared), add_pooling_layer=False)
    for name in [name for name in state if name.startswith("pooler.") or name.endswith("position_ids")]:
        del state[name]
    try:
        report = body.load_state_dict(state, strict=False)
    except RuntimeError as error:
        raise InputError(f"{checkpoint.name}: weights do not fit the config: {error}") from None
    width = body.config.hidden_size
    missing = [name for name in report.missing_keys if not name.endswith(("position_ids", "token_type_ids"))]
    if missing or report.unexpected_keys or tuple(weight.shape) != (1, width):
        raise InputError(
            f"{checkpoint.name}: not a {kind} encoder with a (1, {width}) linear layer: missing "
            f"{missing[:3]}, unknown {report.unexpected_keys[:3]}, linear.weight {tuple(weight.shape)}"
        )
    linear = torch.nn.Linear(weight.shape[1], 1, bias=bias is not None)
    linear.load_state_dict({"weight": weight} if bias is None else {"weight": weight, "bias": bias})
    return body.eval(), linear


@families.register("webis")
@dataclass(frozen=True)
class Webis:
    """monoELECTRA in the webis layout; query and passage are cut to ``query_length`` and ``doc_length``."""

    MODEL_TYPES: ClassVar[frozenset[str]] = frozenset({"cross-encoder", "mono"})
    max_length: int | None = None

    def claims(self, checkpoint: Checkpoint) -> bool:
        """Checkpoints whose config says ``model_type: cross-encoder`` (or ``mono``)."""
        return checkpoint.model_type in self.MODEL_TYPES

    def load(self, checkpoint: Checkpoint) -> FirstTokenEncoder:
        """Loads the checkpoint; only pooling of the first token is known."""
        pooling = checkpoint.config.get("pooling_strategy", "first")
        if pooling != "first":
            raise InputError(f"{checkpoint.name}: pooling_strategy {pooling!r}; this family pools the first token")
        body, linear = load_webis(checkpoint)
        tokenizer = load_tokenizer(checkpoint)
        length = clamp_length(self.max_length, body.config.max_position_embeddings)
        truncation = Truncation(
            length, int(checkpoint.config.get("query_length", 32)), int(checkpoint.config.get("doc_length", 256))
        )
        return FirstTokenEncoder(checkpoint, body, linear, tokenizer, truncation)
