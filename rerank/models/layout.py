"""What a model's folder is, read from all of its configs together, before anything is loaded.

A folder of sentence-transformers has ``modules.json`` (its modules in order, each with a folder and a config) and
``config_sentence_transformers.json`` (``model_type``: what the modules are for). The same modules make embeddings
in one model and scores in another: neither file decides alone. A folder without both is one of transformers.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from ..errors import InputError

MODULES, SETTINGS = "modules.json", "config_sentence_transformers.json"
ROUTER = "router_config.json"
TRANSFORMER = "Transformer"
_OLD = ("roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
BODY_CONFIGS = ("sentence_bert_config.json", *(f"sentence_{body}_config.json" for body in _OLD))
"""Configs of the transformer module, beside its weights; the first that exists is read."""
LIBRARY = "sentence_transformers."
ROUTERS = frozenset({"Router", "Asym"})
SPARSE = frozenset(
    {"SpladePooling", "SparseAutoEncoder", "CSRSparsity", "SparseStaticEmbedding", "MLMTransformer"}
)
MULTI_VECTOR = frozenset({"MultiVectorMask", "TokenPooling"})
EMBEDDING = frozenset(
    {"Pooling", "Dense", "Normalize", "LayerNorm", "Dropout", "WeightedLayerPooling", "CNN", "LSTM"}
)
"""Modules that may follow the transformer of a bi-encoder."""
SCORES = "scores"
"""The output of a module that ends a CrossEncoder."""
SENSES = ("vision_config", "audio_config")
"""Keys of a ``config.json`` that only models of images or sounds have."""


class Kind(StrEnum):
    """What a folder is; `PLAIN` is a checkpoint of transformers, and says no more than its ``config.json``."""

    PLAIN = "plain"
    CROSS_ENCODER = "cross_encoder"
    BI_ENCODER = "bi_encoder"
    SPARSE = "sparse"
    MULTI_VECTOR = "multi_vector"
    ROUTER = "router"
    OTHER = "other"


@dataclass(frozen=True, slots=True)
class Module:
    """One module of sentence-transformers: the name of its class, its folder (empty: the model's), its config."""

    name: str
    path: str
    config: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Layout:
    """What a folder is.

    Args:
        kind: the kind of model.
        what: the same in words, with an article, as errors name it.
        modules: of ``modules.json``, in order.
        settings: ``config_sentence_transformers.json``.
    """

    kind: Kind = Kind.PLAIN
    what: str = "a checkpoint of transformers"
    modules: tuple[Module, ...] = ()
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def body(self) -> str:
        """The sub-folder of the transformer; empty where it lies at the top."""
        return next((module.path for module in self.modules if module.name == TRANSFORMER), "")

    @property
    def only_a_classifier(self) -> bool:
        """Whether it is a CrossEncoder of one transformer with its own head, and neither prompt nor chat template.

        Such a folder scores as the same checkpoint without its modules does.
        """
        if self.kind is not Kind.CROSS_ENCODER or len(self.modules) > 1:
            return False
        config = self.modules[0].config
        chat = "message" in config.get("modality_config", {})
        prompted = self.settings.get("default_prompt_name") is not None
        return config.get("transformer_task") == "sequence-classification" and not chat and not prompted


def read_layout(folder: Path) -> Layout:
    """What the folder holds.

    Raises InputError where one of its JSON files is damaged, or not a list or object as it should be.
    """
    settings = read_json(folder / SETTINGS) if (folder / SETTINGS).is_file() else {}
    if not (folder / MODULES).is_file():
        return _without_modules(folder, settings)
    entries = _entries(folder / MODULES)
    modules = tuple(_module(folder, kind, path) for kind, path in entries)
    body = next((module.path for module in modules if module.name == TRANSFORMER), "")
    path = folder / body / "config.json"
    config = read_json(path) if path.is_file() else {}
    kind, what = _named([kind for kind, _ in entries], modules, settings, config)
    return Layout(kind, what, modules, settings)


def _without_modules(folder: Path, settings: dict[str, Any]) -> Layout:
    config = read_json(folder / "config.json") if (folder / "config.json").is_file() else {}
    if (folder / ROUTER).is_file():
        return Layout(Kind.ROUTER, "a Router of sentence-transformers without its modules.json", (), settings)
    if late := _late_interaction(config, settings):
        return Layout(Kind.MULTI_VECTOR, late, (), settings)
    if senses := _multi_modal(config):
        return Layout(Kind.OTHER, senses, (), settings)
    if settings:
        declared = settings.get("model_type", "SentenceTransformer")
        return Layout(Kind.OTHER, f"a {declared} of sentence-transformers without its {MODULES}", (), settings)
    return Layout()


def _named(
    types: list[str], modules: tuple[Module, ...], settings: dict[str, Any], config: dict[str, Any]
) -> tuple[Kind, str]:
    """Kind and words of a folder with modules; what the modules say comes before what the settings call them."""
    names = [module.name for module in modules]
    declared = str(settings.get("model_type") or "SentenceTransformer")
    listed = f"({', '.join(names)})"
    found = set(names)
    if found & ROUTERS:
        return Kind.ROUTER, f"a {declared} of sentence-transformers with a Router, one path per task"
    foreign = [kind for kind in types if not kind.startswith(LIBRARY)]
    if late := _late_interaction(config, settings):
        return Kind.MULTI_VECTOR, late
    tasks = {module.config.get("transformer_task") for module in modules}
    if found & MULTI_VECTOR or "retrieval" in tasks or any(kind.startswith("pylate.") for kind in foreign):
        return Kind.MULTI_VECTOR, f"a multi-vector model (ColBERT) of sentence-transformers {listed}"
    if foreign:
        return Kind.OTHER, f"a {declared} with modules of remote code ({foreign[0]})"
    if declared == "SparseEncoder" or found & SPARSE:
        return Kind.SPARSE, f"a SparseEncoder of sentence-transformers {listed}"
    if senses := _multi_modal(config) or ("any-to-any" in tasks and "a multi-modal model, which is out of scope"):
        return Kind.OTHER, senses
    if declared not in ("CrossEncoder", "SentenceTransformer"):
        return Kind.OTHER, f"a {declared} of sentence-transformers {listed}"
    if names[:1] != [TRANSFORMER] or names.count(TRANSFORMER) > 1:
        return (
            Kind.OTHER,
            f"a {declared} of sentence-transformers that does not begin with one Transformer {listed}",
        )
    if declared == "CrossEncoder":
        return Kind.CROSS_ENCODER, f"a CrossEncoder of sentence-transformers {listed}"
    if _scores(modules):
        return Kind.OTHER, (
            f"a folder whose modules {listed} give scores, but {SETTINGS} does not call it a CrossEncoder"
        )
    if "Pooling" not in found or found - EMBEDDING - {TRANSFORMER}:
        return Kind.OTHER, f"a SentenceTransformer of other modules than a transformer with pooling {listed}"
    return Kind.BI_ENCODER, f"a bi-encoder (SentenceTransformer {listed})"


def _scores(modules: tuple[Module, ...]) -> bool:
    """Whether the last of these modules can only be that of a CrossEncoder."""
    task = modules[0].config.get("transformer_task", "feature-extraction")
    outputs = {module.config.get("module_output_name") for module in modules}
    return SCORES in outputs or modules[-1].name == "LogitScore" or task not in ("feature-extraction", "fill-mask")


def _late_interaction(config: dict[str, Any], settings: dict[str, Any]) -> str:
    """The words for a multi-vector model, by what its configs call it; else empty."""
    architecture = str((config.get("architectures") or [""])[0])
    if settings.get("model_type") in ("MultiVectorEncoder", "ColBERT"):
        return f"a multi-vector model (ColBERT; {settings['model_type']} of sentence-transformers or PyLate)"
    if architecture == "HF_ColBERT" or architecture.endswith("ForRetrieval"):
        return f"a multi-vector model ({architecture})"
    if str(settings.get("similarity_fn_name") or "").lower() in ("maxsim", "xtr"):
        return f"a multi-vector model (similarity {settings['similarity_fn_name']})"
    return ""


def _multi_modal(config: dict[str, Any]) -> str:
    if any(config.get(key) is not None for key in SENSES):
        return f"a multi-modal model ({config.get('model_type', 'of no named type')}), which is out of scope"
    return ""


def _entries(path: Path) -> list[tuple[str, str]]:
    """Class and folder of every module."""
    content = _parsed(path)
    if not isinstance(content, list) or not content:
        raise InputError(f"{path}: expected a list of modules, found {type(content).__name__}")
    found = []
    for entry in content:
        if not isinstance(entry, dict) or not isinstance(entry.get("type"), str):
            raise InputError(f"{path}: a module has no type: {entry!r:.80}")
        inner = str(entry.get("path", ""))
        if Path(inner).is_absolute() or ".." in Path(inner).parts:
            raise InputError(f"{path}: the module folder {inner!r} is outside the model's")
        found.append((entry["type"], inner))
    return found


def _module(folder: Path, kind: str, inner: str) -> Module:
    name = kind.rpartition(".")[2]
    names = BODY_CONFIGS if name == TRANSFORMER else ("config.json",) if inner else ()
    paths = [folder / inner / file for file in names]
    return Module(name, inner, next((read_json(path) for path in paths if path.is_file()), {}))


AGAIN = "delete the file and download it again (hf download NAME --force-download)"


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file; InputError where the file is damaged or holds something else."""
    content = _parsed(path)
    if not isinstance(content, dict):
        raise InputError(f"{path}: expected a JSON object, found {type(content).__name__}")
    return content


def _parsed(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise InputError(f"{path}: not valid JSON ({error}): {AGAIN}") from None
