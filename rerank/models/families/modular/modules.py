"""What follows the transformer of a CrossEncoder: pooling, dense layers and norms, on packed tokens in fp32.

Modules hand named features to each other, as in sentence-transformers: token states (T, H) or one vector per
sequence (S, H); the last gives ``scores``.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn.functional import normalize

from ....errors import InputError
from ...checkpoints import Checkpoint
from ...layout import SCORES, Module

TOKENS, VECTOR = "token_embeddings", "sentence_embedding"
MODES = ("cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken")
OLD_MODES = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
"""Keys of older configs, in the order in which their vectors are joined."""
ACTIVATIONS: dict[str, type[nn.Module]] = {
    cls.__name__: cls
    for cls in (
        nn.Identity, nn.Tanh, nn.ReLU, nn.GELU, nn.SiLU, nn.Sigmoid, nn.ELU, nn.LeakyReLU, nn.Mish, nn.Softplus,
        nn.Softsign, nn.Hardtanh, nn.ReLU6, nn.SELU, nn.CELU, nn.LogSigmoid, nn.Hardswish, nn.Tanhshrink,
    )
}  # fmt: skip
Features = dict[str, torch.Tensor]


class Pooling(nn.Module):
    """Token states to one vector per sequence; several modes are joined.

    ``skip`` tokens at the start of a sequence (its prompt) are left out.
    """

    def __init__(self, modes: tuple[str, ...], width: int, skip: int) -> None:
        super().__init__()
        self.modes, self.width, self.skip = modes, width, skip

    def forward(self, features: Features, boundaries: torch.Tensor) -> None:
        states, bounds = features[TOKENS], boundaries.long()
        begins, whole = bounds[:-1], bounds.diff()
        lengths = (whole - self.skip).clamp(min=0)
        starts = begins + whole - lengths
        place = torch.arange(len(states), device=states.device)
        begin = torch.repeat_interleave(begins, whole, output_size=len(states))
        kept = place >= begin + self.skip if self.skip else slice(None)
        inside = states[kept]

        def summed(values: torch.Tensor) -> torch.Tensor:
            total: torch.Tensor = torch.segment_reduce(values, "sum", lengths=lengths)
            return total

        found = []
        for mode in self.modes:
            if mode == "cls":
                found.append(states[torch.where(lengths > 0, starts, begins)])
            elif mode == "lasttoken":
                found.append(states[bounds[1:] - 1])
            elif mode == "max":
                found.append(torch.segment_reduce(inside, "max", lengths=lengths))
            elif mode == "weightedmean":
                weight = (place - begin + 1)[kept, None].to(states.dtype)
                found.append(summed(inside * weight) / summed(weight).clamp(min=1e-9))
            else:
                count = lengths[:, None].to(states.dtype).clamp(min=1e-9)
                found.append(summed(inside) / (count if mode == "mean" else count.sqrt()))
        features[VECTOR] = torch.cat(found, dim=1)


class Dense(nn.Module):
    """A linear layer and its activation, from one feature to another; with ``residual`` the input is added."""

    def __init__(
        self, source: str, target: str, sizes: tuple[int, int], bias: bool, residual: bool, act: nn.Module
    ):
        super().__init__()
        self.source, self.target, self.act, self.residual_on = source, target, act, residual
        self.linear = nn.Linear(*sizes, bias=bias)
        self.residual = nn.Linear(*sizes, bias=False) if residual and sizes[0] != sizes[1] else None

    def forward(self, features: Features, boundaries: torch.Tensor) -> None:
        given = features[self.source]
        out = self.act(self.linear(given))
        if self.residual_on:
            out = out + (given if self.residual is None else self.residual(given))
        features[self.target] = out


class Norm(nn.Module):
    """Layer norm of the vectors."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)

    def forward(self, features: Features, boundaries: torch.Tensor) -> None:
        features[VECTOR] = self.norm(features[VECTOR])


class Normalize(nn.Module):
    """Vectors of length 1."""

    def __init__(self, source: str, target: str) -> None:
        super().__init__()
        self.source, self.target = source, target

    def forward(self, features: Features, boundaries: torch.Tensor) -> None:
        features[self.target] = normalize(features[self.source], dim=-1)


class Head(nn.Module):
    """All modules behind the transformer, from token states to logits (S, labels)."""

    def __init__(self, steps: list[nn.Module]) -> None:
        super().__init__()
        self.steps = nn.ModuleList(steps)

    @property
    def pooled(self) -> frozenset[str]:
        """Modes by which tokens become vectors; all of them where the prompt's tokens are left out."""
        pooling = [step for step in self.steps if isinstance(step, Pooling)]
        skipped = any(step.skip for step in pooling)
        return frozenset(MODES) if skipped else frozenset(mode for step in pooling for mode in step.modes)

    def forward(self, states: torch.Tensor, boundaries: torch.Tensor) -> torch.Tensor:
        """Logits (S, labels) of token states (T, H) in fp32."""
        features: Features = {TOKENS: states}
        for step in self.steps:
            step(features, boundaries)
        return features[SCORES]


