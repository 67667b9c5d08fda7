"""Adapters (peft): a folder with ``adapter_config.json`` becomes its base model with the adapter merged in.

The merged checkpoint is a folder that exists while a model is loaded, so that every family reads it like others:
files of the adapter's folder before those of the base, weights merged in fp32. Plain LoRA is merged here (see
`sparring.rerank.models.lora`), everything else by peft.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .. import console
from ..data.atomic import sha256
from ..errors import InputError, MissingPrerequisiteError, MissingResourceError, SparringError, UsageError
from .checkpoints import ADAPTER_CONFIG, SERVED, Checkpoint, adapter_base, check_safetensors, find
from .layout import MODULES, read_json, read_layout
from .lora import Adapter, special
from .pickles import readable

WEIGHTS = "adapter_model.safetensors"
WHOLE = re.compile(r"(pytorch_)?model(-\d+-of-\d+)?\.(safetensors|bin)|.*\.index\.json|adapter_.*|.*\.(bin|pt|md)")
"""Files that a merged folder does not take over: it has weights of its own."""
LIBRARY = ("modules.json", "config_sentence_transformers.json", "sentence_bert_config.json")
"""What says how sentence-transformers runs a base, which a head on it replaces."""
HEADS = ("score.weight", "classifier.weight", "classifier.out_proj.weight")


@contextlib.contextmanager
def opened(
    name: str, revision: str | None = None, allow_pickle: bool = False, base: str | None = None
) -> Iterator[Checkpoint]:
    """The checkpoint called ``name`` (see `checkpoints.find`), to be loaded inside the block; adapters are merged.

    Args:
        base: the model that an adapter belongs to, where its config names none or another is wanted.

    Raises UsageError where ``base`` is given to what is no adapter; else as `checkpoints.find`.
    """
    if name.startswith(SERVED):
        yield find(name)
        return
    with readable(name, revision, allow_pickle) as folder:
        home = folder / read_layout(folder).body
        if (home / ADAPTER_CONFIG).is_file():
            with _merged(name, folder, home, allow_pickle, base) as checkpoint:
                yield checkpoint
            return
        if base is not None:
            raise UsageError(f"--base {base} is for adapters, and {name} holds no {ADAPTER_CONFIG}")
        yield dataclasses.replace(find(str(folder)), name=name)


@contextlib.contextmanager
def _merged(name: str, folder: Path, home: Path, allow_pickle: bool, asked: str | None) -> Iterator[Checkpoint]:
    """``home`` is where the adapter lies: the folder, or that of the transformer among its modules."""
    config = read_json(home / ADAPTER_CONFIG)
    weights = home / WEIGHTS
    if not weights.is_file():
        pickled = home / "adapter_model.bin"
        if pickled.is_file():
            raise InputError(
                f"{pickled}: pickled weights can run code and are refused: save the adapter once as {WEIGHTS} in "
                "an environment you trust, or add --allow-pickle where you trust the file"
            )
        raise MissingResourceError(f"{name}: an adapter without its weights: {WEIGHTS} is missing")
    check_safetensors(weights)
    with (
        _base(name, home, config, allow_pickle, asked) as base,
        tempfile.TemporaryDirectory(prefix="sparring-merged-") as scratch,
    ):
        target = Path(scratch)
        adapter = _read(f"{name}: adapter of {base.name}", config, weights)
        what = special(config) or ", ".join(sorted({key.rpartition(".")[2] for key in adapter.strange()}))
        body = _overlay(target, folder, base, config)
        if what:
            _merge_by_peft(adapter.name, what, home, base, config, body)
        else:
            _merge(adapter, base, body)
        labels = next((len(v) for k, v in adapter.whole.items() if k.endswith(HEADS) and v.ndim == 2), None)
        _describe(body, _task(config), labels)
        console.log.info("%s: adapter of %s, merged in float32", name, base.name)
        sources = (base.digest(), sha256(weights), sha256(home / ADAPTER_CONFIG))
        yield dataclasses.replace(find(scratch), name=name, base=base.base or base.name, sources=sources)


@contextlib.contextmanager
def _base(
    name: str, folder: Path, config: dict[str, Any], allow_pickle: bool, asked: str | None
) -> Iterator[Checkpoint]:
    """The base's checkpoint: the one asked for, the weights beside the adapter, or the one its config names."""
    beside = (folder / "config.json").is_file() and any(folder.glob("model*.safetensors"))
    named = adapter_base(folder)
    if asked is None and beside:
        if named and Path(named).is_dir() and Path(named).resolve() != folder.resolve():
            console.log.warning(
                "%s: an adapter beside the weights of its base; its config names %s, which is not read",
                name,
                named,
            )
        plain = find(str(folder), adapters=True)
        yield dataclasses.replace(plain, name=named or name)
        return
    wanted = asked or named
    if not wanted:
        raise MissingResourceError(f"{name}: an adapter whose config names no base: give --base MODEL")
    revision = config.get("revision") if asked is None and not Path(wanted).is_dir() else None
    with contextlib.ExitStack() as stack:
        try:
            base = stack.enter_context(opened(wanted, revision, allow_pickle))
        except SparringError as error:
            hint = "" if asked else "; --base MODEL names another place"
            raise type(error)(f"{name}: adapter of {wanted}: {error}{hint}") from None
        yield base


def _read(name: str, config: dict[str, Any], path: Path) -> Adapter:
    from safetensors.torch import load_file

    adapter = Adapter(name, config)
    adapter.take(load_file(path))
    return adapter


def _task(config: dict[str, Any]) -> str:
    return str(config.get("task_type") or "")


