"""Context-aware self-attention over the vectors of a cross-encoder (Pobrotyn et al., arXiv 2005.10084; allRank).

Beside a cross-encoder's files lies ``list_head.safetensors`` with allRank's weights: an input layer, pre-norm
transformer layers over the list without any position, an output layer. The cross-encoder reads every pair
once; any number of lists is then scored from its vectors. ``config.json`` says ``"sparring_family":
"list_head"`` and, under ``list_head``, the number of ``heads``.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn.functional import scaled_dot_product_attention

from ....data.atomic import sha256
from ....engine.model import SCHEDULES, ScorerOptions
from ....errors import InputError
from ....registry import families
from ....vocabulary import Candidates
from ...checkpoints import Checkpoint
from ...vectors import ListScorer, VectorStore
from ..about import About
from .set_encoder import SetEncoder, load_parts

FILE = "list_head.safetensors"


class _Norm(nn.Module):
    """allRank's layer norm: the standard deviation is unbiased and epsilon is added to it."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.a_2, self.b_2 = nn.Parameter(torch.ones(width)), nn.Parameter(torch.zeros(width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.a_2 * (x - x.mean(-1, keepdim=True)) / (x.std(-1, keepdim=True) + 1e-6) + self.b_2


class _Layer(nn.Module):
    def __init__(self, width: int, feed: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.self_attn = nn.ModuleDict({"linears": nn.ModuleList(nn.Linear(width, width) for _ in range(4))})
        self.feed_forward = nn.ModuleDict({"w_1": nn.Linear(width, feed), "w_2": nn.Linear(feed, width)})
        self.sublayer = nn.ModuleList(nn.ModuleDict({"norm": _Norm(width)}) for _ in range(2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        norms: list[Any] = [part["norm"] for part in self.sublayer]  # type: ignore[index]
        project: Any = self.self_attn["linears"]
        normed = norms[0](x)
        q, k, v = (project[i](normed).unflatten(1, (self.heads, -1)).transpose(0, 1) for i in range(3))
        mixed = scaled_dot_product_attention(q[None], k[None], v[None])[0].transpose(0, 1).flatten(1)
        x = x + project[3](mixed)
        inner: torch.Tensor = torch.relu(self.feed_forward["w_1"](norms[1](x)))
        out: torch.Tensor = x + self.feed_forward["w_2"](inner)
        return out


class ContextHead(nn.Module):
    """Vectors of a list (n, H) to scores (n,); several outputs are ordinal levels, whose sigmoids are summed."""

    def __init__(self, width: int, inner: int, feed: int, layers: int, heads: int, outputs: int) -> None:
        super().__init__()
        self.heads = heads
        self.input_layer = nn.ModuleDict({"layers": nn.ModuleList([nn.Linear(width, inner)])})
        self.encoder = nn.ModuleDict(
            {"layers": nn.ModuleList(_Layer(inner, feed, heads) for _ in range(layers)), "norm": _Norm(inner)}
        )
        self.output_layer = nn.ModuleDict({"w_1": nn.Linear(inner, outputs)})

    def forward(self, vectors: torch.Tensor) -> torch.Tensor:
        first: Any = self.input_layer["layers"]
        x = first[0](vectors)
        layers: Any = self.encoder["layers"]
        for layer in layers:
            x = layer(x)
        logits: torch.Tensor = self.output_layer["w_1"](self.encoder["norm"](x))
        return logits[:, 0] if logits.shape[1] == 1 else logits.sigmoid().sum(1)


class ListHead:
    """A list head over cached cross-encoder vectors; a `sparring.rerank.models.vectors.ListModel`."""

    width: int | None = None
    schedule = SCHEDULES[None]

    def __init__(self, checkpoint: Checkpoint, encoder: SetEncoder, head: ContextHead) -> None:
        self.name = checkpoint.name
        self.encoder, self.head = encoder, head.eval()
        self.tokenizer = encoder.tokenizer
        self.max_length: int | None = encoder.truncation.max_length
        text = f"{encoder.fingerprint} {sha256(checkpoint.folder / FILE)}"
        self.fingerprint = hashlib.sha256(text.encode()).hexdigest()

    def scorer(self, options: ScorerOptions) -> ListScorer:
        """Places encoder and head (fp32) on a device; a list head batches on its own."""
        return ListScorer(self, options)

    def score(self, vectors: VectorStore, topic: Candidates, members: NDArray[np.int64]) -> NDArray[np.float64]:
        """Raw fp32 scores of a list."""
        found = vectors([(topic.query, topic.texts[i] or "") for i in members.tolist()])
        scores: NDArray[np.float64] = self.head(found).cpu().numpy().astype(np.float64)
        return scores


@families.register("list_head")
@dataclass(frozen=True)
class ListHeads:
    """allRank's self-attention over a cross-encoder's vectors (``list_head.safetensors`` beside its files)."""

    about: ClassVar[About] = About(
        "listwise",
        "its own batches",
        "a score per passage, from the cross-encoder's vectors of all of them",
        made_by="sparring train --family list_head",
    )
    heads: int | None = None
    max_length: int | None = None

    def claims(self, checkpoint: Checkpoint) -> bool:
        """None by itself: the config's ``sparring_family``, or --family, says so."""
        return False

    def load(self, checkpoint: Checkpoint) -> ListHead:
        """Loads cross-encoder and head; InputError where a weight is missing or of another shape."""
        parts = load_parts(checkpoint, self.max_length)
        head = load_head(checkpoint, parts.body.config.hidden_size, self.heads)
        # lists of one: in the vectors of the cross-encoder passages do not see each other
        return ListHead(checkpoint, SetEncoder(checkpoint, parts, 0, None), head)


def load_head(checkpoint: Checkpoint, width: int, heads: int | None = None) -> ContextHead:
    """The list head beside a cross-encoder of a width; InputError where it is absent or does not fit."""
    from safetensors.torch import load_file

    path = checkpoint.folder / FILE
    if not path.is_file():
        raise InputError(f"{checkpoint.name}: there is no {FILE} beside the cross-encoder")
    state = {name.removeprefix("module."): value.float() for name, value in load_file(path).items()}
    heads = heads or int((checkpoint.config.get("list_head") or {}).get("heads", 1))
    head = _empty_head(checkpoint, state, heads)
    try:
        head.load_state_dict(state)
    except RuntimeError as error:
        raise InputError(f"{path}: weights do not fit: {error}") from None
    if head.input_layer["layers"][0].in_features != width:  # type: ignore[index]
        raise InputError(f"{path}: the head reads another width than the cross-encoder's {width}")
    return head


def _empty_head(checkpoint: Checkpoint, state: dict[str, torch.Tensor], heads: int) -> ContextHead:
    found = [re.match(r"encoder\.layers\.(\d+)\.", name) for name in state]
    layers = 1 + max((int(match[1]) for match in found if match), default=-1)
    names = ("input_layer.layers.0.weight", "encoder.layers.0.feed_forward.w_1.weight", "output_layer.w_1.weight")
    missing = [name for name in names if name not in state]
    if missing:
        raise InputError(f"{checkpoint.folder / FILE}: no {', '.join(missing)}")
    (inner, width), feed, outputs = state[names[0]].shape, len(state[names[1]]), len(state[names[2]])
    if inner % heads:
        raise InputError(f"{checkpoint.folder / FILE}: width {inner} does not divide into {heads} heads")
    return ContextHead(width, inner, feed, layers, heads, outputs)
