"""PairRM of LLM-Blender: query and two passages, each with special tokens of its own, before DeBERTa.

The input is ``[CLS]<|source|>query[SEP][CLS]<|candidate1|>first[SEP][CLS]<|candidate2|>second[SEP]``. With the
last states h at the three markers and a small head f, the logit of "the first is better" is the mean over tasks of
f([h_s; h_1]) - f([h_s; h_2]). Jiang, Ren, Lin, LLM-Blender, ACL 2023. Two layouts are known: PairRM-hf (a DeBERTa
config with the markers' ids) and PairRM (the ranker's config, which names its DeBERTa).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import nn

from ....engine.batches import Batch
from ....engine.templates import Constant, Template, Text, Truncation
from ....errors import InputError
from ....registry import families
from ...checkpoints import Checkpoint
from ...loading import fingerprint, load_tokenizer
from ..about import About, Example

MARKERS = {
    "source_prefix_id": "<|source|>",
    "cand1_prefix_id": "<|candidate1|>",
    "cand2_prefix_id": "<|candidate2|>",
}
SHAPES = {  # layers, hidden size, heads of the DeBERTas that a ranker's config names
    "microsoft/deberta-v3-xsmall": (12, 384, 6),
    "microsoft/deberta-v3-small": (6, 768, 12),
    "microsoft/deberta-v3-base": (12, 768, 12),
    "microsoft/deberta-v3-large": (24, 1024, 16),
}
PASSAGE_SHARE = 0.4  # 2 x 412 of 2048 tokens


class PairRMModel:
    """DeBERTa with a head on three positions; see `sparring.rerank.engine.model.Model`. It runs padded, eager."""

    width: int | None = 2
    packed = False
    first_position = 0

    def __init__(
        self,
        checkpoint: Checkpoint,
        body: Any,
        head: nn.Sequential,
        tokenizer: Any,
        template: Template,
        truncation: Truncation,
    ) -> None:
        self.name = checkpoint.name
        self.body, self.head, self.tokenizer = body, head, tokenizer
        self.template, self.truncation = template, truncation
        self.pad_id = int(tokenizer.pad_token_id or 0)
        self.fingerprint = fingerprint(checkpoint, template, truncation)

    def place(self, device: torch.device, dtype: torch.dtype, deterministic: bool = False) -> None:
        """Moves DeBERTa in ``dtype`` and the head in fp32 to a device."""
        self.body.to(device=device, dtype=dtype)
        self.head.to(device=device, dtype=torch.float32)

    def forward(self, batch: Batch) -> torch.Tensor:
        """Raw fp32 logits of "the first is better", (S,)."""
        left, right = self.score(self.states(batch)).unbind(1)
        return left - right

    def states(self, batch: Batch) -> torch.Tensor:
        """What the head reads, in fp32: the source's state beside that of first and of second, (S, 2, 2H)."""
        rows = batch.padded(self.pad_id)
        states = self.body(input_ids=rows.input_ids, attention_mask=rows.mask.long()).last_hidden_state
        each = torch.arange(len(states), device=states.device)
        first, second = (states[each, rows.segments.eq(marked).int().argmax(1)].float() for marked in (1, 2))
        source = states[:, 1].float()
        return torch.stack([torch.cat([source, passage], dim=1) for passage in (first, second)], dim=1)

    def score(self, states: torch.Tensor) -> torch.Tensor:
        """The scores of first and second, (S, 2), the mean over tasks."""
        scores: torch.Tensor = self.head(states).mean(dim=2)
        return scores


def pair_rm_template(tokenizer: Any, ids: dict[str, int], instruction: str | None) -> Template:
    """The three pieces; DeBERTa has no token types, so segments 1 and 2 mark the candidates' markers alone."""
    start, end = int(tokenizer.cls_token_id), int(tokenizer.sep_token_id)
    return Template(
        (
            Constant((start, ids["source_prefix_id"])),
            Text("query", prefix=f"{instruction}\n" if instruction else ""),
            Constant((end, start)),
            Constant((ids["cand1_prefix_id"],), segment=1),
            Text("passage", 0),
            Constant((end, start)),
            Constant((ids["cand2_prefix_id"],), segment=2),
            Text("passage", 1),
            Constant((end,)),
        )
    )


