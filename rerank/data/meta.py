"""The meta file beside every output."""

from __future__ import annotations

import contextlib
import gzip
import os
import platform
import shutil
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from .. import console
from .atomic import atomic_write, sha256


def write_meta(
    output: Path, tag: str, inputs: Mapping[str, Path], details: Mapping[str, Any], *, embed: bool = False
) -> Path:
    """Writes ``<output>.meta.yaml`` in the layout of ir_metadata (PRIMAD sections) and returns its path.

    Args:
        output: the file described; it is hashed.
        tag: the run tag or the command's name.
        inputs: role → path of every file read; each is hashed.
        details: everything else worth keeping (model, revision, dtype, seed, calls, tokens, seconds ...).
        embed: write the same as ``#`` lines at the top of the output too, which must be text. Of the evaluators
            only trec_eval 10 and this toolkit read a run with such lines.
    """
    import yaml

    packages = ("sparring", "torch", "transformers", "sentence-transformers", "faiss-cpu", "numpy", "scipy")
    versions = {}
    for package in packages:
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[package] = metadata.version(package)
    content: dict[str, Any] = {
        "ir_metadata.version": "0.1",
        "tag": tag,
        "platform": {
            "hardware": {"cpu": {"model": platform.processor() or platform.machine(), "cores": os.cpu_count()}},
            "operating system": {"kernel": platform.system(), "release": platform.release()},
            "software": {"python": platform.python_version(), "libraries": versions},
        },
        "implementation": {"executable": {"cmd": console.command()}},
        "data": {
            "inputs": {
                role: {"path": str(path), "sha256": sha256(path) if path.is_file() else None}
                for role, path in inputs.items()
            },
            "output": {"path": str(output)},
        },
        "method": dict(details),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    if embed:
        _embed(output, yaml.safe_dump(content, sort_keys=False, allow_unicode=True))
    content["data"]["output"]["sha256"] = sha256(output) if output.is_file() else None
    target = output.with_name(output.name + ".meta.yaml")
    with atomic_write(target) as stream:
        yaml.safe_dump(content, stream, sort_keys=False, allow_unicode=True)
    return target


def _embed(output: Path, text: str) -> None:
    """Puts ``text`` on top of a text file as comments, between the marks of ir_metadata."""
    opened = gzip.open if output.suffix == ".gz" else open
    marked = ("ir_metadata.start", *text.splitlines(), "ir_metadata.end")
    with opened(output, "rt", encoding="utf-8", newline="\n") as old, atomic_write(output) as stream:
        stream.writelines(f"# {line}\n" for line in marked)
        shutil.copyfileobj(old, stream)
