"""What ``sparring doctor --model`` says of a model: who claims it and why, how it is asked, what it answers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import console
from ..errors import SparringError
from ..models.adapters import opened
from ..models.checkpoints import SERVED, Checkpoint
from ..models.families.about import Described
from ..models.loading import FAMILY_KEY, claimant
from ..registry import families
from ..vocabulary import Candidates
from .list import summary

if TYPE_CHECKING:
    from ..engine.model import AnyModel
    from ..engine.templates import Template

QUERY = "how is coffee made"
PASSAGES = (
    "Coffee is made by pouring hot water over ground, roasted beans of the coffee plant.",
    "The river rises in the mountains and reaches the sea after four hundred kilometres.",
)
WIDTHS = {1: "pointwise: a score per passage", 2: "pairwise: which of two is better", None: "listwise"}


@dataclass(frozen=True, slots=True)
class Asked:
    """The model to look into, and how it is opened and run."""

    name: str
    family: str | None = None
    revision: str | None = None
    allow_pickle: bool = False
    base: str | None = None
    device: str = "auto"
    dtype: str = "auto"


def report(asked: Asked) -> Iterator[tuple[str, str]]:
    """Rows of a name and what is said of it; a fault is a row and ends the report."""
    try:
        with opened(asked.name, asked.revision, asked.allow_pickle, asked.base) as checkpoint:
            yield "is", _what(checkpoint)
            try:
                chosen = families.parse(asked.family) if asked.family else claimant(checkpoint)
            except SparringError as error:
                yield "family", f"none: {error}"
                yield "what to do", _advice(checkpoint)
                return
            yield "family", f"{chosen}, {_why(checkpoint, chosen, asked.family)}"
            with console.quiet_transformers():
                model = chosen.load(checkpoint)
    except SparringError as error:
        yield "cannot be loaded", str(error)
        return
    yield from _described(model, chosen)
    yield from _said(model, asked)


def _what(checkpoint: Checkpoint) -> str:
    if checkpoint.name.startswith(SERVED):
        return "a language model behind an endpoint"
    made = f"{checkpoint.architecture or 'no architecture named'}, model_type {checkpoint.model_type or 'none'}"
    adapter = f", an adapter merged into {checkpoint.base}" if checkpoint.base else ""
    return f"{checkpoint.layout.what} ({made}){adapter}"


def _why(checkpoint: Checkpoint, family: Any, asked: str | None) -> str:
    if asked:
        return "as --family says"
    if checkpoint.config.get(FAMILY_KEY) is not None:
        return f"as {FAMILY_KEY} in its config.json says"
    return f"which claims: {summary(type(family).claims)}"


def _advice(checkpoint: Checkpoint) -> str:
    """What to do with a model that nobody claims."""
    name, architecture = checkpoint.name, checkpoint.architecture
    if not checkpoint.plain:
        return "nothing: it is no reranker; choose another model (sparring list models)"
    if architecture.endswith("ForCausalLM"):
        return (
            "say how it is asked: --family 'causal(format=qwen3)' or causal(prompt='... {query} ... {a} ...') for "
            "yes and no, causal_pair for A or B, list_llm for lists"
        )
    if "ForConditionalGeneration" in architecture:
        return "say what it was trained as: --family 't5(kind=mono)', 't5(kind=duo)' or 't5(kind=rank)'"
    if architecture.endswith("ForSequenceClassification"):
        return "name the family that its head belongs to with --family (sparring list models says what each runs)"
    return f"it has no head that scores: train one, sparring train --model-name-or-path {name} --family pointwise"


def _described(model: AnyModel, family: Any) -> Iterator[tuple[str, str]]:
    from ..engine.model import OwnScorer, default_schedule, longest_input

    yield "width", f"{WIDTHS[model.width]}; asked by --schedule {default_schedule(model)}"
    if isinstance(model, OwnScorer):
        yield "template", f"the family's own: {summary(family)}"
        yield "batches", "its own"
    else:
        yield "template", rendered(model.template, model.tokenizer)
        yield "batches", "packed, no padding" if model.packed else "padded to the longest of a batch"
    if isinstance(family, Described):
        yield "score", family.about.returns
    length = longest_input(model)
    yield "length", "only the far end knows" if length is None else f"{length:,} tokens of one input"


def rendered(template: Template, tokenizer: Any) -> str:
    """A template as a line: constants as their tokens are written, texts in braces."""
    from ..engine.templates import Constant

    parts = []
    for slot in template.slots:
        if isinstance(slot, Constant):
            if slot.after_cut is None:
                parts.append(str(tokenizer.decode(list(slot.ids), skip_special_tokens=False)))
        else:
            number = slot.index + 1 if template.passages > 1 else ""
            parts.append(f"{slot.prefix}{{{slot.role}{number if slot.role == 'passage' else ''}}}{slot.suffix}")
    return "".join(parts).replace("\n", "\\n")


def _said(model: AnyModel, asked: Asked) -> Iterator[tuple[str, str]]:
    """What the model says of a passage that answers a query and of one that does not."""
    from ..executors.open import open_scorer

    if asked.name.startswith(SERVED):
        yield "two passages", "not asked: calls may cost"
        return
    try:
        scorer = open_scorer(model, device=asked.device, dtype=asked.dtype, progress=False)
        topic = Candidates("q", QUERY, ("a", "b"), PASSAGES, np.zeros(2))
        groups = {1: [[0], [1]], 2: [[0, 1], [1, 0]], None: [[0, 1]]}[model.width]
        try:
            said = scorer([topic], [np.array(groups, np.int32)])[0].ravel()
        finally:
            scorer.close()
    except SparringError as error:
        yield "two passages", f"cannot be scored: {error}"
        return
    described = scorer.description
    yield "precision", f"{described.get('dtype', 'its own')} on {described.get('device', 'its own device')}"
    if model.width == 2:
        yield "two passages", f"the answer is better: {said[0]:.3f} shown first, {1 - said[1]:.3f} shown second"
    else:
        yield "two passages", f"{said[0]:.4f} for one that answers the query, {said[1]:.4f} for one that does not"
