"""Model families: one file each, holding everything a family's forward pass needs.

A family is a frozen dataclass in `sparring.rerank.registry.families` with ``claims(checkpoint) -> bool``, decided
from the checkpoint's config and an explicit table of names, and ``load(checkpoint) -> AnyModel``. A checkpoint can
say itself what it is: ``"sparring_family": "duo(segments=3)"`` in its ``config.json``.
"""

from __future__ import annotations

import dataclasses
import hashlib
import logging
from collections.abc import Sequence
from typing import Any, ClassVar, Protocol
from weakref import WeakKeyDictionary

from ..console import quiet_transformers
from ..engine.model import AnyModel
from ..engine.templates import Template, Truncation
from ..errors import InputError, UsageError
from ..plugins import import_modules, imported
from ..registry import families, unknown
from .adapters import opened
from .checkpoints import Checkpoint
from .layout import Kind
from .scope import advice, refuse_out_of_scope, refuse_unclaimed, remote_code
from .tokenizers import load_tokenizer as load_tokenizer

FAMILY_KEY = "sparring_family"
"""The key of ``config.json`` under which a checkpoint states its family as a spec string."""


class Family(Protocol):
    """How checkpoints of one kind are recognised and loaded."""

    spec_name: ClassVar[str]

    def claims(self, checkpoint: Checkpoint) -> bool: ...

    def load(self, checkpoint: Checkpoint) -> AnyModel: ...


@dataclasses.dataclass(frozen=True)
class Source:
    """The arguments of `load`, by which another process makes the same model."""

    name: str
    family: str | None = None
    revision: str | None = None
    allow_pickle: bool = False
    base: str | None = None
    options: tuple[tuple[str, Any], ...] = ()
    modules: tuple[str, ...] = ()

    def load(self) -> AnyModel:
        """The model, loaded anew; first what ``--import`` named, which may hold its family."""
        import_modules(self.modules)
        return load(
            self.name,
            family=self.family,
            revision=self.revision,
            allow_pickle=self.allow_pickle,
            base=self.base,
            **dict(self.options),
        )


_sources: WeakKeyDictionary[AnyModel, Source] = WeakKeyDictionary()


def source(model: AnyModel) -> Source:
    """How `load` made a model; UsageError for one that was made otherwise."""
    if model not in _sources:
        raise UsageError(f"{model.name}: only a model that is loaded by its name can run on several devices")
    return _sources[model]


def load(
    name_or_path: str,
    *,
    family: str | None = None,
    revision: str | None = None,
    max_length: int | None = None,
    allow_pickle: bool = False,
    instruction: str | None = None,
    base: str | None = None,
    **options: Any,
) -> AnyModel:
    """Loads a model: a folder, ``minilm`` (embedded), or a name on the hub; an adapter is merged into its base.

    Args:
        family: a family's spec, such as ``sequence_classification``, where the config alone does not decide.
        revision: branch, tag or commit on the hub.
        max_length: tokens of one input sequence; by default what the checkpoint allows.
        allow_pickle: read the tensors of pickled weights where there are no safetensors.
        instruction: what to judge by, for models that are told.
        base: the model that an adapter belongs to, where its config names none or another is wanted.
        options: further options of the family.

    Raises:
        UsageError: no family or several claim the checkpoint, an option is unknown, or it takes no instruction.
        MissingResourceError: the model cannot be found.
        InputError: its files are damaged or its head is untrained.
    """
    if max_length is not None:
        options["max_length"] = max_length
    with opened(name_or_path, revision, allow_pickle, base) as checkpoint:
        chosen = families.parse(family) if family else claimant(checkpoint)
        if instruction is not None:
            if "instruction" not in _options(chosen):
                raise UsageError(
                    f"{name_or_path}: family {chosen.spec_name} takes no instruction: leave --instruction out"
                )
            options["instruction"] = instruction
        model: AnyModel = _with_options(chosen, options).load(checkpoint)
    _sources[model] = Source(
        name_or_path, family, revision, allow_pickle, base, tuple(options.items()), imported()
    )
    return model


def fingerprint(checkpoint: Checkpoint, template: Template, truncation: Truncation, *more: object) -> str:
    """The key of a model's outcomes: weights, config, template, truncation and whatever else changes a score."""
    parts = [checkpoint.digest(), repr(template), repr(truncation), *map(repr, more)]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def clamp_length(asked: int | None, limit: int, *defaults: object) -> int:
    """The tokens of one sequence: what was asked, else the least of the defaults, never beyond the position table.

    Raises UsageError where more was asked than the position table holds.
    """
    if asked is None:
        known = [value for value in defaults if isinstance(value, int) and 0 < value < 1_000_000]
        return min([limit, *known])
    if not 8 <= asked <= limit:
        raise UsageError(f"max_length {asked} is outside 8 .. {limit}, what the model's position table holds")
    return asked


