"""What the configs of a CrossEncoder's transformer say of its input: task, chat template, prompt, lengths.

Keys that would change a score and are not known here are refused, never passed over.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

from ....errors import InputError, UsageError
from ...checkpoints import Checkpoint

DEFAULT_TASK = "feature-extraction"
TASKS = {
    DEFAULT_TASK: ("last_hidden_state", "token_embeddings"),
    "sequence-classification": ("logits", "scores"),
    "text-generation": ("logits", "causal_logits"),
}
"""What a transformer of each task computes, and under which name the next module finds it."""
BODY_KEYS = frozenset(
    {
        "transformer_task", "modality_config", "module_output_name", "processing_kwargs", "max_seq_length",
        "do_lower_case", "unpad_inputs", "query_length", "document_length", "query_expansion",
    }
)  # fmt: skip
"""Lengths and expansion by task (the last three) are for embeddings alone: a pair has no task."""
KEPT = {
    "model": {"dtype", "torch_dtype", "attn_implementation", "device_map", "low_cpu_mem_usage", "use_safetensors"},
    "tokenizer": {"model_max_length", "use_fast", "padding_side"},
    "config": {"use_cache", "torch_dtype", "dtype"},
}
"""Arguments of ``from_pretrained`` that change no score in fp32."""
OLD_NAMES = {"model": "model_args", "tokenizer": "tokenizer_args", "config": "config_args"}
NEW_NAMES = {"model": "model_kwargs", "tokenizer": "processor_kwargs", "config": "config_kwargs"}
CALL_KEYS = {"padding", "truncation", "max_length", "padding_side", "pad_to_multiple_of", "return_tensors"}
CHAT_ONLY = CALL_KEYS | {"restore_suffix"}
FLAT_MODELS = frozenset({"apertus", "deepseek_v3", "gpt_oss", "seed_oss"})
STRUCTURED = ("content[0]", ".type", "'type'", '"type"', "message.content[")
"""Signs in a chat template that the content of a message is a list of parts."""


@dataclass(frozen=True, slots=True)
class Reading:
    """How the transformer of a CrossEncoder reads its input.

    Args:
        task: of transformers, a key of `TASKS`.
        output: the name under which its result is kept.
        chat: whether the input is written by the tokenizer's chat template, not as a pair of texts.
        form: ``flat`` or ``structured`` messages; ``auto``: as the template looks.
        variables: of the chat template, beside its messages.
        lengths: tokens of one input, as far as the folder says; the least counts.
        own_length: whether these replace what the tokenizer says.
        lower: whether the text is lower-cased first.
    """

    task: str
    output: str
    chat: bool = False
    form: str = "auto"
    variables: dict[str, Any] = field(default_factory=dict)
    lengths: tuple[int, ...] = ()
    own_length: bool = False
    lower: bool = False


def reading(checkpoint: Checkpoint) -> Reading:
    """How the first module of a CrossEncoder reads; InputError for what this family does not know."""
    config = checkpoint.layout.modules[0].config
    where = f"{checkpoint.name}: the transformer's config"
    _check(config, BODY_KEYS | set(OLD_NAMES.values()) | set(NEW_NAMES.values()), where)
    task = config.get("transformer_task", DEFAULT_TASK)
    if task not in TASKS:
        raise InputError(f"{where} has the task {task!r}; known: {', '.join(TASKS)}")
    arguments = {}
    for what, kept in KEPT.items():
        arguments[what] = config.get(NEW_NAMES[what]) or config.get(OLD_NAMES[what]) or {}
        _check(arguments[what], kept, f"{where}, {NEW_NAMES[what]},")
    result, name = TASKS[task]
    modalities = config.get("modality_config", {"text": {"method_output_name": result}})
    chat = "message" in modalities
    entry = modalities.get("message" if chat else "text")
    if entry is None:
        raise InputError(f"{where} takes no text, only {', '.join(modalities)}")
    if entry.get("method", "forward") != "forward" or _single(entry.get("method_output_name")) != result:
        raise InputError(f"{where} reads {entry}, expected {result} of forward")
    processing = config.get("processing_kwargs") or {}
    texts = {**(processing.get("common") or {}), **(processing.get("text") or {})}
    variables = dict(processing.get("chat_template") or {})
    _check(texts, CALL_KEYS | {"logits_to_keep", "return_attention_mask"}, f"{where}, processing_kwargs,")
    own = (config.get("max_seq_length"), arguments["tokenizer"].get("model_max_length"))
    calls = (texts.get("max_length"), variables.get("max_length") if chat else None)
    return Reading(
        task=task,
        output=config.get("module_output_name") or name,
        chat=chat,
        form=str(entry.get("format", "auto")),
        variables={key: value for key, value in variables.items() if key not in CHAT_ONLY},
        lengths=tuple(int(value) for value in (*own, *calls) if value is not None),
        own_length=any(value is not None for value in own),
        lower=bool(config.get("do_lower_case", False)),
    )


def _check(given: dict[str, Any], known: Collection[str], where: str) -> None:
    unknown = sorted(set(given) - set(known))
    if unknown:
        raise InputError(f"{where} sets {', '.join(unknown)}, which this family does not know")


def _single(name: Any) -> Any:
    return name[0] if isinstance(name, list) and len(name) == 1 else name


def prompt_of(checkpoint: Checkpoint, name: str | None, off: bool) -> str:
    """The prompt before every query: the one called ``name``, else the folder's default; none with ``off``.

    Raises UsageError for an unknown name, InputError where the folder's default is none of its prompts.
    """
    prompts = {
        str(key): str(text or "") for key, text in (checkpoint.layout.settings.get("prompts") or {}).items()
    }
    default = checkpoint.layout.settings.get("default_prompt_name")
    if default is not None and default not in prompts:
        raise InputError(
            f"{checkpoint.name}: its default prompt {default!r} is none of its prompts ({_listed(prompts)})"
        )
    if off:
        if name is not None:
            raise UsageError("--prompt-name and --no-prompt exclude each other")
        return ""
    if name is not None and name not in prompts:
        raise UsageError(f"{checkpoint.name} has no prompt {name!r} ({_listed(prompts)})")
    chosen = default if name is None else name
    return "" if chosen is None else prompts[chosen]


def _listed(prompts: dict[str, str]) -> str:
    return f"it has {', '.join(sorted(prompts))}" if prompts else "it has none"


def message_form(asked: str, template: str, model_type: str) -> str:
    """``flat`` or ``structured``; ``auto`` is decided as sentence-transformers does, by the template's text."""
    if asked != "auto":
        return asked
    if model_type in FLAT_MODELS:
        return "flat"
    return "structured" if any(sign in template for sign in STRUCTURED) else "flat"