def load_pair_rm(checkpoint: Checkpoint) -> tuple[Any, nn.Sequential]:
    """DeBERTa and the head of a checkpoint in either layout; every weight must be there, and no other."""
    from safetensors.torch import load_file
    from transformers import DebertaV2Model

    state: dict[str, torch.Tensor] = {}
    for path in checkpoint.weights:
        state |= load_file(path)
    embeddings = state.get("pretrained_model.embeddings.word_embeddings.weight")
    inner, outer = (state.get(f"head_layer.{i}.weight") for i in (1, 4))
    if embeddings is None or inner is None or outer is None:
        raise InputError(
            f"{checkpoint.name}: the weights hold no pretrained_model.* or no head_layer.1 and head_layer.4: this "
            "is not a PairRM"
        )
    body = DebertaV2Model(_config(checkpoint, len(embeddings)))
    head = nn.Sequential(
        nn.Identity(),
        nn.Linear(inner.shape[1], inner.shape[0]),
        nn.Tanh(),
        nn.Identity(),
        nn.Linear(outer.shape[1], outer.shape[0]),
    )
    both = nn.ModuleDict({"pretrained_model": body, "head_layer": head})
    try:
        report = both.load_state_dict({name: value.float() for name, value in state.items()}, strict=False)
    except RuntimeError as error:
        raise InputError(f"{checkpoint.name}: weights do not fit the config: {error}") from None
    unknown = [name for name in report.unexpected_keys if not name.endswith("position_ids")]
    if report.missing_keys or unknown or inner.shape[1] != 2 * body.config.hidden_size:
        raise InputError(
            f"{checkpoint.name}: not a PairRM on DeBERTa: missing {report.missing_keys[:3]}, unknown "
            f"{unknown[:3]}, head_layer.1.weight {tuple(inner.shape)} for hidden size {body.config.hidden_size}"
        )
    return both.eval()["pretrained_model"], head


def _config(checkpoint: Checkpoint, vocabulary: int) -> Any:
    from transformers import DebertaV2Config

    if "hidden_size" in checkpoint.config:
        return DebertaV2Config(**{k: v for k, v in checkpoint.config.items() if k not in ("model_type", *MARKERS)})
    name = str(checkpoint.config.get("model_name"))
    if name not in SHAPES:
        raise InputError(
            f"{checkpoint.name}: config.json neither describes a DeBERTa nor names one of {', '.join(SHAPES)}"
        )
    layers, hidden, heads = SHAPES[name]
    described: dict[str, Any] = {
        "vocab_size": vocabulary,
        "num_hidden_layers": layers,
        "hidden_size": hidden,
        "num_attention_heads": heads,
        "intermediate_size": 4 * hidden,
        "max_position_embeddings": 512,
        "type_vocab_size": 0,
        "layer_norm_eps": 1e-7,
        "relative_attention": True,
        "position_buckets": 256,
        "norm_rel_ebd": "layer_norm",
        "share_att_key": True,
        "pos_att_type": ["p2c", "c2p"],
        "position_biased_input": False,
    }
    return DebertaV2Config(**described)


@families.register("pair_rm")
@dataclass(frozen=True)
class PairRM:
    """PairRM and PairRM-hf; the query is cut at ``source_length`` tokens, what it leaves is the passages'.

    ``instruction`` is put before the query, on a line of its own.
    """

    about: ClassVar[About] = About(
        "pairwise",
        "padded",
        "the first's score less the second's, the mean over tasks",
        examples=(
            Example("llm-blender/PairRM", "mit"),
            Example("llm-blender/PairRM-hf", "mit"),
        ),
    )
    source_length: int = 1224
    max_length: int = 2048
    instruction: str | None = None

    def __post_init__(self) -> None:
        if self.max_length < 32 or not 8 <= self.source_length < self.max_length:
            raise ValueError("max_length must be at least 32, source_length at least 8 and less than max_length")

    def claims(self, checkpoint: Checkpoint) -> bool:
        """Configs of the architecture DebertaV2PairRM, or of a ranker of type pairranker."""
        ours = checkpoint.architecture == "DebertaV2PairRM" or checkpoint.config.get("ranker_type") == "pairranker"
        return checkpoint.plain and ours

    def load(self, checkpoint: Checkpoint) -> PairRMModel:
        """Loads the checkpoint; the markers' ids come from the config, else from the tokenizer."""
        body, head = load_pair_rm(checkpoint)
        tokenizer = load_tokenizer(checkpoint)
        ids = {}
        for key, token in MARKERS.items():
            found = checkpoint.config.get(key, tokenizer.convert_tokens_to_ids(token))
            if found is None or found == tokenizer.unk_token_id:
                raise InputError(f"{checkpoint.name}: neither the config has {key} nor the tokenizer {token!r}")
            ids[key] = int(found)
        truncation = Truncation(self.max_length, self.source_length - 3, passage_share=PASSAGE_SHARE)
        template = pair_rm_template(tokenizer, ids, self.instruction)
        return PairRMModel(checkpoint, body, head, tokenizer, template, truncation)