def _overlay(target: Path, folder: Path, base: Checkpoint, config: dict[str, Any]) -> Path:
    """Links every file but the transformer's weights, the adapter's before the base's; returns its new folder."""
    own = (folder / "config.json").is_file()  # as those have that are trained here
    replaced = own or (_task(config) == "SEQ_CLS" and not base.architecture.endswith("ForSequenceClassification"))
    if (folder / MODULES).is_file():  # the adapter's folder is a model of sentence-transformers
        inner = read_layout(folder).body
        _link(folder, folder / inner, target)
        _link(base.body, base.body, target / inner, deep=False)
    elif replaced:  # a head of its own: whatever the base's modules do is not asked for
        inner = ""
        _link(folder, folder, target, deep=False)
        _link(base.body, base.body, target, deep=False, left_out=LIBRARY)
    else:
        inner = base.layout.body
        _link(folder, folder, target / inner, deep=False)
        _link(base.folder, base.body, target)
    return target / inner


def _link(origin: Path, body: Path, target: Path, deep: bool = True, left_out: tuple[str, ...] = ()) -> None:
    """Links what a folder holds (``deep``: its modules too) but the weights in ``body`` and what exists."""
    for path in sorted([*origin.glob("*"), *(origin.glob("[0-9]*_*/*") if deep else [])]):
        own = target / path.relative_to(origin)
        weights = path.parent == body and WHOLE.fullmatch(path.name)
        if path.is_file() and not (weights or path.name in left_out or own.exists()):
            own.parent.mkdir(parents=True, exist_ok=True)
            own.symlink_to(path.resolve())


def _merge(adapter: Adapter, base: Checkpoint, target: Path) -> None:
    """Writes the base's weights with the adapter in them; files that it does not touch are linked."""
    from safetensors import safe_open
    from safetensors.torch import load_file, save_file

    held: dict[Path, list[str]] = {}
    for path in base.weights:
        with safe_open(path, "pt") as stream:
            held[path] = list(stream.keys())
    front = adapter.align(name for names in held.values() for name in names)
    names = {front + name for found in held.values() for name in found}
    if absent := sorted(name for name in adapter.factors if name not in names):
        raise InputError(
            f"{adapter.name}: the base has no {absent[0]}"
            + (f" (and {len(absent) - 1} more)" if absent[1:] else "")
        )
    new = {name: value.contiguous() for name, value in adapter.whole.items() if name not in names}
    changed = {*adapter.factors, *adapter.whole}
    where: dict[str, str] = {}
    for path, found in held.items():
        where |= {front + name: path.name for name in found}
        alone = len(held) == 1  # transformers reads a file called model.safetensors before any index
        if not front and not changed.intersection(found) and not (alone and new):
            (target / path.name).symlink_to(path.resolve())
            continue
        state = {front + name: value for name, value in load_file(path).items()}
        for name in changed.intersection(state):
            state[name] = adapter.merged(name, state[name])
        if alone:
            state |= new
        save_file(state, target / path.name, {"format": "pt"})
    if new and len(held) > 1:
        extra = "model-adapter.safetensors"
        save_file(new, target / extra, {"format": "pt"})
        where |= dict.fromkeys(new, extra)
    if len(set(where.values())) > 1:
        content = {"metadata": {}, "weight_map": where}
        (target / "model.safetensors.index.json").write_text(json.dumps(content), encoding="utf-8")


def _merge_by_peft(
    name: str, what: str, folder: Path, base: Checkpoint, config: dict[str, Any], target: Path
) -> None:
    """What is more than plain LoRA, merged by peft's own code."""
    try:
        from peft import PeftModel
    except ImportError:
        raise MissingPrerequisiteError(f"{name}: peft merges it ({what}): pip install peft") from None
    import torch
    import transformers

    kind = "AutoModelForSequenceClassification" if _task(config) == "SEQ_CLS" else base.architecture
    options: dict[str, Any] = {}
    if _task(config) == "SEQ_CLS":
        options["num_labels"] = _labels(folder) or 1
    auto = getattr(transformers, kind or "AutoModel", transformers.AutoModel)
    try:
        with console.quiet_transformers():
            module: Any = auto.from_pretrained(
                base.body, dtype=torch.float32, use_safetensors=True, local_files_only=True, **options
            )
            merged = PeftModel.from_pretrained(module, str(folder)).merge_and_unload()
            merged.save_pretrained(target / "merged")
    except (ValueError, TypeError, AttributeError, NotImplementedError, RuntimeError, KeyError, OSError) as error:
        raise InputError(f"{name}: {what} cannot be merged into its base: {error}") from None
    for path in (target / "merged").glob("model*"):
        path.rename(target / path.name)
    shutil.rmtree(target / "merged")


def _labels(folder: Path) -> int | None:
    from safetensors import safe_open

    with safe_open(folder / WEIGHTS, "pt") as stream:
        found = [key for key in stream.keys() if key.endswith(HEADS)]  # noqa: SIM118
        return int(stream.get_slice(found[0]).get_shape()[0]) if found else None


def _describe(target: Path, task: str, labels: int | None) -> None:
    """The base's config, as a classifier's where the adapter puts a head on it."""
    path = target / "config.json"
    config = read_json(path)
    if task == "SEQ_CLS":
        old = str((config.get("architectures") or [""])[0])
        config["architectures"] = [re.sub(r"(For\w+|LMHeadModel|Model)$", "ForSequenceClassification", old)]
        if labels is not None:
            config["id2label"] = {str(i): f"LABEL_{i}" for i in range(labels)}
            config["label2id"] = {f"LABEL_{i}": i for i in range(labels)}
            config.pop("num_labels", None)
    path.unlink()
    path.write_text(json.dumps(config), encoding="utf-8")
