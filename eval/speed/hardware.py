"""What the machine can do, measured: matrix products, peak memory; and what it is."""

from __future__ import annotations

import multiprocessing
import os
import platform
import resource
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from ...rerank.console import log
from ...rerank.vocabulary import Candidates

if TYPE_CHECKING:
    import torch

T = TypeVar("T")


def forward_flops(config: Any, tokens: NDArray[np.int64]) -> float:
    """Floating point operations of an encoder over sequences of these lengths, without embeddings and head."""
    hidden, inner, layers = config.hidden_size, config.intermediate_size, config.num_hidden_layers
    linear = 2.0 * tokens.sum() * (4 * hidden * hidden + 2 * hidden * inner)
    attention = 4.0 * (tokens.astype(np.float64) ** 2).sum() * hidden
    return float(layers * (linear + attention))


def gemm_rates(
    config: Any, rows: int, device: torch.device, dtype: torch.dtype, quick: bool = False
) -> dict[str, float]:
    """Measured GFLOP/s of matrix products: at the model's own shapes (one layer's linears), and at the best shape.

    Args:
        rows: tokens of one batch.
        quick: try small shapes only, too briefly to rely on.
    """
    import torch

    hidden, inner = config.hidden_size, config.intermediate_size
    layer = [(rows, hidden, hidden)] * 4 + [(rows, hidden, inner), (rows, inner, hidden)]
    sides = (256,) if quick else (1024, 2048) if device.type == "cpu" else (4096, 8192)
    seconds = {shape: _linear_seconds(shape, device, dtype, torch) for shape in set(layer)}
    own = sum(2.0 * np.prod(shape) for shape in layer) / sum(seconds[shape] for shape in layer)
    best = max(2.0 * side**3 / _linear_seconds((side,) * 3, device, dtype, torch) for side in sides)
    single = max(2.0 * np.prod(shape) / second for shape, second in seconds.items())
    return {"model_shapes": round(own / 1e9, 1), "best": round(float(max(best, single)) / 1e9, 1)}


def _linear_seconds(shape: tuple[int, int, int], device: torch.device, dtype: torch.dtype, torch_: Any) -> float:
    m, k, n = shape
    x = torch_.randn(m, k, device=device).to(dtype)
    weight = torch_.randn(n, k, device=device).to(dtype)
    bias = torch_.zeros(n, device=device).to(dtype)
    linear = torch_.nn.functional.linear

    def timed(times: int) -> float:
        start = time.perf_counter()
        for _ in range(times):
            linear(x, weight, bias)
        synchronise(device)
        return (time.perf_counter() - start) / times

    with torch_.inference_mode():
        once = min(timed(2) for _ in range(3))
        return float(np.median([timed(max(2, int(0.05 / once))) for _ in range(5)]))


def synchronise(device: torch.device) -> None:
    """Waits until the device has done its work."""
    if device.type == "cuda":
        import torch

        torch.cuda.synchronize(device)


def timed(work: Callable[[], T], device: torch.device | None = None) -> tuple[float, T]:
    """Seconds on the wall until ``work`` is done, on the device too if one is named; and its result."""
    if device is not None:
        synchronise(device)
    start = time.perf_counter()
    result = work()
    if device is not None:
        synchronise(device)
    return time.perf_counter() - start, result


def warn_if_busy() -> None:
    """Says so where other programs are at work: figures would be too low."""
    if os.getloadavg()[0] > 0.5:
        log.warning(
            "load average %.1f: something else is running, the figures will be too low", os.getloadavg()[0]
        )


def machine(device: torch.device) -> dict[str, Any]:
    """What a reader must know of the machine to compare figures."""
    import torch
    import transformers
    from sentence_transformers import __version__ as sentence_transformers

    wanted = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8")
    info = _cpuinfo()
    return {
        "cpu": info.get("model name", platform.processor() or platform.machine()),
        "cores": os.cpu_count(),
        "flags": [flag for flag in wanted if flag in info.get("flags", "").split()],
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "threads": torch.get_num_threads(),
        "load_average": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "sentence_transformers": sentence_transformers,
        "system": f"{platform.system()} {platform.release()}",
    }


def _cpuinfo() -> dict[str, str]:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return {}
    return {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines) if key.strip()}


def peak_memory(work: Callable[..., None], *arguments: Any) -> float:
    """Peak resident memory in MiB of a fresh process that does ``work(*arguments)``."""
    context = multiprocessing.get_context("spawn")
    answer = context.SimpleQueue()
    child = context.Process(target=_measured, args=(answer, work, arguments))
    child.start()
    child.join()
    if child.exitcode:
        raise RuntimeError(f"the process that measures memory ended with exit code {child.exitcode}")
    return float(answer.get())


def _measured(answer: Any, work: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    work(*arguments)
    unit = 1 << 20 if sys.platform == "darwin" else 1 << 10
    answer.put(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit)


def rerank_made_up(folder: str, count: int, device: str, dtype: str, threads: int) -> None:
    """Reranks ``count`` made-up topics of 16 candidates, 16 in flight: what memory is measured on."""
    import torch

    from ...rerank import registry
    from ...rerank.executors.open import open_scorer
    from ...rerank.models.loading import load
    from ...rerank.pipeline import rerank

    torch.set_num_threads(threads)
    engine = open_scorer(load(folder), device=device, dtype=dtype, progress=False)
    for _ in rerank(_made_up(count), engine, registry.schedules.parse("pointwise"), in_flight=16):
        pass


def _made_up(count: int, size: int = 16) -> Iterator[Candidates]:
    for t in range(count):
        rng = np.random.default_rng(t)
        words = rng.integers(0, 10**6, (size, 40))
        texts = [" ".join(f"{word:x}" for word in row) for row in words.tolist()]
        yield Candidates(f"q{t}", f"topic {t}", tuple(f"d{t}-{i}" for i in range(size)), texts, np.zeros(size))
