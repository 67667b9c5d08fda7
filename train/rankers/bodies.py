"""Checkpoints to start from, with heads that may be missing, and the folders that trained models become."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ...rerank.console import quiet_transformers
from ...rerank.data.atomic import atomic_write
from ...rerank.engine.templates import Truncation
from ...rerank.errors import InputError
from ...rerank.models.checkpoints import Checkpoint, find
from ...rerank.models.families.encoders.sequence_classification import ROBERTA
from ...rerank.models.layout import Kind
from ...rerank.models.loading import FAMILY_KEY, clamp_length, load_tokenizer
from .adapters import Attached
from .kinds import USUAL_LENGTH, Start

IDENTITY = "torch.nn.modules.linear.Identity"
DROPOUTS = (
    "hidden_dropout_prob",
    "attention_probs_dropout_prob",
    "mlp_dropout",
    "embedding_dropout",
    "dropout_rate",
)


@dataclass(frozen=True, slots=True)
class Body:
    """A transformers model to be trained, its tokenizer and the lengths it reads."""

    checkpoint: Checkpoint
    module: Any
    tokenizer: Any
    truncation: Truncation
    first_position: int
    adapter: Attached | None = None


def find_start(start: Start, known: frozenset[str], what: str) -> Checkpoint:
    """The checkpoint to start from; InputError where its ``model_type`` is none of ``known``.

    A CrossEncoder of modules is refused: its head and its prompt would be lost.
    """
    found = find(start.name)
    if found.layout.kind not in (Kind.PLAIN, Kind.BI_ENCODER) and not found.layout.only_a_classifier:
        raise InputError(
            f"{start.name} is {found.layout.what}: training cannot go on with that; start from its body, "
            "saved without the modules, or from another checkpoint"
        )
    if found.model_type not in known:
        raise InputError(
            f"{start.name}: model_type {found.model_type!r} cannot be trained as {what}; known: "
            f"{', '.join(sorted(known))}"
        )
    return found


def load_body(start: Start, found: Checkpoint, auto: Any, **options: Any) -> Body:
    """Loads an encoder with whatever head ``auto`` gives it; weights that the checkpoint lacks are new."""
    dropouts = {} if start.dropout is None else {k: start.dropout for k in DROPOUTS if k in found.config}
    tokenizer = load_tokenizer(found)
    module = load_quietly(auto, found.body, **dropouts, **options)
    config = module.config
    first = config.pad_token_id + 1 if config.model_type in ROBERTA else 0
    length = clamp_length(start.max_length, config.max_position_embeddings - first, USUAL_LENGTH)
    tokenizer.model_max_length = length
    if start.checkpointing:
        module.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    attached = None if start.adapter is None else start.adapter.attach(module, start.name)
    return Body(found, module, tokenizer, Truncation(length), first, attached)


def lean(module: Any) -> bool:
    """Whether the lean forward pass may train an encoder: nothing is dropped, recomputed, sharded or adapted."""
    config = module.config
    dropped = any(getattr(config, name, 0.0) for name in DROPOUTS)
    sharded = os.environ.get("ACCELERATE_USE_FSDP", "false").lower() in ("1", "true")
    recomputed = any(getattr(part, "gradient_checkpointing", False) for part in module.modules())
    adapted = any(".lora_" in name for name, _ in module.named_parameters())
    return not (dropped or sharded or recomputed or adapted)


def load_quietly(auto: Any, folder: Path, **options: Any) -> Any:
    """``from_pretrained`` in fp32 without the report of missing weights: a new head is on purpose."""
    try:
        with quiet_transformers():
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


def write_model(
    folder: Path,
    module: Any,
    tokenizer: Any,
    family: str | None = None,
    adapter: Attached | None = None,
    **config: Any,
) -> None:
    """Writes weights (safetensors), config and tokenizer of a transformers model; of an adapted one the adapter.

    Args:
        family: the spec that `sparring.rerank.models.loading.load` goes by; None where the config says enough.
        config: further keys of ``config.json``; None drops one.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save_pretrained(folder)
    if adapter is None:
        module.save_pretrained(folder, safe_serialization=True)
        content = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    else:
        adapter.save(module, folder)
        content = module.config.to_dict() | {"architectures": [type(module).__name__]}
    write_config(folder, content, family, **config)


def write_config(folder: Path, content: dict[str, Any], family: str | None, **config: Any) -> None:
    """Writes ``config.json``; the arguments are those of `write_model`."""
    changed = content | {FAMILY_KEY: family, "dtype": "float32"} | config
    kept = {key: value for key, value in changed.items() if value is not None or key not in (FAMILY_KEY, *config)}
    with atomic_write(folder / "config.json") as stream:
        stream.write(json.dumps(kept, indent=2, sort_keys=True) + "\n")


def restore(folder: Path, module: Any, adapter: Attached | None = None) -> None:
    """Takes the weights that `write_model` wrote."""
    if adapter is None:
        module.load_state_dict(load_weights(folder))
    else:
        adapter.load(module, folder)


def load_weights(folder: Path) -> dict[str, torch.Tensor]:
    """All tensors of the safetensors files of a folder that `write_model` wrote."""
    from safetensors.torch import load_file

    state: dict[str, torch.Tensor] = {}
    for path in find(str(folder)).weights:
        state |= load_file(path)
    return state
