"""BGE rerankers that score at a layer of one's choice: v2-minicpm-layerwise and v2.5-gemma2-lightweight.

Every layer from ``start_layer`` on has a head of one row; the score is that of the normed state of the last token
at the chosen layer, and the layers behind it are neither loaded nor computed. Their owner publishes them as remote
code; here the bodies are transformers' own. MiniCPM is Llama with embeddings times ``scale_emb`` and residuals
times ``scale_depth`` over the root of the number of layers, which transformers has as Granite (the one-row heads
are not divided by ``dim_model_base``). The other is Gemma 2, whose softcaps are those of its config; before the
layers in ``compress_layers`` the passage's states are averaged in runs of ``compress_ratio``, and positions count
anew.
"""

from __future__ import annotations

import itertools
import math
import re
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import nn

from ....engine.batches import Batch
from ....engine.templates import Constant, Template, Truncation
from ....errors import InputError, UsageError
from ....registry import families
from ...attention.prefix_tree import Tree, attach
from ...checkpoints import Checkpoint
from ...loading import clamp_length, fingerprint, load_pretrained, load_tokenizer
from ...prompts import prompt_template
from ..about import UNSTATED, About, Example
from .causal import padding
from .formats import BGE_PIECES, BGE_TASK

MINICPM, GEMMA = "LayerWiseMiniCPMForCausalLM", "CostWiseGemmaForCausalLM"
TASKS = {MINICPM: BGE_TASK, GEMMA: "Predict whether passage B contains an answer to query A."}
"""What stands after query and passage, unless an instruction takes its place."""
SHARED_KEYS = (
    "vocab_size", "hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads", "hidden_act",
    "max_position_embeddings", "initializer_range", "rms_norm_eps", "attention_bias", "attention_dropout",
    "pad_token_id", "bos_token_id", "eos_token_id",
)  # fmt: skip
GEMMA_KEYS = (
    "head_dim", "hidden_activation", "query_pre_attn_scalar", "sliding_window", "attn_logit_softcapping",
    "final_logit_softcapping",
)  # fmt: skip


class LayerwiseReranker:
    """A decoder cut behind one of its layers, with that layer's head; see `sparring.rerank.engine.model.Model`."""

    width: int | None = 1
    first_position = 0

    def __init__(
        self,
        checkpoint: Checkpoint,
        body: Any,
        head: torch.Tensor,
        tokenizer: Any,
        template: Template,
        options: Plan,
    ) -> None:
        self.name = checkpoint.name
        self.tokenizer, self.template, self.plan = tokenizer, template, options
        self.truncation = Truncation(options.length)
        self.packed = checkpoint.architecture == MINICPM
        self.pad_id = padding(tokenizer)
        self.deterministic = False
        self.stages: nn.ModuleList = nn.ModuleList([body] if not options.cuts else split(body, options.cuts))
        self.head = head.float()
        self.cap: float | None = options.cap
        self.prompt = len(self.template.slots[-1].ids) if isinstance(self.template.slots[-1], Constant) else 0
        self.fingerprint = fingerprint(checkpoint, template, self.truncation, "layerwise", options)
        if self.packed:
            attach(body)

    @property
    def told(self) -> bool:
        """Whether topics may carry a task of their own: not where passages shrink by the length of the task."""
        return not self.plan.cuts

    def instructed(self, instruction: str) -> Template:
        """The input with another task."""
        if not self.told:
            raise UsageError(
                f"{self.name}: with compress_ratio the task is the same for all topics (--instruction)"
            )
        return task_template(self.tokenizer, instruction)

    def place(self, device: torch.device, dtype: torch.dtype, deterministic: bool = False) -> None:
        """Moves the decoder in ``dtype`` and the head in fp32 to a device."""
        self.deterministic = deterministic
        self.stages.to(device=device, dtype=dtype)
        self.head = self.head.to(device)

    def forward(self, batch: Batch) -> torch.Tensor:
        """Raw fp32 scores, (S,)."""
        scores = (self._packed(batch) if self.packed else self._padded(batch)).float() @ self.head
        return scores if self.cap is None else torch.tanh(scores / self.cap) * self.cap

    def _packed(self, batch: Batch) -> torch.Tensor:
        tree = Tree(batch)
        states: torch.Tensor = self.stages[0](
            input_ids=batch.input_ids[tree.tokens][None],
            position_ids=batch.positions[tree.tokens][None],
            attention_mask=None,
            use_cache=False,
            tree=tree,
            fixed_splits=self.deterministic,
        ).last_hidden_state
        return states[0, tree.last]

    def _padded(self, batch: Batch) -> torch.Tensor:
        """States of the last tokens; padding lies behind, so that a passage can shrink in its place."""
        rows = batch.padded(self.pad_id)
        given: dict[str, torch.Tensor] = {"input_ids": rows.input_ids}
        lengths, mask = torch.from_numpy(batch.lengths).to(rows.mask.device), rows.mask
        heads = torch.from_numpy(batch.beginnings.lengths).to(mask.device) if batch.beginnings else lengths * 0
        states = rows.input_ids
        for number, stage in enumerate(self.stages):
            if number:
                states, lengths = compressed(states, lengths, heads, self.prompt, self.plan.ratio)
                mask = torch.arange(states.shape[1], device=mask.device) < lengths[:, None]
                given = {"inputs_embeds": states}
            states = stage(**given, attention_mask=mask.long(), use_cache=False).last_hidden_state
        return states[torch.arange(len(states), device=states.device), lengths - 1]