def load_pretrained(auto: Any, checkpoint: Checkpoint, **options: Any) -> Any:
    """``auto.from_pretrained`` from safetensors, in fp32, without remote code; every weight must be in the file.

    Raises InputError naming the weights that the file lacks or that have another shape, and the family to try.
    """
    import torch

    try:
        with quiet_transformers(logging.CRITICAL):  # the report of missing weights is ours, as an error
            module, info = auto.from_pretrained(
                checkpoint.body,
                output_loading_info=True,
                use_safetensors=True,
                trust_remote_code=False,
                local_files_only=True,
                dtype=torch.float32,
                **options,
            )
    except RuntimeError as error:
        raise InputError(f"{checkpoint.name}: weights do not fit the config: {error}") from None
    except (ValueError, KeyError, OSError) as error:
        raise InputError(f"{checkpoint.name}: cannot be loaded as {auto.__name__}: {error}") from None
    missing = sorted(info["missing_keys"])
    mismatched = sorted(str(key[0] if isinstance(key, tuple) else key) for key in info["mismatched_keys"])
    if missing or mismatched:
        what = (
            f"lacks {', '.join(missing[:4])}" if missing else f"has another shape for {', '.join(mismatched[:4])}"
        )
        raise InputError(
            f"{checkpoint.name}: the checkpoint {what}: these weights would be random. It is not a reranker of "
            f"this family: fine-tune it first, or choose another --family ({', '.join(families.names())})"
        )
    return module.eval()


EMBEDDERS = ("Model", "ForMaskedLM", "ForPreTraining")
"""Ends of the architectures whose last layer can be pooled; what ends otherwise has a head made for scores."""


def check_embeds(checkpoint: Checkpoint) -> None:
    """Raises InputError, naming what it is, for a model whose embeddings were not made to be compared.

    A plain encoder passes: mean pooling of its last layer is assumed.
    """
    if checkpoint.layout.kind is Kind.BI_ENCODER:
        return
    what = checkpoint.layout.what
    if checkpoint.plain:
        stated, architecture = checkpoint.config.get(FAMILY_KEY), checkpoint.architecture
        if stated is None and (not architecture or architecture.endswith(EMBEDDERS)):
            return
        what = f"a reranker ({stated or architecture})"
    raise InputError(f"{checkpoint.name} is {what}, not a bi-encoder: it has no embeddings to compare")


def claimant(checkpoint: Checkpoint) -> Any:
    """The family that a checkpoint states, or the one that claims it; UsageError where none or several do."""
    stated = checkpoint.config.get(FAMILY_KEY)
    if stated is not None:
        chosen = families.parse(str(stated))
        if checkpoint.plain or chosen.claims(checkpoint):
            return chosen
        raise UsageError(
            f"{checkpoint.name}: its config.json states {FAMILY_KEY} {str(stated)!r}, but the folder is "
            f"{checkpoint.layout.what}: choose one with --family"
        )
    refuse_out_of_scope(checkpoint)
    claims = [name for name, cls in families if cls().claims(checkpoint)]
    if len(claims) == 1:
        return families.parse(claims[0])
    seen = f"model_type {checkpoint.model_type!r}, architecture {checkpoint.architecture!r}"
    if remote := remote_code(checkpoint):
        seen += f", remote code {remote}, which is never run"
    if claims:
        raise UsageError(f"{checkpoint.name} ({seen}) could be {' or '.join(claims)}: choose one with --family")
    refuse_unclaimed(checkpoint)
    if not checkpoint.plain:
        raise InputError(f"{checkpoint.name} is {checkpoint.layout.what}: no family of rerankers runs that")
    raise UsageError(f"{checkpoint.name} ({seen}) is of no known family: {advice(checkpoint)}")


def _with_options(family: Any, options: dict[str, Any]) -> Any:
    known = _options(family)
    for option in options:
        if option not in known:
            raise UsageError(unknown(f"option of {family.spec_name}", option, known))
    try:
        return dataclasses.replace(family, **options)
    except ValueError as error:
        raise UsageError(f"{family.spec_name}: {error}") from None


def _options(family: Any) -> Sequence[str]:
    return [field.name for field in dataclasses.fields(family) if field.init]
