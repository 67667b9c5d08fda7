"""NVIDIA's rerankers on a Llama that looks both ways (llama-nemotron-rerank-1b-v2, llama-3.2-nv-rerankqa-1b-v2).

``config.json`` says ``"model_type": "llama_bidirec"`` and names ``LlamaBidirectionalForSequenceClassification`` of
code that comes with the checkpoint. The network is transformers' Llama without the causal mask; the score is a row
of the head on the mean of all states, over the config's ``temperature``. Query and passage are one line of text,
``question:{query} \\n \\n passage:{passage}``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from ....engine.batches import Batch
from ....engine.templates import Constant, Slot, Template, Text, Truncation
from ....errors import InputError
from ....registry import families
from ...attention.packed import attach, packed_kwargs
from ...checkpoints import Checkpoint
from ...config_fields import position_limit
from ...heads import decoder_head, label_names, label_score, score_column
from ...loading import clamp_length, fingerprint, load_tokenizer
from ...stored_weights import fill, stored
from ..about import UNSTATED, About, Example

ARCHITECTURE = "LlamaBidirectionalForSequenceClassification"
MODEL_TYPE = "llama_bidirec"
OWN = frozenset({"model_type", "architectures", "auto_map", "torch_dtype", "dtype", "pooling", "temperature"})
"""Fields of the config that are not Llama's, or that are chosen here."""
POOLINGS = ("avg", "cls", "last")
LONGEST = 8192
BETWEEN = " \n \n"


def single_specials(tokenizer: Any) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The special tokens that a tokenizer puts before and after one text."""
    found = tokenizer("a", return_special_tokens_mask=True)
    ids, mask = found["input_ids"], found["special_tokens_mask"]
    text = [place for place, special in enumerate(mask) if not special]
    return tuple(ids[: text[0]]), tuple(ids[text[-1] + 1 :])


def nemotron_template(tokenizer: Any) -> Template:
    """The line of query and passage; a colon and line ends are tokenised with the text that they touch."""
    before, after = single_specials(tokenizer)
    slots: list[Slot] = [Constant(before)] if before else []
    slots.append(Text("query", prefix="question:", suffix=BETWEEN))
    line = tuple(tokenizer(BETWEEN, add_special_tokens=False)["input_ids"])
    slots.append(Constant(line, after_cut=len(slots) - 1))
    slots.append(Text("passage", prefix=" passage:"))
    if after:
        slots.append(Constant(after))
    return Template(tuple(slots))


class BidirectionalLlama:
    """A Llama that looks both ways, with a head on pooled states; see `sparring.rerank.engine.model.Model`."""

    width: int | None = 1
    first_position = 0
    packed = True

    def __init__(
        self, checkpoint: Checkpoint, module: Any, tokenizer: Any, truncation: Truncation, column: int
    ) -> None:
        self.name = checkpoint.name
        self.tokenizer, self.truncation, self.column = tokenizer, truncation, column
        self.template = nemotron_template(tokenizer)
        self.pooling, self.temperature = _pooling(checkpoint), _temperature(checkpoint)
        self.fingerprint = fingerprint(checkpoint, self.template, truncation, column)
        self.deterministic = False
        self.module = module
        attach(module)
        self.head: Any = decoder_head(module)

    def place(self, device: torch.device, dtype: torch.dtype, deterministic: bool = False) -> None:
        """Moves the body in ``dtype`` and the head in fp32 to a device."""
        self.deterministic = deterministic
        self.module.to(device=device, dtype=dtype)
        self.head.to(torch.float32)

    def forward(self, batch: Batch) -> torch.Tensor:
        """Raw fp32 scores, (S,)."""
        states = self.module.base_model(
            input_ids=batch.input_ids[None],
            position_ids=batch.positions[None],
            use_cache=False,
            **packed_kwargs(batch, self.deterministic),
        ).last_hidden_state[0]
        return label_score(self.head(self._pooled(states, batch)) / self.temperature, self.column)

    def _pooled(self, states: torch.Tensor, batch: Batch) -> torch.Tensor:
        """States of the tokens (T, H) to one of each sequence (S, H), in fp32."""
        if self.pooling == "cls":
            return states.index_select(0, batch.boundaries[:-1]).float()
        if self.pooling == "last":
            return states.index_select(0, batch.boundaries[1:] - 1).float()
        means: torch.Tensor = torch.segment_reduce(states.float(), "mean", lengths=batch.boundaries.diff().long())
        return means


def _pooling(checkpoint: Checkpoint) -> str:
    pooling = checkpoint.config.get("pooling", "avg")
    if pooling not in POOLINGS:
        raise InputError(f"{checkpoint.name}: pooling {pooling!r}; this family has {', '.join(POOLINGS)}")
    return str(pooling)


def _temperature(checkpoint: Checkpoint) -> float:
    value = checkpoint.config.get("temperature", 1.0)
    if not isinstance(value, int | float) or not value > 0:
        raise InputError(f"{checkpoint.name}: temperature {value!r} must be above 0")
    return float(value)


def load_llama(checkpoint: Checkpoint) -> Any:
    """transformers' Llama classifier with the weights of a checkpoint, in fp32.

    Raises InputError where a weight is missing, superfluous or of another shape.
    """
    from transformers import AutoConfig, AutoModelForSequenceClassification

    auto: Any = AutoModelForSequenceClassification
    state = stored(checkpoint)
    what = "a reranker on a Llama that looks both ways"
    if "score.weight" not in state:
        raise InputError(f"{checkpoint.name}: not {what}: the weights hold no score.weight")
    shared = {key: value for key, value in checkpoint.config.items() if key not in OWN}
    shared.pop("id2label", None)
    shared.pop("label2id", None)
    shared["num_labels"] = len(state["score.weight"])
    module = auto.from_config(AutoConfig.for_model("llama", **shared), dtype=torch.float32)
    fill(checkpoint, module, {k: v for k, v in state.items() if not k.endswith("rotary_emb.inv_freq")}, what)
    return module.eval()


@families.register("nemotron")
@dataclass(frozen=True)
class Nemotron:
    """llama-nemotron-rerank-1b-v2 and its kin: a Llama that looks both ways, the mean of its states, one head.

    ``label`` names the label that means relevant, by name or number, where the head has more than two.
    """

    about: ClassVar[About] = About(
        "pointwise",
        "packed",
        "the logit of the one label, over the temperature",
        examples=(
            Example("nvidia/llama-nemotron-rerank-1b-v2", UNSTATED),
            Example("nvidia/llama-3.2-nv-rerankqa-1b-v2", UNSTATED),
        ),
    )
    label: str | int | None = None
    max_length: int | None = None

    def claims(self, checkpoint: Checkpoint) -> bool:
        """Checkpoints whose config says ``llama_bidirec`` and names the classifier."""
        ours = checkpoint.model_type == MODEL_TYPE and checkpoint.architecture == ARCHITECTURE
        return checkpoint.plain and ours

    def load(self, checkpoint: Checkpoint) -> BidirectionalLlama:
        """Loads the checkpoint; InputError where weights and config are not of this family."""
        module = load_llama(checkpoint)
        column = score_column(checkpoint, label_names(checkpoint.config, module.config.num_labels), self.label)
        tokenizer = load_tokenizer(checkpoint)
        limit = position_limit(module.config) or LONGEST
        length = clamp_length(self.max_length, limit, tokenizer.model_max_length, LONGEST)
        return BidirectionalLlama(checkpoint, module, tokenizer, Truncation(length), column)
