"""JinaBERT's cross-encoders (jina-reranker-v1-turbo-en, -tiny-en): BERT with ALiBi and a gated feed-forward.

``config.json`` says ``"model_type": "bert"`` but names ``JinaBertForSequenceClassification`` of code that comes
with the checkpoint (Günther et al., arXiv 2310.19923). There are two layouts: the first (``mlp.gated_layers``),
whose gate is the first half of the joint projection, and a later one (``mlp.up_gated_layer``) with the gate
behind, norms for queries and keys, and a second norm after attention. The names of the weights say which it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch.nn.functional import gelu, relu

from ....errors import InputError
from ....registry import families
from ...attention.glu import Activation, GluShape
from ...checkpoints import Checkpoint
from ...stored_weights import stored
from ..about import About, Example
from .glu_classifier import GluClassifier, build, by_layer, number, renamed

ARCHITECTURE = "JinaBertForSequenceClassification"
CONFIG_CLASS = "JinaBertConfig"
ACTIVATIONS: dict[str, Activation] = {"geglu": gelu, "reglu": relu}
NAMES = {
    "body.words": "bert.embeddings.word_embeddings",
    "body.types": "bert.embeddings.token_type_embeddings",
    "body.norm": "bert.embeddings.LayerNorm",
    "pooler": "bert.pooler.dense",
    "classifier": "classifier",
}
AT = "bert.encoder.layer.{i}."
LAYER = {
    "attention_out": AT + "attention.output.dense",
    "attention_norm": AT + "attention.output.LayerNorm",
    "query_norm": AT + "attention.self.layer_norm_q",
    "key_norm": AT + "attention.self.layer_norm_k",
}
FIRST = {"joint": AT + "mlp.gated_layers", "down": AT + "mlp.wo", "norm": AT + "mlp.layernorm"}
LATER = {
    "second_norm": AT + "layer_norm_1",
    "joint": AT + "mlp.up_gated_layer",
    "down": AT + "mlp.down_layer",
    "norm": AT + "layer_norm_2",
}


def names_jina_bert(checkpoint: Checkpoint) -> bool:
    """Whether the config names JinaBERT's classes, as architecture or as remote code."""
    named = checkpoint.config.get("auto_map")
    remote = str(named.get("AutoConfig", "")) if isinstance(named, dict) else ""
    return checkpoint.architecture.startswith("JinaBert") or remote.rpartition(".")[2] == CONFIG_CLASS


def shape_of(checkpoint: Checkpoint, state: Mapping[str, torch.Tensor]) -> GluShape:
    """Sizes and kinds by config and weights; InputError where the config asks for what this family has not."""
    config = checkpoint.config
    for key, known in (("position_embedding_type", ("alibi",)), ("feed_forward_type", tuple(ACTIVATIONS))):
        value = config.get(key, known[0])
        if value not in known:
            raise InputError(f"{checkpoint.name}: {key} {value!r}; this family has {' and '.join(known)}")
    return GluShape(
        words=number(checkpoint, "vocab_size"),
        width=number(checkpoint, "hidden_size"),
        layers=number(checkpoint, "num_hidden_layers"),
        heads=number(checkpoint, "num_attention_heads"),
        inner=number(checkpoint, "intermediate_size"),
        types=int(config.get("type_vocab_size", 2)),
        eps=float(config.get("layer_norm_eps", 1e-12)),
        activation=ACTIVATIONS[config.get("feed_forward_type", "geglu")],
        gate_first=not _later(state),
        norm_queries=any(".layer_norm_q." in name for name in state),
        twice=any(".layer_norm_1." in name for name in state),
    )


def _later(state: Mapping[str, torch.Tensor]) -> bool:
    return any(".up_gated_layer." in name for name in state)


def weights_of(state: Mapping[str, torch.Tensor], layers: int) -> dict[str, torch.Tensor]:
    """The weights by the names of a `GluNetwork`."""
    thirds = {
        f"body.layers.{i}.qkv": tuple(
            f"bert.encoder.layer.{i}.attention.self.{third}" for third in ("query", "key", "value")
        )
        for i in range(layers)
    }
    layer = LAYER | (LATER if _later(state) else FIRST)
    return renamed(state, by_layer(NAMES, layer, layers), thirds)


@families.register("jina_bert")
@dataclass(frozen=True)
class JinaBert:
    """jina-reranker-v1-turbo-en, -tiny-en and their kin: ALiBi, a gated feed-forward, packed.

    ``label`` names the label that means relevant, by name or number, where the head has more than two.
    """

    about: ClassVar[About] = About(
        "pointwise",
        "packed",
        "the logit of the one label, or the log-odds of the last or the named one",
        examples=(
            Example("jinaai/jina-reranker-v1-turbo-en", "apache-2.0"),
            Example("jinaai/jina-reranker-v1-tiny-en", "apache-2.0"),
        ),
    )
    label: str | int | None = None
    max_length: int | None = None

    def claims(self, checkpoint: Checkpoint) -> bool:
        """Classifiers whose config names JinaBERT's classes, as architecture or as remote code."""
        theirs = names_jina_bert(checkpoint) and checkpoint.architecture.endswith("ForSequenceClassification")
        return checkpoint.plain and theirs

    def load(self, checkpoint: Checkpoint) -> GluClassifier:
        """Loads the checkpoint; InputError where weights and config are not of this family."""
        state = {k: v for k, v in stored(checkpoint).items() if not k.endswith(("position_ids", "token_type_ids"))}
        shape = shape_of(checkpoint, state)
        what = "a cross-encoder in JinaBERT's layout"
        return build(checkpoint, shape, weights_of(state, shape.layers), what, self.label, self.max_length)
