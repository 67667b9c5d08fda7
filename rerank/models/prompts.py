"""Prompts with {query}, {a} and {b} as templates: pieces tokenised alone that join to the whole string.

A byte-level BPE splits text into words before it merges: a word keeps the space before it, and punctuation the
line ends after it. So what stands around a placeholder and may belong to the text is tokenised with the text;
where the text is cut, what stood after it is put back.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from ..engine.templates import Constant, Slot, Template, Text
from ..errors import InputError, UsageError

PLACEHOLDER = re.compile(r"\{(query|a|b)\}")
BEFORE = re.compile(r"[^\S\r\n]*[^\w\s]*$")
AFTER = re.compile(r"^[^\w\s{]*[\r\n]*")
SHORT = 16  # characters of a literal that is tokenised with its text whatever the tokenizer splits at


def check_placeholders(prompt: str, expected: Sequence[str]) -> None:
    """Raises ValueError unless every expected placeholder stands in the prompt once, the query before passages."""
    found = [match.group(1) for match in PLACEHOLDER.finditer(prompt)]
    if sorted(found) != sorted(expected):
        names = ", ".join(f"{{{name}}}" for name in expected)
        raise ValueError(f"the prompt must hold {names}, each once")


def prompt_template(tokenizer: Any, pieces: Sequence[str], bos: bool = False, strip: bool = False) -> Template:
    """The template of a prompt, given as pieces that are tokenised apart; special tokens may be spelled out.

    Args:
        bos: put the tokenizer's beginning-of-sequence token first.
        strip: take the white space around the texts away.
    """
    slots: list[Slot] = []
    ids: list[int] = [int(tokenizer.bos_token_id)] if bos else []
    added = tuple(tokenizer.get_added_vocab())  # these are split off before anything else
    for piece in pieces:
        parts = PLACEHOLDER.split(piece)  # literal, name, literal, name, ..., literal
        alone = len(parts) == 3 and not parts[2] and len(parts[0]) <= SHORT
        rest = parts[0]
        for name, following in zip(parts[1::2], parts[2::2], strict=True):
            prefix = rest if alone else "" if rest.endswith(added) else _found(BEFORE, rest)
            suffix = "" if following.startswith(added) else _found(AFTER, following)
            ids += _ids(tokenizer, rest[: len(rest) - len(prefix)])
            if ids:
                slots.append(Constant(tuple(ids)))
            ids = []
            role, index = ("query", 0) if name == "query" else ("passage", "ab".index(name))
            slots.append(Text(role, index, prefix=prefix, suffix=suffix, strip=strip))  # type: ignore[arg-type]
            if suffix:
                slots.append(Constant(tuple(_ids(tokenizer, suffix)), after_cut=len(slots) - 1))
            rest = following[len(suffix) :]
        ids += _ids(tokenizer, rest)
    if ids:
        slots.append(Constant(tuple(ids)))
    first = next(slot for slot in slots if isinstance(slot, Text))
    return Template(tuple(slots), by_query=first.role == "query")


def _found(pattern: re.Pattern[str], text: str) -> str:
    match = pattern.search(text)
    return match.group() if match else ""


def _ids(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False)["input_ids"]) if text else []


def chat_prompt(tokenizer: Any, prompt: str) -> str | None:
    """The prompt as the user's turn in the tokenizer's chat template, the answer to begin; None without one."""
    if not tokenizer.chat_template:
        return None
    turns = [{"role": "user", "content": prompt}]
    try:
        text = tokenizer.apply_chat_template(
            turns, tokenize=False, add_generation_prompt=True, enable_thinking=False
        )
    except (ValueError, TypeError) as error:
        raise UsageError(f"the tokenizer's chat template does not take a single user turn: {error}") from None
    return str(text)


def own_chat(tokenizer: Any, name: str) -> str:
    """The prompt of a tokenizer's own chat template, {query} as the system's turn and {a} as the user's.

    Raises InputError where there is no template, or it does not hold both once.
    """
    from jinja2 import TemplateError  # transformers fills chat templates by it

    if not tokenizer.chat_template:
        raise InputError(f"{name}: its tokenizer has no chat template, which says how this model is asked")
    turns = [{"role": "system", "content": "{query}"}, {"role": "user", "content": "{a}"}]
    try:
        text = str(tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True))
        check_placeholders(text, ("query", "a"))
    except (ValueError, TypeError, TemplateError) as error:
        raise InputError(f"{name}: its chat template does not take a query and a document: {error}") from None
    return text


def check_joins(tokenizer: Any, template: Template, prompt: str, name: str) -> None:
    """Raises InputError where the pieces of a template do not join to the tokens of the whole prompt.

    So it is with SentencePiece, which puts a space before every piece; what was trained on whole strings would
    then be asked in other tokens.
    """
    sample = {"query": "what is a river?", "passage": "A large, natural stream of water (1 of 3)."}
    whole = tokenizer(prompt.format(query=sample["query"], a=sample["passage"]))["input_ids"]
    found: list[int] = []
    for slot in template.slots:
        if isinstance(slot, Text):
            found += _ids(tokenizer, slot.render(sample[slot.role]))
        elif slot.after_cut is None:
            found += slot.ids
    if found != list(whole):
        raise InputError(
            f"{name}: its tokenizer does not split the prompt where query and document begin and end, and would "
            "read other tokens than the model was trained on"
        )


def answer_ids(tokenizer: Any, words: Sequence[str | int]) -> list[int]:
    """The single token of each answer; raises UsageError where an answer is none, or two answers are the same.

    A number is the id of a token.
    """
    found: list[int] = []
    for word in words:
        if isinstance(word, int):
            found.append(word)
            continue
        spellings = [_ids(tokenizer, text) for text in dict.fromkeys((word, word.strip()))]
        single = next((ids[0] for ids in spellings if len(ids) == 1), None)
        if single is None or single == tokenizer.unk_token_id:
            raise UsageError(f"{word!r} is not a single token of this model: choose other answers")
        found.append(int(single))
    if len(set(found)) < len(found):
        raise UsageError(f"the answers {' and '.join(map(repr, words))} begin with the same token")
    return found
