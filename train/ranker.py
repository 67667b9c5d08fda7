"""The model under training: a transformers checkpoint with a new or an old head, scored packed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..rerank.attention import PACKED, packed_kwargs, register
from ..rerank.batching import Batch
from ..rerank.checkpoints import find
from ..rerank.errors import InputError
from ..rerank.files import atomic_write
from ..rerank.models import clamp_length, load_tokenizer
from ..rerank.models.sequence_classification import PACKABLE, ROBERTA, SUPPORTED, detach_head
from ..rerank.templates import Truncation, pair_template
from .collator import Layout

IDENTITY = "torch.nn.modules.linear.Identity"


class PointwiseRanker(nn.Module):
    """A cross-encoder with one label: `forward` takes packed batches and returns raw fp32 scores, (S,).

    The body runs in the precision of the surrounding autocast, the head always in fp32. All batches of a step go
    through one forward call, so that data-parallel wrappers see one forward and one backward.

    Args:
        name: a folder, ``minilm`` (embedded) or a name on the hub. Where it has no classification head, a new one
            is made; that is what training is for.
        max_length: tokens of one input sequence; by default what the checkpoint's positions allow.
        dropout: replaces the dropout of the checkpoint.
        caching: keep no activations: each batch is computed again in the backward pass (gradient caching), so that
            a list of any length needs the memory of one batch.
    """

    def __init__(
        self, name: str, max_length: int | None = None, dropout: float | None = None, caching: bool = False
    ) -> None:
        super().__init__()
        from transformers import AutoModelForSequenceClassification

        found = find(name)
        if found.model_type not in SUPPORTED:
            raise InputError(
                f"{name}: model_type {found.model_type!r} cannot be trained as a pointwise reranker "
                f"({', '.join(sorted(SUPPORTED))})"
            )
        self.name = name
        self.caching = caching
        self.tokenizer = load_tokenizer(found)
        options = {} if dropout is None else _dropouts(found.config, dropout)
        self.module = _quietly(AutoModelForSequenceClassification, found.folder, num_labels=1, **options)
        config = self.module.config
        first = config.pad_token_id + 1 if config.model_type in ROBERTA else 0
        length = clamp_length(max_length, config.max_position_embeddings - first)
        self.tokenizer.model_max_length = length
        packed = config.model_type in PACKABLE
        typed = getattr(config, "type_vocab_size", 0) > 1
        self.layout = Layout(pair_template(self.tokenizer, typed), Truncation(length), first, packed)
        self.typed = typed or config.model_type in ("bert", "electra")
        self.body = [self.module.base_model]  # in a list: the parameters belong to `module` alone
        pooler = getattr(self.module.base_model, "pooler", None)
        self._head, parts = detach_head(self.module)
        self.head_parameters = {id(p) for part in parts for p in part.parameters()}
        if config.model_type == "bert":
            self.module.base_model.pooler = pooler
        register()
        self.module.set_attn_implementation(PACKED if packed else "eager")

    def forward(self, batches: Sequence[Batch]) -> Tensor:
        """Raw fp32 scores of all sequences, in the order of the batches, (S,)."""
        if self.caching and self.training:
            return torch.cat([checkpoint(self._score, batch, use_reentrant=False) for batch in batches])
        return torch.cat([self._score(batch) for batch in batches])

    def _score(self, batch: Batch) -> Tensor:
        device = self.module.device
        batch = batch.to(device)
        hidden = self._packed(batch) if self.layout.packed else self._padded(batch)
        with torch.autocast(device.type, enabled=False):
            logits: Tensor = self._head(hidden.float())
        return logits[:, 0]

    def _packed(self, batch: Batch) -> Tensor:
        types = {"token_type_ids": batch.segments[None]} if self.typed else {}
        hidden: Tensor = self.body[0](
            input_ids=batch.input_ids[None], position_ids=batch.positions[None], **types, **packed_kwargs(batch)
        ).last_hidden_state[0]
        return hidden[batch.boundaries[:-1].long()]

    def _padded(self, batch: Batch) -> Tensor:
        rows = batch.padded(int(self.tokenizer.pad_token_id or 0))
        types = {"token_type_ids": rows.segments} if self.typed else {}
        hidden: Tensor = self.body[0](
            input_ids=rows.input_ids, attention_mask=rows.mask.long(), position_ids=rows.positions, **types
        ).last_hidden_state
        return hidden[:, 0]

    def save(self, folder: Path) -> None:
        """Writes weights (safetensors), config and tokenizer: loads in transformers and sentence-transformers.

        The config says Identity, so that sentence-transformers ranks by the raw score too.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self.module.save_pretrained(folder, safe_serialization=True)
        self.tokenizer.save_pretrained(folder)
        path = folder / "config.json"
        config = json.loads(path.read_text(encoding="utf-8"))
        config["sentence_transformers"] = {"activation_fn": IDENTITY}
        config["dtype"] = "float32"
        with atomic_write(path) as stream:
            stream.write(json.dumps(config, indent=2, sort_keys=True) + "\n")

    def load(self, folder: Path) -> None:
        """Takes the weights that `save` wrote."""
        from safetensors.torch import load_file

        self.module.load_state_dict(load_file(folder / "model.safetensors"))


def _dropouts(config: dict[str, Any], rate: float) -> dict[str, float]:
    known = ("hidden_dropout_prob", "attention_probs_dropout_prob", "mlp_dropout", "embedding_dropout")
    return {name: rate for name in known if name in config}


def _quietly(auto: Any, folder: Path, **options: Any) -> Any:
    """``from_pretrained`` in fp32 without the report of missing weights: the new head is on purpose."""
    logging: Any = import_module("transformers.utils.logging")
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        return auto.from_pretrained(
            folder,
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=True,
            dtype=torch.float32,
            **options,
        )
    except (RuntimeError, ValueError, KeyError, OSError) as error:
        raise InputError(f"{folder}: cannot be loaded for training: {error}") from None
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
