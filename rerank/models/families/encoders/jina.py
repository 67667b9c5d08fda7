"""Jina's XLM-R cross-encoders (jina-reranker-v2) from their own layout, without their code.

``config.json`` names the class ``XLMRobertaFlashConfig`` of code that comes with the checkpoint, and no
``model_type``. The network is XLM-R's, with other names and one projection for query, key and value, so that the
weights go into transformers' ``XLMRobertaForSequenceClassification``. Jina's code takes long passages (more than
1,024 tokens) in overlapping windows and keeps the best, here ``--passages maxp(...)``; by default they are cut.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from ....engine.templates import Truncation
from ....errors import InputError
from ....registry import families
from ...checkpoints import Checkpoint
from ...loading import clamp_length, load_tokenizer
from ...stored_weights import some, stored
from ..about import About, Example
from .sequence_classification import SequenceClassifier, column_of

CONFIG_CLASS = "XLMRobertaFlashConfig"
ARCHITECTURE = "XLMRobertaForSequenceClassification"
NAMES = (
    (r"^roberta\.embeddings\.LayerNorm\.", "roberta.emb_ln."),
    (r"^roberta\.encoder\.layer\.", "roberta.encoder.layers."),
    (r"\.attention\.self\.(query|key|value)\.", ".mixer.Wqkv."),
    (r"\.attention\.output\.dense\.", ".mixer.out_proj."),
    (r"\.attention\.output\.LayerNorm\.", ".norm1."),
    (r"\.intermediate\.dense\.", ".mlp.fc1."),
    (r"(\.\d+)\.output\.dense\.", r"\1.mlp.fc2."),
    (r"(\.\d+)\.output\.LayerNorm\.", r"\1.norm2."),
)
"""What a weight of transformers is called in the checkpoint: each pattern that fits is replaced, in this order."""
THIRDS = ("query", "key", "value")


def name_in_checkpoint(name: str) -> str:
    """What a weight of transformers' ``XLMRobertaForSequenceClassification`` is called in Jina's layout."""
    for pattern, theirs in NAMES:
        name = re.sub(pattern, theirs, name)
    return name


def load_jina(checkpoint: Checkpoint) -> Any:
    """The transformers classifier of a checkpoint, in fp32.

    Raises InputError where a weight is missing, superfluous or of another shape, or where the config asks for what
    XLM-R does not have.
    """
    from transformers import AutoConfig, AutoModelForSequenceClassification

    auto: Any = AutoModelForSequenceClassification
    _check_config(checkpoint)
    own = ("model_type", "architectures", "auto_map", "torch_dtype", "dtype")
    shared = {key: value for key, value in checkpoint.config.items() if key not in own}
    module = auto.from_config(AutoConfig.for_model("xlm-roberta", **shared))
    state = stored(checkpoint)
    named = {ours: name_in_checkpoint(ours) for ours in module.state_dict()}
    missing = sorted({*named.values()} - {*state})
    unexpected = sorted({*state} - {*named.values()})
    if missing or unexpected:
        raise InputError(
            f"{checkpoint.name}: no cross-encoder in Jina's layout: missing {some(missing)}; "
            f"unexpected {some(unexpected)}"
        )
    width = module.config.hidden_size
    try:
        module.load_state_dict({ours: _part(ours, state[theirs], width) for ours, theirs in named.items()})
    except RuntimeError as error:
        raise InputError(f"{checkpoint.name}: weights do not fit the config: {error}") from None
    return module.eval()


def _part(name: str, value: torch.Tensor, width: int) -> torch.Tensor:
    """The weight ``name`` of transformers out of a tensor of the checkpoint: a third of ``Wqkv``, else all."""
    third = next((i for i, part in enumerate(THIRDS) if f".self.{part}." in name), None)
    if third is None:
        return value
    end = None if third == 2 else (third + 1) * width  # rows too many stay in sight: they fit no weight
    return value[third * width : end]


def _check_config(checkpoint: Checkpoint) -> None:
    config = checkpoint.config
    kind = config.get("position_embedding_type", "absolute")
    if kind != "absolute":
        raise InputError(
            f"{checkpoint.name}: position_embedding_type {kind!r}; this family has absolute positions"
        )
    if config.get("lora_adaptations"):
        raise InputError(
            f"{checkpoint.name}: lora_adaptations are those of an embedding model; this is not a reranker"
        )


@families.register("jina")
@dataclass(frozen=True)
class Jina:
    """jina-reranker-v2 and its fine-tunes: XLM-R with a classification head, in the layout of Jina's own code.

    ``label`` names the label that means relevant, by name or number, where the head does not say it.
    """

    label: str | int | None = None
    about: ClassVar[About] = About(
        "pointwise",
        "packed",
        "the logit of the one label",
        examples=(Example("jinaai/jina-reranker-v2-base-multilingual", "cc-by-nc-4.0"),),
    )
    max_length: int | None = None

    def claims(self, checkpoint: Checkpoint) -> bool:
        """Classifiers whose config is Jina's class, whatever else they call themselves."""
        named = checkpoint.config.get("auto_map")
        remote = str(named.get("AutoConfig", "")) if isinstance(named, dict) else ""
        theirs = remote.rpartition(".")[2] == CONFIG_CLASS and checkpoint.architecture == ARCHITECTURE
        return checkpoint.plain and theirs

    def load(self, checkpoint: Checkpoint) -> SequenceClassifier:
        """Loads the checkpoint; its head must have one or two labels unless one is chosen."""
        module = load_jina(checkpoint)
        config = module.config
        column = column_of(checkpoint, module, self.label)
        tokenizer = load_tokenizer(checkpoint)
        first = config.pad_token_id + 1
        limit = config.max_position_embeddings - first
        truncation = Truncation(clamp_length(self.max_length, limit, tokenizer.model_max_length))
        return SequenceClassifier(checkpoint, module, tokenizer, truncation, first, column=column)
