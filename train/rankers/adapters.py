"""Adapters: a few weights trained beside a frozen body, and saved without it: ``--adapter 'lora(rank=16)'``.

What is saved is peft's layout: ``adapter_model.safetensors`` with ``adapter_config.json``, which names the base.
`sparring.rerank.models.adapters` merges the two when the model is loaded.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Protocol

import torch
from torch import nn

from ...rerank.errors import InputError, MissingPrerequisiteError, UsageError
from ...rerank.models.adapters import WEIGHTS
from ...rerank.models.lora import WRAPPED
from ...rerank.registry import Registry

adapters = Registry("adapter", "sparring.train.rankers.adapters")
OF_HEADS = ("pooler", "lm_head", "classifier", "score")
"""Parts inside a body that belong to a head: they are trained whole."""
NAME = ".default"
"""What peft puts into the names of an adapter's weights while it is in a model."""


@dataclass(frozen=True, slots=True)
class Attached:
    """An adapter in a model: what it is to be saved with.

    Args:
        base: the name or folder of the model that it belongs to.
        config: peft's, of the whole model.
        frozen: identities of the body's weights, which are not saved while they stay frozen.
    """

    base: str
    config: Any
    frozen: frozenset[int] = field(repr=False)

    def save(self, module: nn.Module, folder: Path) -> None:
        """Writes what was trained in ``module``, with a config whose names are relative to it."""
        from peft import LoraConfig
        from safetensors.torch import save_file

        state: dict[str, torch.Tensor] = {}
        for name, parameter in module.named_parameters():
            if parameter.requires_grad or id(parameter) not in self.frozen:
                state[WRAPPED + name.replace(f"{NAME}.", ".")] = parameter.detach().cpu().contiguous()
        targets = sorted({key.partition(".lora_A")[0].removeprefix(WRAPPED) for key in state if ".lora_A." in key})
        whole = {_owner(module, key.removeprefix(WRAPPED)) for key in state if ".lora_" not in key}
        folder.mkdir(parents=True, exist_ok=True)
        LoraConfig(
            r=self.config.r,
            lora_alpha=self.config.lora_alpha,
            lora_dropout=self.config.lora_dropout,
            target_modules=targets,
            modules_to_save=sorted(whole) or None,
            task_type=_task(module),
            base_model_name_or_path=str(Path(self.base).resolve()) if Path(self.base).is_dir() else self.base,
            inference_mode=True,
        ).save_pretrained(str(folder))
        save_file(state, folder / WEIGHTS, {"format": "pt"})

    def load(self, module: nn.Module, folder: Path) -> None:
        """Takes the weights that `save` wrote; InputError where they are another model's."""
        from safetensors.torch import load_file

        names = {WRAPPED + name.replace(f"{NAME}.", "."): name for name, _ in module.named_parameters()}
        state = load_file(folder / WEIGHTS)
        if strange := sorted(key for key in state if key not in names):
            raise InputError(f"{folder / WEIGHTS}: {strange[0]} is not in the model that is trained")
        module.load_state_dict({names[key]: value for key, value in state.items()}, strict=False)


class Adapter(Protocol):
    """A frozen dataclass registered in `adapters`; its fields are its options."""

    spec_name: ClassVar[str]

    def attach(self, module: Any, base: str) -> Attached:
        """Puts the adapter into a model of transformers and freezes what it stands beside.

        Args:
            base: the name or folder that the model was loaded from.
        """
        ...


@adapters.register("lora")
@dataclass(frozen=True)
class Lora:
    """Low-rank factors beside the linear layers of the body; head and new embeddings are trained whole.

    Args:
        rank: of the factors.
        alpha: what they add is multiplied by alpha / rank; twice the rank where absent.
        dropout: of what the factors read.
        targets: ends of the names of layers, with commas between, such as 'query,value'; all where absent.

    E. Hu et al.: LoRA. ICLR 2022, arXiv 2106.09685.
    """

    rank: int = 16
    alpha: int | None = None
    dropout: float = 0.0
    targets: str | None = None

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise ValueError("rank must be at least 1")
        if not 0 <= self.dropout < 1:
            raise ValueError("dropout must be at least 0 and less than 1")

    def attach(self, module: Any, base: str) -> Attached:
        try:
            from peft import LoraConfig, inject_adapter_in_model
        except ImportError:
            raise MissingPrerequisiteError("peft is needed for --adapter: pip install 'sparring[train]'") from None
        body = module.base_model
        layers = [
            name for name, part in body.named_modules() if isinstance(part, nn.Linear) and not _of_head(name)
        ]
        if self.targets is not None:
            ends = tuple(part.strip() for part in self.targets.split(","))
            kept = [name for name in layers if any(name == end or name.endswith(f".{end}") for end in ends)]
            if not kept:
                known = ", ".join(sorted({name.rpartition(".")[2] for name in layers}))
                raise UsageError(f"--adapter {self}: no layer's name ends so; this body has {known}")
            layers = kept
        frozen = frozenset(id(value) for name, value in body.named_parameters() if not _of_head(name))
        config = LoraConfig(
            r=self.rank,
            lora_alpha=2 * self.rank if self.alpha is None else self.alpha,
            lora_dropout=self.dropout,
            target_modules=layers,
        )
        inject_adapter_in_model(config, body)
        return Attached(base, config, frozen)


def _of_head(name: str) -> bool:
    return any(part in OF_HEADS for part in name.split("."))


def _owner(module: Any, name: str) -> str:
    """The module that peft saves whole for a weight: a head, or what holds the weight in the body."""
    first = name.split(".")[0]
    inside = first == module.base_model_prefix or module.base_model is module
    return name.rpartition(".")[0] if inside else first


def _task(module: Any) -> str:
    kind = type(module).__name__
    if kind.endswith("ForSequenceClassification"):
        return "SEQ_CLS"
    return "SEQ_2_SEQ_LM" if kind.endswith("ForConditionalGeneration") else "FEATURE_EXTRACTION"
