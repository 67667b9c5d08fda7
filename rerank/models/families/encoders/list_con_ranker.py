"""ListConRanker: a list transformer over separately encoded query and passages (Liu et al., arXiv 2501.07111).

Texts are encoded alone (masked mean of the last layer) and once. A linear layer, a tag (query or passage) and two
post-norm transformer layers let the passages see each other and the query; the query sees only itself. The score
reads query and passage before and after. Long lists are ranked in rounds that each drop the lowest.

The weights are one file with ``hf_model.*``, ``linear_in_embedding.*`` and ``list_transformer.*``, or the
encoder's ``model.safetensors`` with ``linear_in_embedding.safetensors`` and ``list_transformer.safetensors``
beside it.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import expit
from torch import nn

from ....engine.batches import Batch
from ....engine.model import SCHEDULES, ScorerOptions
from ....engine.templates import Constant, Template, Text, Truncation
from ....errors import InputError
from ....registry import families
from ....vocabulary import Candidates
from ...attention.packed import attach, packed_kwargs
from ...checkpoints import Checkpoint
from ...config_fields import token_types
from ...loading import clamp_length, fingerprint, load_tokenizer
from ...vectors import ListScorer, VectorStore
from ..about import About, Example
from .sequence_classification import PACKABLE
from .webis import first_position

PARTS = ("linear_in_embedding", "list_transformer")
NAMES = {  # in a checkpoint → in `ListTransformer`
    "list_transformer.list_transformer.layers.": "layers.",
    "list_transformer.query_embedding.query_embedding.": "tags.",
    "list_transformer.query_embedding.layerNorm.": "norm.",
    "list_transformer.linear_score1.": "out.",
    "list_transformer.linear_score2.": "before.",
    "list_transformer.linear_score3.": "after.",
    "linear_in_embedding.": "linear_in_embedding.",
}
SMALL, LEAST, SHARE = 20, 10, 0.2  # rounds end at 20 passages; each drops at least 10 and a fifth


class MeanEncoder:
    """Single texts to the mean of their last hidden states; a `sparring.rerank.models.vectors.Encoder`."""

    def __init__(self, body: Any, tokenizer: Any, max_length: int) -> None:
        self.body, self.tokenizer = body, tokenizer
        ids = tokenizer("a", return_special_tokens_mask=True)
        special = [token for token, mark in zip(ids["input_ids"], ids["special_tokens_mask"], strict=True) if mark]
        before = special[: ids["special_tokens_mask"].index(0)]
        after = special[len(before) :]
        slots = (Constant(tuple(before)), Text("passage"), Constant(tuple(after)))
        self.template = Template(slots)
        self.truncation = Truncation(max_length)
        self.first_position = first_position(body.config)
        self.deterministic = False
        self.typed = token_types(body.config) > 1

    def place(self, device: torch.device, dtype: torch.dtype, deterministic: bool = False) -> None:
        """Moves the encoder."""
        self.deterministic = deterministic
        self.body.to(device=device, dtype=dtype)

    def states(self, batch: Batch) -> torch.Tensor:
        """Vectors (S, H) in fp32."""
        attention = packed_kwargs(batch, self.deterministic)
        typed = {"token_type_ids": batch.segments[None]} if self.typed else {}
        hidden: torch.Tensor = self.body(
            input_ids=batch.input_ids[None], position_ids=batch.positions[None], **typed, **attention
        ).last_hidden_state[0]
        means: torch.Tensor = torch.segment_reduce(hidden.float(), "mean", lengths=batch.boundaries.diff().long())
        return means


class ListTransformer(nn.Module):
    """The list head: a query's vector (H,) and passages' vectors (n, H) to logits (n,)."""

    def __init__(self, width: int, inner: int, heads: int, feed: int, layers: int) -> None:
        super().__init__()
        self.linear_in_embedding = nn.Linear(width, inner)
        self.tags = nn.Embedding(2, inner)
        self.norm = nn.LayerNorm(inner)
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(inner, heads, feed, activation="gelu", batch_first=True)
            for _ in range(layers)
        )
        self.before, self.after = nn.Linear(2 * inner, inner), nn.Linear(2 * inner, inner)
        self.out = nn.Linear(2 * inner, 1)

    def forward(self, query: torch.Tensor, passages: torch.Tensor) -> torch.Tensor:
        states = self.linear_in_embedding(torch.cat([query[None], passages]))
        tag = torch.zeros(len(states), dtype=torch.long, device=states.device)
        tag[0] = 1
        mixed = self.norm(states + self.tags(tag))[None]
        hidden = torch.zeros(len(states), len(states), dtype=torch.bool, device=states.device)
        hidden[0, 1:] = True
        for layer in self.layers:
            mixed = layer(mixed, src_mask=hidden)
        logits: torch.Tensor = self.out(
            torch.cat([_beside(self.before, states), _beside(self.after, mixed[0])], dim=1)
        )
        return logits[:, 0]


def _beside(linear: nn.Linear, states: torch.Tensor) -> torch.Tensor:
    """Every passage beside the query: states (1 + n, H) to (n, H)."""
    return torch.relu(linear(torch.cat([states[:1].expand(len(states) - 1, -1), states[1:]], dim=1)))


class ListConRanker:
    """A list transformer over cached text vectors; a `sparring.rerank.models.vectors.ListModel`."""

    width: int | None = None
    schedule = SCHEDULES[None]

    def __init__(
        self, checkpoint: Checkpoint, encoder: MeanEncoder, head: ListTransformer, iterative: bool
    ) -> None:
        self.name = checkpoint.name
        self.encoder, self.head, self.iterative = encoder, head.eval(), iterative
        self.tokenizer = encoder.tokenizer
        self.max_length: int | None = encoder.truncation.max_length
        parts = [hashlib.sha256(t.numpy().tobytes()).hexdigest() for t in head.state_dict().values()]
        self.fingerprint = fingerprint(checkpoint, encoder.template, encoder.truncation, iterative, parts)

    def scorer(self, options: ScorerOptions) -> ListScorer:
        """Places encoder and head (fp32) on a device; a list ranker batches on its own."""
        return ListScorer(self, options)

    def score(self, vectors: VectorStore, topic: Candidates, members: NDArray[np.int64]) -> NDArray[np.float64]:
        """Logits of a list, or in rounds the sigmoid plus the rounds survived."""
        texts = [("", topic.query), *(("", topic.texts[i] or "") for i in members.tolist())]
        query, *_ = found = vectors(texts)
        passages = found[1:]

        def logits(kept: NDArray[np.int64]) -> NDArray[np.float64]:
            index = torch.from_numpy(kept).to(passages.device)
            said: torch.Tensor = self.head(query, passages.index_select(0, index))
            return said.cpu().numpy().astype(np.float64)

        everyone = np.arange(len(members))
        return in_rounds(logits, everyone) if self.iterative else logits(everyone)


def in_rounds(logits: Any, members: NDArray[np.int64]) -> NDArray[np.float64]:
    """Iterative inference: while more than 20 are left, drop the lowest max(10, 20 %) and their ties.

    A member's score is the sigmoid of its last logit plus the number of rounds that it survived.
    """
    scores, left, number = np.zeros(len(members)), members, 0
    while len(left) > SMALL:
        said = expit(logits(left))
        drop = max(LEAST, int(np.ceil(SHARE * len(left))))
        out = said <= np.partition(said, drop - 1)[drop - 1]
        scores[left] = said + number
        if out.all():  # nothing tells the rest apart
            return scores
        left, number = left[~out], number + 1
    scores[left] = expit(logits(left)) + number
    return scores


@families.register("list_con_ranker")
@dataclass(frozen=True)
class ListConRankers:
    """ListConRanker and models of its layout; ``iterative`` ranks lists of more than 20 in rounds."""

    about: ClassVar[About] = About(
        "listwise",
        "its own batches",
        "a score per passage, from vectors of all of them",
        examples=(Example("ByteDance/ListConRanker", "mit"),),
    )
    NAME: ClassVar[str] = "listconranker"
    iterative: bool = True
    max_length: int | None = None

    def claims(self, checkpoint: Checkpoint) -> bool:
        """Checkpoints whose config names ListConRanker, or with its extra weight files beside the encoder."""
        named = (checkpoint.architecture + checkpoint.model_type).lower().replace("-", "").replace("_", "")
        return self.NAME in named or (checkpoint.folder / f"{PARTS[0]}.safetensors").is_file()

    def load(self, checkpoint: Checkpoint) -> ListConRanker:
        """Loads encoder and head; InputError where a weight is missing or of another shape."""
        body, head = load_encoder_and_head(checkpoint)
        attach(body)
        limit = body.config.max_position_embeddings - first_position(body.config)
        encoder = MeanEncoder(body, load_tokenizer(checkpoint), clamp_length(self.max_length, limit, 512))
        return ListConRanker(checkpoint, encoder, head, self.iterative)


def load_encoder_and_head(checkpoint: Checkpoint) -> tuple[Any, ListTransformer]:
    """The transformers encoder and the list transformer of a checkpoint."""
    state = _weights(checkpoint)
    body = _body(checkpoint, {k: v for k, v in state.items() if not k.startswith(PARTS)})
    return body, _list_transformer(checkpoint, state, body.config.num_attention_heads)


def name_in_checkpoint(name: str) -> str:
    """What a weight of `ListTransformer` is called in a checkpoint."""
    return next(old + name.removeprefix(new) for old, new in NAMES.items() if name.startswith(new))


def _weights(checkpoint: Checkpoint) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    state: dict[str, torch.Tensor] = {}
    for path in checkpoint.weights:
        state |= load_file(path)
    for part in PARTS:
        path = checkpoint.folder / f"{part}.safetensors"
        if path.is_file():
            state |= {f"{part}.{name}": value for name, value in load_file(path).items()}
        elif not any(name.startswith(f"{part}.") for name in state):
            pickled = path.with_suffix(".pt")
            hint = f"; {pickled.name} is pickled and refused: convert it once" if pickled.is_file() else ""
            raise InputError(f"{checkpoint.name}: the weights hold no {part}{hint}")
    return {name: value.float() for name, value in state.items()}


def _body(checkpoint: Checkpoint, state: dict[str, torch.Tensor]) -> Any:
    from transformers import AutoConfig, AutoModel

    kind = checkpoint.model_type if checkpoint.model_type in PACKABLE else "bert"
    shared = {key: value for key, value in checkpoint.config.items() if key not in ("model_type", "architectures")}
    auto: Any = AutoModel
    pooler = {} if kind in ("electra", "modernbert") else {"add_pooling_layer": False}
    body = auto.from_config(AutoConfig.for_model(kind, **shared), **pooler)
    prefixes = ("hf_model.", f"{body.base_model_prefix}.")
    for prefix in prefixes:
        state = {name.removeprefix(prefix): value for name, value in state.items()}
    state = {k: v for k, v in state.items() if not k.startswith("pooler.") and not k.endswith("position_ids")}
    _fill(checkpoint, body, state)
    return body.eval()


def _list_transformer(checkpoint: Checkpoint, state: dict[str, torch.Tensor], heads: int) -> ListTransformer:
    mine = {
        new + name.removeprefix(old): value
        for name, value in state.items()
        for old, new in NAMES.items()
        if name.startswith(old)
    }
    embedding, feed = mine.get("linear_in_embedding.weight"), mine.get("layers.0.linear1.weight")
    if embedding is None or feed is None:
        raise InputError(f"{checkpoint.name}: the list transformer's weights are incomplete")
    layers = 1 + max(int(name.split(".")[1]) for name in mine if name.startswith("layers."))
    inner, width = embedding.shape
    head = ListTransformer(width, inner, heads, len(feed), layers)
    _fill(checkpoint, head, mine)
    return head


def _fill(checkpoint: Checkpoint, module: nn.Module, state: dict[str, torch.Tensor]) -> None:
    try:
        module.load_state_dict(state)
    except RuntimeError as error:
        raise InputError(f"{checkpoint.name}: weights do not fit: {error}") from None
