"""Tokenizers as checkpoints hold them: a fast one, files that one is made of, or a line that says what lacks."""

from __future__ import annotations

import importlib.util
from typing import Any

from ..console import quiet_transformers
from ..errors import InputError, MissingPrerequisiteError
from .checkpoints import Checkpoint
from .layout import read_json

FAST = "tokenizer.json"
NAMELESS = ("TokenizersBackend", "PreTrainedTokenizerFast")
"""Classes that read nothing but a ``tokenizer.json``."""


def load_tokenizer(checkpoint: Checkpoint) -> Any:
    """The checkpoint's fast tokenizer, made of its vocabulary where there is no ``tokenizer.json``.

    Raises InputError where it holds none or one that cannot be made fast, MissingPrerequisiteError where that
    needs a package.
    """
    from transformers import CONFIG_MAPPING, AutoTokenizer, PreTrainedConfig

    kind: dict[str, Any] = {}
    if checkpoint.model_type not in CONFIG_MAPPING:  # transformers would trip over fields that it cannot place
        kind["config"] = PreTrainedConfig.from_dict({"tokenizer_class": checkpoint.config.get("tokenizer_class")})
    if not (checkpoint.body / FAST).is_file():
        check_tokenizer(checkpoint)
        settings = checkpoint.body / "tokenizer_config.json"
        if settings.is_file() and read_json(settings).get("tokenizer_class") in NAMELESS:
            kind["tokenizer_type"] = str(checkpoint.config.get("backbone_model_type") or checkpoint.model_type)
    try:
        with quiet_transformers():  # of architectures that it does not know it would say so
            tokenizer = AutoTokenizer.from_pretrained(
                checkpoint.body, trust_remote_code=False, local_files_only=True, **kind
            )
    except ImportError as error:
        raise MissingPrerequisiteError(f"{checkpoint.name}: its tokenizer: {_first_line(error)}") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{checkpoint.name}: its tokenizer cannot be loaded: {_first_line(error)}") from None
    return tokenizer if tokenizer.is_fast else _converted(checkpoint.name, tokenizer)


def check_tokenizer(checkpoint: Checkpoint) -> None:
    """Raises where there is nothing to make a tokenizer of: transformers would make an empty one, silently."""
    name, folder = checkpoint.name, checkpoint.body
    if (folder / FAST).is_file():
        return
    pieces = sorted([*folder.glob("*.model"), *folder.glob("*.spm")])
    words = [folder / file for file in ("vocab.txt", "vocab.json") if (folder / file).is_file()]
    if pieces and not words and importlib.util.find_spec("sentencepiece") is None:
        raise MissingPrerequisiteError(
            f"{name}: its tokenizer is a sentencepiece file ({pieces[0].name}) without a {FAST}: "
            "pip install sentencepiece"
        )
    if not pieces and not words and not any(folder.glob("*.tiktoken")):
        raise InputError(
            f"{name}: holds no tokenizer ({FAST}, vocab.txt or a sentencepiece file): copy that of the model it "
            "was fine-tuned from into the folder"
        )


def _converted(name: str, tokenizer: Any) -> Any:
    """A fast tokenizer that says the same as a slow one."""
    from transformers import PreTrainedTokenizerFast
    from transformers.convert_slow_tokenizer import convert_slow_tokenizer

    try:
        backend = convert_slow_tokenizer(tokenizer)
    except (ValueError, KeyError, ImportError, AttributeError) as error:
        raise InputError(
            f"{name}: its tokenizer {type(tokenizer).__name__} has no fast form ({_first_line(error)}): save it "
            f"once with a {FAST}"
        ) from None
    fast: Any = PreTrainedTokenizerFast
    return fast(
        tokenizer_object=backend,
        model_max_length=tokenizer.model_max_length,
        model_input_names=tokenizer.model_input_names,
        **tokenizer.special_tokens_map,
    )


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__).strip()
