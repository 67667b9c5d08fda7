"""gte's cross-encoders (gte-multilingual-reranker-base): BERT with rotary positions and a gated feed-forward.

``config.json`` says ``"model_type": "new"`` and names ``NewForSequenceClassification`` of code that comes with the
checkpoint (Zhang et al., mGTE, EMNLP 2024 industry track). transformers has the same network as ``gte``, for
checkpoints that were saved again; both are read here. Positions may be stretched (``rope_scaling``, NTK). How the
owner's code computes, not what (``unpad_inputs``, ``use_memory_efficient_attention``), is ignored.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from ....errors import InputError
from ....registry import families
from ...attention.glu import GluShape
from ...attention.rotary import frequencies
from ...checkpoints import Checkpoint
from ...loading import load_pretrained
from ...stored_weights import stored
from ..about import About, Example
from .glu_classifier import GluClassifier, build, by_layer, number, renamed

ARCHITECTURES = frozenset(
    {"NewForSequenceClassification", "GteNewForSequenceClassification", "GteForSequenceClassification"}
)
MODEL_TYPES = frozenset({"new", "gte"})
NAMES = {
    "body.words": "{prefix}embeddings.word_embeddings",
    "body.types": "{prefix}embeddings.token_type_embeddings",
    "body.norm": "{prefix}embeddings.LayerNorm",
    "pooler": "{prefix}pooler.dense",
    "classifier": "classifier",
}
LAYER = {
    "attention_out": "new.encoder.layer.{i}.attention.o_proj",
    "attention_norm": "new.encoder.layer.{i}.attn_ln",
    "down": "new.encoder.layer.{i}.mlp.down_proj",
    "norm": "new.encoder.layer.{i}.mlp_ln",
}
LAYER_OF_TRANSFORMERS = {
    "attention_out": "gte.layers.{i}.self_attn.o_proj",
    "attention_norm": "gte.layers.{i}.post_attention_layernorm",
    "down": "gte.layers.{i}.mlp.down_proj",
    "norm": "gte.layers.{i}.post_mlp_layernorm",
}


def shape_of(checkpoint: Checkpoint) -> GluShape:
    """Sizes and kinds by the config; InputError where it asks for what this family does not have."""
    from transformers.activations import ACT2FN

    config = checkpoint.config
    _check(checkpoint)
    width, heads = number(checkpoint, "hidden_size"), number(checkpoint, "num_attention_heads")
    theta, factor, mixed = _rope(checkpoint)
    act: Any = ACT2FN
    return GluShape(
        words=number(checkpoint, "vocab_size"),
        width=width,
        layers=number(checkpoint, "num_hidden_layers"),
        heads=heads,
        inner=number(checkpoint, "intermediate_size"),
        types=int(config.get("type_vocab_size", 1)),
        eps=float(config.get("layer_norm_eps", 1e-12)),
        activation=act[config.get("hidden_act", "gelu")],
        gate_first=False,
        frequency=frequencies(width // heads, theta, factor, mixed),
        rms=config.get("layer_norm_type", "layer_norm") == "rms_norm",
    )


def _check(checkpoint: Checkpoint) -> None:
    for key, known in (
        ("position_embedding_type", ("rope",)),
        ("layer_norm_type", ("layer_norm", "rms_norm")),
        ("hidden_act", ("gelu", "relu", "silu", "gelu_new")),
        ("logn_attention_scale", (False,)),
    ):
        value = checkpoint.config.get(key, known[0])
        if value not in known:
            listed = " and ".join(map(str, known))
            raise InputError(f"{checkpoint.name}: {key} {value!r}; this family has {listed}")


def _rope(checkpoint: Checkpoint) -> tuple[float, float, float | None]:
    """Base, factor and exponent of the rotary positions."""
    config = checkpoint.config
    native = checkpoint.model_type == "gte"
    rope = (config.get("rope_parameters") if native else config.get("rope_scaling")) or {}
    theta = float(rope.get("rope_theta", 160_000.0) if native else config.get("rope_theta", 10_000.0))
    kind = rope.get("type") or rope.get("rope_type") or "default"
    if kind == "default":
        return theta, 1.0, None
    if kind != "ntk" or native:
        raise InputError(f"{checkpoint.name}: rope_scaling of type {kind!r}; this family has ntk")
    mixed = rope.get("mixed_b")
    return theta, float(rope.get("factor", 1.0)), None if mixed is None else float(mixed)


def weights_of(checkpoint: Checkpoint, layers: int) -> dict[str, torch.Tensor]:
    """The weights by the names of a `GluNetwork`, from either layout."""
    if checkpoint.model_type == "gte":
        from transformers import AutoModelForSequenceClassification

        state = load_pretrained(AutoModelForSequenceClassification, checkpoint).state_dict()
        prefix, layer, at = "gte.", LAYER_OF_TRANSFORMERS, "gte.layers"
        qkv, joint = "self_attn.{}_proj", ["mlp.up_proj", "mlp.gate_proj"]
    else:
        state = stored(checkpoint)
        state = {name: value for name, value in state.items() if not _derived(name)}
        prefix, layer, at = "new.", LAYER, "new.encoder.layer"
        qkv, joint = "attention.{}_proj", ["mlp.up_gate_proj"]
    packed = any(".qkv_proj." in name for name in state)
    parts: dict[str, tuple[str, ...]] = {}
    for i in range(layers):
        thirds = ("qkv",) if packed else ("q", "k", "v")
        parts[f"body.layers.{i}.qkv"] = tuple(f"{at}.{i}.{qkv.format(third)}" for third in thirds)
        parts[f"body.layers.{i}.joint"] = tuple(f"{at}.{i}.{part}" for part in joint)
    names = {ours: theirs.format(prefix=prefix) for ours, theirs in NAMES.items()}
    return renamed(state, by_layer(names, layer, layers), parts)


def _derived(name: str) -> bool:
    """Whether a tensor follows from the config: some tools save what the owner's code does not."""
    return ".rotary_emb." in name or name.endswith("embeddings.position_ids")


@families.register("gte")
@dataclass(frozen=True)
class Gte:
    """gte-multilingual-reranker-base and its kin: rotary positions, a gated feed-forward, packed.

    ``label`` names the label that means relevant, by name or number, where the head has more than two.
    """

    about: ClassVar[About] = About(
        "pointwise",
        "packed",
        "the logit of the one label, or the log-odds of the last or the named one",
        examples=(Example("Alibaba-NLP/gte-multilingual-reranker-base", "apache-2.0"),),
    )
    label: str | int | None = None
    max_length: int | None = None

    def claims(self, checkpoint: Checkpoint) -> bool:
        """Classifiers whose config says ``new`` (or transformers' ``gte``) and names such an architecture."""
        ours = checkpoint.model_type in MODEL_TYPES and checkpoint.architecture in ARCHITECTURES
        return checkpoint.plain and ours

    def load(self, checkpoint: Checkpoint) -> GluClassifier:
        """Loads the checkpoint; InputError where weights and config are not of this family."""
        shape = shape_of(checkpoint)
        state = weights_of(checkpoint, shape.layers)
        what = "a cross-encoder in gte's layout"
        return build(checkpoint, shape, state, what, self.label, self.max_length)