def compressed(
    states: torch.Tensor, lengths: torch.Tensor, heads: torch.Tensor, prompt: int, ratio: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """States (S, L, d) with passages averaged in runs of ``ratio``, the last run shorter, and new lengths (S,).

    A row is ``heads`` tokens of the query, the passage, ``prompt`` tokens, and padding.
    """
    place = torch.arange(states.shape[1], device=states.device)
    passage = lengths - heads - prompt
    kept = (passage + ratio - 1) // ratio
    inside = place - heads[:, None]  # place in the passage
    shifted = torch.where(inside < passage[:, None], inside // ratio, inside - (passage - kept)[:, None])
    target = torch.where(inside < 0, place.expand_as(inside), shifted + heads[:, None])
    total = heads + kept + prompt
    width = int(total.max())
    target = torch.where(place < lengths[:, None], target, width)  # padding falls on a spare column
    sums = states.new_zeros(len(states), width + 1, states.shape[2], dtype=torch.float32)
    sums.scatter_add_(1, target[:, :, None].expand_as(states), states.float())
    counts = sums.new_zeros(len(states), width + 1).scatter_add_(
        1, target, torch.ones_like(target, dtype=sums.dtype)
    )
    means = sums[:, :width] / counts[:, :width, None].clamp(min=1)
    return means.to(states.dtype), total


def split(body: Any, cuts: tuple[int, ...]) -> list[Any]:
    """A Gemma 2 as several that follow each other, cut before these layers; only the last one norms its states."""
    from transformers import AutoConfig, AutoModel

    edges = (0, *cuts, body.config.num_hidden_layers)
    auto: Any = AutoModel
    found = []
    for low, high in itertools.pairwise(edges):
        fields = body.config.to_dict() | {
            "num_hidden_layers": high - low, "layer_types": body.config.layer_types[low:high]
        }  # fmt: skip
        config = AutoConfig.for_model(**{key: value for key, value in fields.items() if key != "architectures"})
        with torch.device("meta"):
            part = auto.from_config(config, attn_implementation="eager")
        part.layers = nn.ModuleList(body.layers[low:high])
        part.rotary_emb = body.rotary_emb
        part.embed_tokens = body.embed_tokens if not low else nn.Identity()
        part.norm = body.norm if high == edges[-1] else nn.Identity()
        found.append(part.eval())
    return found


@dataclass(frozen=True)
class Plan:
    """What of a checkpoint is computed: up to which layer, compressed before which, and read by which head."""

    layer: int
    head: int
    cuts: tuple[int, ...]
    ratio: int
    length: int
    cap: float | None


@families.register("layerwise")
@dataclass(frozen=True)
class Layerwise:
    """bge-reranker-v2-minicpm-layerwise and v2.5-gemma2-lightweight: the score of one layer's head.

    Args:
        layer: after how many layers to score; the last by default, 28 on the models' cards.
        compress_ratio: 1, 2, 4 or 8 tokens of a passage become one before ``compress_layers`` (lightweight only).
        head: of the lightweight model. Its own library reads any single layer by the first head, and so does
            ``library``; ``layer`` takes the head of the layer.
        instruction: the task, after query and passage.
    """

    about: ClassVar[About] = About(
        "pointwise",
        "packed or padded",
        "the score of a chosen layer at the last token",
        examples=(
            Example("BAAI/bge-reranker-v2-minicpm-layerwise", UNSTATED),
            Example("BAAI/bge-reranker-v2.5-gemma2-lightweight", UNSTATED),
        ),
    )
    layer: int | None = None
    compress_ratio: int = 1
    compress_layers: str = "24,40"
    head: Literal["library", "layer"] = "library"
    instruction: str | None = None
    max_length: int | None = None

    def __post_init__(self) -> None:
        if self.compress_ratio not in (1, 2, 4, 8):
            raise ValueError(f"compress_ratio {self.compress_ratio} is none of 1, 2, 4 and 8")
        if self.head not in ("library", "layer"):
            raise ValueError(f"head {self.head!r} is neither library nor layer")
        if not re.fullmatch(r"\d+(,\d+)*", self.compress_layers):
            raise ValueError(f"compress_layers {self.compress_layers!r} are no numbers with commas, such as 24,40")

    def claims(self, checkpoint: Checkpoint) -> bool:
        """Checkpoints of the two architectures."""
        return checkpoint.plain and checkpoint.architecture in TASKS

    def load(self, checkpoint: Checkpoint) -> LayerwiseReranker:
        """Loads the layers that are needed and their head; InputError for heads of another make."""
        if not self.claims(checkpoint):
            raise InputError(
                f"{checkpoint.name}: architecture {checkpoint.architecture!r} has no head for every layer"
            )
        plan = self._plan(checkpoint)
        body = load_body(checkpoint, plan.layer)
        tokenizer = load_tokenizer(checkpoint)
        task = TASKS[checkpoint.architecture] if self.instruction is None else self.instruction
        template = task_template(tokenizer, task)
        head = load_head(checkpoint, plan.head, int(body.config.hidden_size))
        return LayerwiseReranker(checkpoint, body, head, tokenizer, template, plan)

    def _plan(self, checkpoint: Checkpoint) -> Plan:
        config, gemma = checkpoint.config, checkpoint.architecture == GEMMA
        if config.get("head_type", "simple") != "simple" or not config.get(
            "layer_wise" if gemma else "head_multi", True
        ):
            raise InputError(f"{checkpoint.name}: only heads of one row for every layer are read here")
        start, last, step = (
            int(config["start_layer"]),
            int(config["num_hidden_layers"]),
            int(config.get("layer_sep", 1)),
        )
        layer = last if self.layer is None else self.layer
        if layer not in range(start, last + 1, step):
            raise UsageError(f"{checkpoint.name}: layer {layer} has no head; those from {start} to {last} have")
        if not gemma and self.compress_ratio != 1:
            raise UsageError(f"{checkpoint.name}: only the lightweight model compresses passages: leave it out")
        cuts = (
            tuple(sorted({cut for cut in map(int, self.compress_layers.split(",")) if 0 < cut < layer}))
            if self.compress_ratio > 1
            else ()
        )
        head = 0 if gemma and self.head == "library" else (layer - start) // step
        cap = config.get("final_logit_softcapping") if gemma else None
        length = clamp_length(self.max_length, int(config["max_position_embeddings"]), 1024)
        return Plan(layer, head, cuts, self.compress_ratio if cuts else 1, length, cap)


def task_template(tokenizer: Any, task: str) -> Template:
    """Query, passage and the task."""
    task = task.replace("{", "(").replace("}", ")")  # it is no template itself
    return prompt_template(tokenizer, [piece.replace("{instruction}", task) for piece in BGE_PIECES], True)


def load_body(checkpoint: Checkpoint, layers: int) -> Any:
    """The first ``layers`` layers as a model of transformers."""
    from transformers import AutoModel, Gemma2Config, GraniteConfig

    said = checkpoint.config
    fields = {key: said[key] for key in SHARED_KEYS if key in said} | {"num_hidden_layers": layers}
    rope = {"rope_type": "default", "rope_theta": float(said.get("rope_theta", 10000.0))}
    if said.get("rope_scaling"):
        raise InputError(f"{checkpoint.name}: rope_scaling {said['rope_scaling']} is not read here")
    config: Any
    if checkpoint.architecture == GEMMA:
        fields |= {key: said[key] for key in GEMMA_KEYS if key in said}
        config = Gemma2Config(**fields, rope_parameters=rope)
        return load_pretrained(AutoModel, checkpoint, config=config, attn_implementation="eager")
    heads = int(said["num_attention_heads"])
    config = GraniteConfig(
        **fields,
        rope_parameters=rope,
        embedding_multiplier=float(said.get("scale_emb", 1)),
        residual_multiplier=float(said.get("scale_depth", 1)) / math.sqrt(int(said["num_hidden_layers"])),
        attention_multiplier=(int(said["hidden_size"]) // heads) ** -0.5,
    )
    return load_pretrained(AutoModel, checkpoint, config=config)


def load_head(checkpoint: Checkpoint, number: int, width: int) -> torch.Tensor:
    """The row of one head, (H,)."""
    from safetensors import safe_open

    name = f"lm_head.{number}.linear_head.weight"
    for path in checkpoint.weights:
        with safe_open(path, framework="pt") as file:
            if name in file.keys():  # noqa: SIM118 (no mapping)
                row: torch.Tensor = file.get_tensor(name)
                if row.shape != (1, width):
                    raise InputError(f"{checkpoint.name}: {name} is {tuple(row.shape)}, expected (1, {width})")
                return row[0]
    raise InputError(f"{checkpoint.name}: the weights lack {name}")
