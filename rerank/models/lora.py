"""LoRA adapters merged into their base's weights, file by file, without peft.

E. Hu et al.: LoRA: Low-Rank Adaptation of Large Language Models. ICLR 2022, arXiv 2106.09685.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ..errors import InputError

if TYPE_CHECKING:
    import torch

WRAPPED = "base_model.model."
"""How peft begins the name of every tensor."""
EFFECTLESS = ("use_rslora",)
UNTOUCHED = (None, False, True, "gaussian", "loftq", "eva", "orthogonal")
"""Ways of initialising an adapter that leave the base's weights alone."""
PLAIN_PARTS = ("lora_A.weight", "lora_B.weight", "lora_embedding_A", "lora_embedding_B")
MORE = (
    "layer_replication",
    "trainable_token_indices",
    "target_parameters",
    "lora_bias",
    "alora_invocation_tokens",
)


def special(config: Mapping[str, Any]) -> str:
    """What makes an adapter more than plain LoRA, as a word; empty where nothing does."""
    kind = str(config.get("peft_type", "LORA"))
    if kind != "LORA":
        return kind
    used = [key for key in config if key.startswith("use_") and key not in EFFECTLESS] + list(MORE)
    found = [key for key in used if config.get(key)]
    if config.get("init_lora_weights") not in UNTOUCHED:
        found.append(f"init_lora_weights={config['init_lora_weights']}")
    return ", ".join(found)


@dataclass(slots=True)
class Adapter:
    """What an adapter changes: factors by the name of the weight they add to, and tensors that it holds whole.

    Args:
        name: what messages call it.
        config: its ``adapter_config.json``.
        factors: A (r, in) and B (out, r) of each weight; of an embedding A (r, words) and B (width, r).
        whole: biases and modules that are trained and saved as they are.
    """

    name: str
    config: Mapping[str, Any]
    factors: dict[str, dict[str, torch.Tensor]] = field(default_factory=dict)
    whole: dict[str, torch.Tensor] = field(default_factory=dict)

    def take(self, state: Mapping[str, torch.Tensor]) -> None:
        """Sorts the tensors of an adapter's file; InputError for a factor that has no partner."""
        for key, value in state.items():
            name = key.removeprefix(WRAPPED)
            part = next((part for part in PLAIN_PARTS if name.endswith(f".{part}")), None)
            name = name if part is None else f"{name.removesuffix(f'.{part}')}.weight"
            if ".original_module." in name:  # what modules_to_save replace, kept with its biases
                continue
            for inner in (".base_layer.", ".modules_to_save.default.", ".modules_to_save."):
                name = name.replace(inner, ".")
            if part is None:
                self.whole[name] = value
            else:
                self.factors.setdefault(name, {})[part.removesuffix(".weight")[-1]] = value
        for name, parts in self.factors.items():
            if len(parts) != 2:
                raise InputError(f"{self.name}: the adapter of {name} lacks one of its two factors")

    def strange(self) -> list[str]:
        """Names of tensors that plain LoRA does not have, such as the magnitudes of DoRA."""
        return [name for name in self.whole if ".lora_" in name]

    def align(self, names: Iterable[str]) -> str:
        """Makes the adapter's names those of the base's weights; what the base's names lack in front is returned.

        A base may be saved with or without its head: ``bert.encoder...`` or ``encoder...``.
        """
        known = set(names)
        targets = [*self.factors, *self.whole]
        if not targets or any(name in known for name in self.factors or self.whole):
            return ""
        for target in targets:
            parts = target.split(".")
            for cut in range(1, len(parts)):
                if ".".join(parts[cut:]) in known and len(parts) - cut > 2:
                    return ".".join(parts[:cut]) + "."
            longer = next((name for name in known if name.endswith(f".{target}")), None)
            if longer is not None:
                front = longer.removesuffix(target)
                self.factors = {front + name: value for name, value in self.factors.items()}
                self.whole = {
                    front + name if front + name in known else name: value for name, value in self.whole.items()
                }
                return ""
        return ""

    def merged(self, name: str, weight: torch.Tensor) -> torch.Tensor:
        """A weight of the base in fp32 with what the adapter adds to it, or the adapter's own in its place."""
        if name in self.whole:
            return self.whole[name].float().contiguous()
        factors = self.factors[name]
        if not weight.is_floating_point():
            raise InputError(f"{self.name}: {name} of the base is quantised ({weight.dtype}): give another --base")
        low, high = factors["A"].float(), factors["B"].float()
        delta = high @ low
        if self.config.get("fan_in_fan_out") or (delta.shape != weight.shape and delta.T.shape == weight.shape):
            delta = delta.T
        if delta.shape != weight.shape:
            raise InputError(
                f"{self.name}: the adapter of {name} is {tuple(delta.shape)}, the base's weight "
                f"{tuple(weight.shape)}: it belongs to another base"
            )
        return (weight.float() + delta * self._scale(name.removesuffix(".weight"), len(low))).contiguous()

    def _scale(self, module: str, rank: int) -> float:
        alpha = float(self.config.get("lora_alpha") or 8)
        patterns: Mapping[str, float] = self.config.get("alpha_pattern") or {}
        alpha = next((v for k, v in patterns.items() if re.match(rf"(.*\.)?({k})$", module)), alpha)
        return alpha / (rank**0.5 if self.config.get("use_rslora") else rank)