def build_head(checkpoint: Checkpoint, width: int, output: str, skip: int) -> Head:
    """The modules behind the transformer, with their weights.

    Args:
        width: of the transformer's states.
        output: the name of the transformer's result.
        skip: tokens of the prompt, for pooling that leaves it out.

    Raises:
        InputError: a module is unknown, one reads what none before it gives, widths or weights do not fit, or
            there is no score at the end.
    """
    if output != TOKENS:
        raise InputError(f"{checkpoint.name}: its transformer gives {output!r}, expected {TOKENS}")
    widths = {TOKENS: width}
    steps: list[nn.Module] = []
    for number, module in enumerate(checkpoint.layout.modules[1:], start=1):
        where = f"{checkpoint.name}: module {number} ({module.name})"
        if module.name == "Dropout":
            continue
        step = _step(where, module, widths, skip)
        if any(True for _ in step.parameters()):
            _fill(where, step, checkpoint.folder / module.path / "model.safetensors")
        steps.append(step)
    if SCORES not in widths or not any(isinstance(step, Pooling) for step in steps):
        raise InputError(
            f"{checkpoint.name} is {checkpoint.layout.what}: its modules end without a score of a pair"
        )
    if widths[SCORES] not in (1, 2):
        raise InputError(f"{checkpoint.name}: the head has {widths[SCORES]} labels; a reranker has 1 or 2")
    return Head(steps).eval()


def _step(where: str, module: Module, widths: dict[str, int], skip: int) -> nn.Module:
    """One module; ``widths`` says what there is to read, and gets what the module gives."""
    config = module.config

    def given(name: str, width: Any = None) -> int:
        if name not in widths or (VECTOR not in widths and name == SCORES):
            raise InputError(f"{where} reads {name!r}, which no module before it gives")
        if width is not None and int(width) != widths[name]:
            raise InputError(f"{where} reads {width} values, but {name} has {widths[name]}")
        return widths[name]

    if module.name == "Pooling":
        modes = pooling_modes(where, config)
        wanted = config.get("embedding_dimension", config.get("word_embedding_dimension"))
        inner = given(TOKENS, wanted)
        widths[VECTOR] = inner * len(modes)
        return Pooling(modes, inner, 0 if config.get("include_prompt", True) else skip)
    if module.name == "Dense":
        source = str(config.get("module_input_name") or VECTOR)
        target = str(config.get("module_output_name") or source)
        sizes = given(source, config.get("in_features")), int(config["out_features"])
        widths[target] = sizes[1]
        bias, residual = bool(config.get("bias", True)), bool(config.get("use_residual", False))
        return Dense(source, target, sizes, bias, residual, _activation(where, config))
    if module.name == "LayerNorm":
        return Norm(given(VECTOR, config.get("dimension")))
    if module.name == "Normalize":
        source = str(config.get("module_input_name") or VECTOR)
        target = str(config.get("module_output_name") or source)
        widths[target] = given(source)
        return Normalize(source, target)
    raise InputError(f"{where} is none that this family runs (Pooling, Dense, LayerNorm, Normalize, Dropout)")


def pooling_modes(where: str, config: dict[str, Any]) -> tuple[str, ...]:
    """The modes of a pooling module, new or old style, in the order in which they are joined."""
    given = config.get("pooling_mode")
    if given is None:
        given = [mode for key, mode in OLD_MODES.items() if config.get(key)] or "mean"
    modes = (given,) if isinstance(given, str) else tuple(given)
    unknown = [mode for mode in modes if mode not in MODES]
    if unknown or not modes:
        raise InputError(f"{where} pools by {given!r}; known: {', '.join(MODES)}")
    return modes


def _activation(where: str, config: dict[str, Any]) -> nn.Module:
    given = str(config.get("activation_function", "torch.nn.modules.activation.Tanh"))
    name = given.rpartition(".")[2]
    if not given.startswith("torch.nn.") or name not in ACTIVATIONS:
        raise InputError(
            f"{where} has the activation {given!r}; known: {', '.join(sorted(ACTIVATIONS))} of torch.nn"
        )
    return ACTIVATIONS[name]()


def _fill(where: str, step: nn.Module, path: Any) -> None:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not path.is_file():
        raise InputError(f"{where}: {path} is missing: its weights would be random")
    try:
        state = {name: value.float() for name, value in load_file(path).items()}
        step.load_state_dict(state)
    except (RuntimeError, SafetensorError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{where}: {path} does not fit: {reason[:200]}") from None
