"""Which device, which precision and how many tokens at a time suit the machine."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import torch

from ..errors import MissingPrerequisiteError, UsageError
from ..registry import unknown

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
ALIASES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}
CPU_TOKENS = 1024
"""Of a batch and CPU thread: activations stay in its cache."""
CUDA_TOKENS = 32768
"""Of a batch on CUDA: launches are amortised."""


def choose_device(name: str) -> torch.device:
    """The device called ``name``; ``auto`` is the first CUDA device, else the CPU."""
    if name == "auto":
        return torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
    kind, _, number = name.partition(":")
    if kind not in ("cpu", "cuda") or (number and not number.isdigit()):
        raise UsageError(f"unknown device {name!r}: write auto, cpu, cuda or cuda:N")
    if kind == "cuda":
        if not torch.cuda.is_available():
            raise MissingPrerequisiteError(f"device {name!r}: torch {torch.__version__} finds no CUDA device here")
        if int(number or 0) >= torch.cuda.device_count():
            raise MissingPrerequisiteError(f"device {name!r}: there are {torch.cuda.device_count()} CUDA devices")
        return torch.device(f"cuda:{number or 0}")
    return torch.device("cpu")


def split_devices(name: str) -> tuple[str, ...]:
    """The devices of a list such as ``cuda:0,1``, ``cuda:0,cuda:1`` or ``cpu,cpu``, each checked."""
    found: list[str] = []
    for part in name.replace(" ", "").split(","):
        kind = found[-1].partition(":")[0] if found else ""
        found.append(f"{kind}:{part}" if kind and part.isdigit() else part)
    for part in found:
        choose_device(part)
    return tuple(found)


def choose_dtype(name: str, device: torch.device) -> torch.dtype:
    """The precision of the body; ``auto`` is bf16 where the hardware computes in it, else fp32."""
    if name == "auto":
        native = torch.cuda.is_bf16_supported() if device.type == "cuda" else _cpu_has_bf16()
        return torch.bfloat16 if native else torch.float32
    name = ALIASES.get(name, name)
    if name not in DTYPES:
        raise UsageError(unknown("dtype", name, ["auto", *DTYPES]))
    return DTYPES[name]


def dtype_name(dtype: torch.dtype) -> str:
    """``float32``, ``bfloat16`` or ``float16``."""
    return str(dtype).removeprefix("torch.")


def default_budget(device: torch.device) -> int:
    """Tokens of one batch."""
    return CUDA_TOKENS if device.type == "cuda" else CPU_TOKENS * min(torch.get_num_threads(), 8)


@cache
def _cpu_has_bf16() -> bool:
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace")
    except OSError:  # no Linux
        return False
    return "avx512_bf16" in flags or "amx_bf16" in flags
