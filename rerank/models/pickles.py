"""Pickled weights, read only where the user allows it (``--allow-pickle``): tensors alone, by a safe torch.

A pickle is a program that builds its content. torch's ``weights_only`` runs none of it but the making of tensors;
before torch 2.10 it could be talked into more. What is read is written as safetensors into a folder that exists
while the checkpoint is loaded, so that no model family ever sees a pickle.
"""

from __future__ import annotations

import contextlib
import json
import pickle
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import console
from ..errors import InputError, MissingPrerequisiteError
from .checkpoints import is_model, locate, pickled_weights

if TYPE_CHECKING:
    import torch

LEAST_TORCH = (2, 10)
INDEX = "pytorch_model.bin.index.json"


@contextlib.contextmanager
def readable(name: str, revision: str | None = None, allow_pickle: bool = False) -> Iterator[Path]:
    """The folder of the model called ``name`` (see `checkpoints.locate`), to be read inside the block.

    With ``allow_pickle`` weights that exist only as pickles are converted for the time of the block, and a warning
    names them. Raises MissingPrerequisiteError where torch is too old for that, InputError where a file holds
    anything but named tensors.
    """
    folder = locate(name, revision, pickled=allow_pickle)
    pickled = pickled_weights(folder) if allow_pickle and is_model(folder) else []
    if not pickled:
        yield folder
        return
    _check_torch()
    console.log.warning(
        "%s: --allow-pickle reads %s; only tensors are taken, but pickles are made to run code: convert them once "
        "(save_pretrained writes safetensors) and leave the flag out",
        name,
        ", ".join(str(path.relative_to(folder)) for path in pickled),
    )
    with tempfile.TemporaryDirectory(prefix="sparring-weights-") as scratch:
        copy = Path(scratch)
        _link(folder, copy)
        for path in pickled:
            _convert(path, copy / _twin(path.relative_to(folder)))
        yield copy


def _check_torch() -> None:
    import torch

    if tuple(map(int, torch.__version__.split(".")[:2])) < LEAST_TORCH:
        raise MissingPrerequisiteError(
            f"--allow-pickle needs torch >= {'.'.join(map(str, LEAST_TORCH))}, found {torch.__version__}: "
            "pickled weights can make older ones run code; pip install -U torch"
        )


def _link(folder: Path, copy: Path) -> None:
    """Everything but pickles, of the folder and of the folders in it; an index gets the names of the new files."""
    for path in [*folder.glob("*"), *folder.glob("*/*")]:
        target = copy / path.relative_to(folder)
        if path.name == INDEX:
            content = json.loads(path.read_text(encoding="utf-8"))
            content["weight_map"] = {
                weight: str(_twin(Path(file))) for weight, file in content["weight_map"].items()
            }
            (copy / "model.safetensors.index.json").write_text(json.dumps(content), encoding="utf-8")
        elif path.suffix in (".json", ".safetensors", ".txt", ".model", ".jinja"):
            target.parent.mkdir(exist_ok=True)
            target.symlink_to(path.resolve())


def _twin(path: Path) -> Path:
    """The safetensors file that stands for a pickle."""
    return path.with_name(path.name.replace("pytorch_model", "model")).with_suffix(".safetensors")


def _convert(path: Path, target: Path) -> None:
    from safetensors.torch import save_file

    state = _tensors(path)
    seen: set[int] = set()
    for name, value in state.items():
        where = value.untyped_storage().data_ptr()
        state[name] = value.clone() if where in seen else value.contiguous()  # safetensors shares no memory
        seen.add(where)
    target.parent.mkdir(exist_ok=True)
    save_file(state, target, metadata={"format": "pt"})


def _tensors(path: Path) -> dict[str, torch.Tensor]:
    import torch

    with path.open("rb") as stream:
        if stream.read(8) == b"version ":
            raise InputError(f"{path} is a git-lfs pointer, not the weights: run `git lfs pull` in {path.parent}")
    try:
        state: Any = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        reason = next((line.strip() for line in str(error).splitlines() if "GLOBAL" in line), "it is damaged")
        raise InputError(
            f"{path}: holds more than tensors, or is not a file of torch, and is not read even with "
            f"--allow-pickle ({reason[:200]})"
        ) from None
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise InputError(f"{path}: expected names and their tensors, found {type(state).__name__} of other things")
    return {str(name): value for name, value in state.items()}
