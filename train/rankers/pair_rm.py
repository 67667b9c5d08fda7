"""PairRM of LLM-Blender: query and two passages with markers of their own, before DeBERTa."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from ...rerank.engine.batches import Batch
from ...rerank.engine.templates import Truncation
from ...rerank.errors import UsageError
from ...rerank.models.checkpoints import Checkpoint, find
from ...rerank.models.families.encoders.pair_rm import (
    MARKERS,
    PASSAGE_SHARE,
    PairRMModel,
    load_pair_rm,
    pair_rm_template,
)
from ...rerank.models.families.encoders.pair_rm import PairRM as PairRMFamily
from ...rerank.models.loading import load_tokenizer
from ..data.collator import Layout
from .bodies import DROPOUTS, find_start, load_quietly, load_weights, write_config
from .kinds import USUAL_LENGTH, Start, kinds
from .ranker import Ranker

SOURCE_SHARE = 1224 / 2048  # of PairRM's own budgets


@kinds.register("pair_rm")
@dataclass(frozen=True)
class PairRM:
    """Pairs read together by DeBERTa-v2/v3, each text behind a marker; `pairrm` is its own loss.

    It starts from a PairRM or from a plain DeBERTa, which gets the markers as new tokens and a new head. The query
    is cut at ``source_length`` tokens, by default PairRM's share of the input.
    """

    source_length: int | None = None
    dropout: float = 0.05

    def start(self, start: Start) -> PairRMRanker:
        from transformers import AutoModel

        start.refuse_adapter("pair_rm")
        found = find(start.name)
        tokenizer = load_tokenizer(found)
        if PairRMFamily().claims(found):
            body, old = load_pair_rm(found)
            inner, outer = old[1], old[4]
        else:
            find_start(start, frozenset({"deberta-v2"}), "a PairRM")
            dropouts = {} if start.dropout is None else {k: start.dropout for k in DROPOUTS if k in found.config}
            body = load_quietly(AutoModel, found.body, **dropouts)
            tokenizer.add_tokens(list(MARKERS.values()), special_tokens=True)
            if len(tokenizer) > len(body.get_input_embeddings().weight):
                body.resize_token_embeddings(len(tokenizer), mean_resizing=False)
            hidden = body.config.hidden_size
            inner, outer = nn.Linear(2 * hidden, hidden), nn.Linear(hidden, 1)
        head = nn.Sequential(nn.Dropout(self.dropout), inner, nn.Tanh(), nn.Dropout(self.dropout), outer)
        if start.checkpointing:
            body.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        length = start.max_length or USUAL_LENGTH
        source = self.source_length or max(8, int(length * SOURCE_SHARE))
        try:
            family = PairRMFamily(source, length)
        except ValueError as error:
            raise UsageError(f"pair_rm: {error}") from None
        return PairRMRanker(start, found, body, head, tokenizer, family)


class PairRMRanker(Ranker):
    """DeBERTa and the head on its three markers; what it saves has the layout of PairRM-hf."""

    def __init__(
        self, start: Start, found: Checkpoint, body: Any, head: nn.Sequential, tokenizer: Any, family: PairRMFamily
    ) -> None:
        ids = {
            key: int(found.config.get(key) or tokenizer.convert_tokens_to_ids(token))
            for key, token in MARKERS.items()
        }
        truncation = Truncation(family.max_length, family.source_length - 3, passage_share=PASSAGE_SHARE)
        template = pair_rm_template(tokenizer, ids, family.instruction)
        model = PairRMModel(found, body, head, tokenizer, template, truncation)
        layout = Layout(template, truncation, model.first_position, model.packed, width=2, alone=False)
        super().__init__(start, tokenizer, layout)
        self.weights = nn.ModuleDict({"pretrained_model": body, "head_layer": head})
        self.model = model
        self.described = ids | {
            "architectures": ["DebertaV2PairRM"],
            "n_tasks": head[4].out_features,
            "drop_out": head[0].p,
        }
        self.family = str(family)
        self.mark_head([head])

    def read(self, batch: Batch) -> Tensor:
        """The scores of first and second of each pair, (S, 2)."""
        states = self.model.states(batch)
        with self.full_precision():
            return self.model.score(states)

    def combine(self, rows: Tensor, table: Tensor) -> Tensor:
        return rows[table[:, 0]]

    def save(self, folder: Path) -> None:
        from safetensors.torch import save_file

        folder.mkdir(parents=True, exist_ok=True)
        state = {name: value.detach().cpu().contiguous() for name, value in self.weights.state_dict().items()}
        save_file(state, folder / "model.safetensors", {"format": "pt"})
        self.tokenizer.save_pretrained(folder)
        config = json.loads(self.model.body.config.to_json_string(use_diff=False))
        write_config(folder, config | self.described, self.family)

    def load(self, folder: Path) -> None:
        self.weights.load_state_dict(load_weights(folder))
