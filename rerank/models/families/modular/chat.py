"""A chat template with the roles query and document as slots: what it writes around the two texts.

The template is a program; what it writes is learned by rendering it. Two unlikely texts show where query and
passage stand, other texts that it does nothing else with them. Pieces are then tokenised apart, and a template is
taken only if its pieces give the very tokens of the whole string, for texts with edges of every kind.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from jinja2 import TemplateError

from ....engine.templates import Constant, Slot, Template, Text
from ....engine.token_store import TokenStore
from ....errors import InputError
from ...prompts import AFTER, BEFORE
from .settings import Reading, message_form

QUERY, PASSAGE = "\ue010query\ue011", "\ue012passage\ue013"
LONG = 4096
PROBES = (
    ("what is coffee", "Coffee is a drink."),
    ("Who wrote it?", "(1999) a list: first, second; third!"),
    ("rivers", ""),
    ("", "mountain"),
    ("'s 2 rivers", "42"),
    ("n\u00e4chste Stra\u00dfe", "\u4e2d\u6587 \u2013 \u00e9t\u00e9"),
    ("two\nlines", "ends with a line\n"),
    ("  spaces  ", "\n\n lines and spaces \n"),
    ("ends: ", "- begins with a mark"),
    ("long", "word " * 800),
)
"""Queries and passages by which a template is tried."""
SPACES = (re.compile(r"(?:(?<!\s) |^)\S*$"), re.compile(r"^[^ ]*"))
"""What stands before and after a text up to the next single space, where tokenizers of every kind begin a word."""


def chat_template(name: str, tokenizer: Any, reading: Reading, model_type: str, prompt: str) -> Template:
    """The slots of the tokenizer's own chat template.

    Args:
        name: of the model, for errors.
        prompt: what the system says; empty: no such message.

    Raises:
        InputError: the template drops or doubles a text, changes it, or does not come apart into pieces.
    """
    source = tokenizer.chat_template
    if not source:
        raise InputError(f"{name}: it is asked through a chat template, but its tokenizer has none")
    form = message_form(reading.form, str(source), model_type)
    chat = _Chat(name, tokenizer, form, reading.variables, prompt)
    whole = chat.render(QUERY, PASSAGE)
    for role, mark in (("query", QUERY), ("document", PASSAGE)):
        if whole.count(mark) != 1:
            how = "drops" if mark not in whole else "repeats"
            raise InputError(f"{name}: its chat template {how} the {role} of a pair")
    marks = sorted((QUERY, PASSAGE), key=whole.index)
    literals = [part for part in re.split("|".join(map(re.escape, marks)), whole)]
    stripped = {
        QUERY: chat.render(f" {QUERY}\n", PASSAGE) == whole,
        PASSAGE: chat.render(QUERY, f" {PASSAGE}\n") == whole,
    }
    for query, passage in PROBES:
        texts = {QUERY: query.strip() if stripped[QUERY] else query}
        texts[PASSAGE] = passage.strip() if stripped[PASSAGE] else passage
        expected = literals[0] + texts[marks[0]] + literals[1] + texts[marks[1]] + literals[2]
        if chat.render(query, passage) != expected:
            raise InputError(
                f"{name}: its chat template does more with texts than to write them ({passage[:20]!r})"
            )
    for before, after in ((BEFORE, AFTER), SPACES):
        template = _pieces(tokenizer, literals, marks, stripped, before, after)
        if all(_tokens(tokenizer, template, *pair) == chat.tokens(*pair) for pair in PROBES):
            return template
    raise InputError(
        f"{name}: its chat template cannot be tokenised in pieces: a text grows into what is beside it"
    )


class _Chat:
    """The messages of a pair, rendered by a tokenizer."""

    def __init__(self, name: str, tokenizer: Any, form: str, variables: dict[str, Any], prompt: str) -> None:
        self.name, self.tokenizer, self.flat = name, tokenizer, form == "flat"
        self.variables, self.prompt = variables, prompt

    def render(self, query: str, passage: str) -> str:
        """The whole string of a pair."""
        turns = [("system", self.prompt)] if self.prompt else []
        turns += [("query", query), ("document", passage)]
        messages = [{"role": role, "content": self._content(text)} for role, text in turns]
        try:
            return str(self.tokenizer.apply_chat_template(messages, tokenize=False, **self.variables))
        except (TemplateError, ValueError, TypeError, KeyError, IndexError) as error:
            raise InputError(f"{self.name}: its chat template does not take a pair: {error}") from None

    def tokens(self, query: str, passage: str) -> list[int]:
        """The tokens of the whole string."""
        return _ids(self.tokenizer, self.render(query, passage))

    def _content(self, text: str) -> Any:
        return text if self.flat else [{"type": "text", "text": text}]


def _pieces(
    tokenizer: Any,
    literals: Sequence[str],
    marks: Sequence[str],
    stripped: dict[str, bool],
    before: re.Pattern[str],
    after: re.Pattern[str],
) -> Template:
    """The slots; what ``before`` and ``after`` find at the edges of a literal is left to the text."""
    added = sorted(tokenizer.get_added_vocab(), key=len, reverse=True)  # these are split off before anything else
    special = re.compile("|".join(map(re.escape, added)) or r"(?!)")
    slots: list[Slot] = []
    prefix = ""
    for number, literal in enumerate(literals):
        if number:
            suffix = _match(after, special.split(literal)[0])
            slots.append(_text(marks[number - 1], prefix, suffix, stripped))
            if suffix:
                slots.append(Constant(tuple(_ids(tokenizer, suffix)), after_cut=len(slots) - 1))
            literal = literal[len(suffix) :]
        prefix = _match(before, special.split(literal)[-1]) if number < 2 else ""
        rest = literal[: len(literal) - len(prefix)]
        if ids := _ids(tokenizer, rest):
            slots.append(Constant(tuple(ids)))
    return Template(tuple(slots), by_query=marks[0] == QUERY)


def _text(mark: str, prefix: str, suffix: str, stripped: dict[str, bool]) -> Text:
    return Text("query" if mark == QUERY else "passage", prefix=prefix, suffix=suffix, strip=stripped[mark])


def _match(pattern: re.Pattern[str], text: str) -> str:
    found = pattern.search(text)
    return found.group() if found else ""


def _ids(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]) if text else []


def _tokens(tokenizer: Any, template: Template, query: str, passage: str) -> list[int]:
    """What the engine makes of a pair that is not cut."""
    store = TokenStore(tokenizer, LONG)
    ids: list[int] = []
    for slot in template.slots:
        if isinstance(slot, Constant):
            ids += slot.ids if slot.after_cut is None else ()
        else:
            entry = int(store.entries([slot.render(query if slot.role == "query" else passage)])[0])
            ids += store.flat[store.starts[entry] :][: store.lengths[entry]].tolist()
    return ids


def prompted(template: Template, tokenizer: Any, prompt: str) -> Template:
    """The template of a pair with a prompt before the query, tokenised together with it.

    Special tokens that the prompt spells out are read as such; the rest of it belongs to the query's text.
    """
    if not prompt:
        return template
    added = sorted(tokenizer.get_added_vocab(), key=len, reverse=True)
    spelled = list(re.finditer("|".join(map(re.escape, added)), prompt)) if added else []
    end = spelled[-1].end() if spelled else 0
    slots: list[Slot] = []
    for slot in template.slots:
        if isinstance(slot, Text) and slot.role == "query":
            if end:
                slots.append(Constant(tuple(_ids(tokenizer, prompt[:end])), slot.segment))
            slot = replace(slot, prefix=prompt[end:])
        slots.append(slot)
    return replace(template, slots=tuple(slots))
