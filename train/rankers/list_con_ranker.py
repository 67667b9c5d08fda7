"""ListConRanker: a list transformer over texts that are encoded alone (Liu et al., arXiv 2501.07111)."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...rerank.engine.batches import Batch
from ...rerank.models.attention.packed import attach
from ...rerank.models.families.encoders.list_con_ranker import ListConRankers as ListConFamily
from ...rerank.models.families.encoders.list_con_ranker import (
    ListTransformer,
    MeanEncoder,
    load_encoder_and_head,
    name_in_checkpoint,
)
from ...rerank.models.families.encoders.sequence_classification import PACKABLE
from ..data.collator import Layout
from .bodies import Body, find_start, load_body, load_weights, write_config
from .kinds import Start, kinds
from .ranker import Ranker

ARCHITECTURE = "ListConRankerModel"


@kinds.register("list_con_ranker")
@dataclass(frozen=True)
class ListConRankers:
    """A list transformer over vectors of texts that are read alone, as bi-encoders read them.

    ``layers`` of the list transformer, which has the encoder's width and heads; a saved one is taken as it is. The
    saved model ranks a whole list at once, as in training; ``--family list_con_ranker`` ranks in rounds.
    """

    layers: int = 2

    def __post_init__(self) -> None:
        if self.layers < 1:
            raise ValueError("layers must be at least 1")

    def start(self, start: Start) -> ListConRanker:
        from transformers import AutoModel

        start.refuse_adapter("list_con_ranker")
        found = find_start(start, PACKABLE, "a ListConRanker")
        body = load_body(start, found, AutoModel)
        config = body.module.config
        if ListConFamily().claims(found):
            saved, head = load_encoder_and_head(found)
            body.module.load_state_dict(saved.state_dict(), strict=False)  # it has no pooler
        else:
            hidden = config.hidden_size
            head = ListTransformer(hidden, hidden, config.num_attention_heads, 4 * hidden, self.layers)
        if getattr(body.module, "pooler", None) is not None:
            body.module.pooler = None
        return ListConRanker(start, body, head)


class ListConRanker(Ranker):
    """An encoder of single texts and the list transformer; what it saves has ListConRanker's layout."""

    def __init__(self, start: Start, body: Body, head: ListTransformer) -> None:
        attach(body.module)
        model = MeanEncoder(body.module, body.tokenizer, body.truncation.max_length)
        layout = Layout(
            model.template, model.truncation, model.first_position, packed=True, width=None, query_alone=True
        )
        super().__init__(start, body.tokenizer, layout)
        self.body, self.head = body.module, head
        self.model = model
        self.family = str(ListConFamily(iterative=False, max_length=body.truncation.max_length))
        self.mark_head([head])

    def read(self, batch: Batch) -> Tensor:
        """Vectors of single texts, (S, H)."""
        return self.model.states(batch)

    def combine(self, rows: Tensor, table: Tensor) -> Tensor:
        """Scores of the lists, (Q, n); of each row of the table the first is the query."""
        scores = rows.new_zeros((len(table), table.shape[1] - 1), dtype=torch.float32)
        with self.full_precision():
            for number, (query, members) in enumerate(zip(table[:, 0], table[:, 1:], strict=True)):
                real = members >= 0
                scores[number, real] = self.head(rows[query], rows[members[real]])
        return scores

    def save(self, folder: Path) -> None:
        from safetensors.torch import save_file

        folder.mkdir(parents=True, exist_ok=True)
        state = {f"hf_model.{name}": value for name, value in self.body.state_dict().items()}
        state |= {name_in_checkpoint(name): value for name, value in self.head.state_dict().items()}
        plain = {name: value.detach().cpu().contiguous() for name, value in state.items()}
        save_file(plain, folder / "model.safetensors", {"format": "pt"})
        self.tokenizer.save_pretrained(folder)
        config: dict[str, Any] = json.loads(self.body.config.to_json_string(use_diff=False))
        write_config(folder, config | {"architectures": [ARCHITECTURE]}, self.family, sentence_transformers=None)

    def load(self, folder: Path) -> None:
        state = load_weights(folder)
        prefix = "hf_model."
        self.body.load_state_dict({k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)})
        self.head.load_state_dict({name: state[name_in_checkpoint(name)] for name in self.head.state_dict()})
