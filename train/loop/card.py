"""The model card: what the model is, what it saw, how well it ranks, and the command that makes it again."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from ...rerank import console
from ...rerank.data.atomic import atomic_write
from ...rerank.models.checkpoints import EMBEDDED_NAMES, find
from .folder import CARD
from .options import TrainingOptions

EMBEDDED_BASE = "sentence-transformers/all-MiniLM-L6-v2"
"""What the embedded model is called on the hub."""

_POINTWISE = """```python
from sentence_transformers import CrossEncoder
model = CrossEncoder("{output}")
scores = model.predict([("a query", "a passage")])
```"""
_OTHERS = """```
sparring rerank --model {output} --run first.run --dataset DATASET --output reranked.run
```"""


@dataclass(frozen=True, slots=True)
class Report:
    """What a training was, over all its parts.

    Args:
        parts: its sources, as `sparring.train.data.mixture.Mixture.describe` says them.
        best: step, measure and value of the model that was kept; None without a development set.
        seconds, pairs: how long it took, and the pairs of a query and a passage that it read.
    """

    parts: Sequence[dict[str, Any]]
    best: dict[str, Any] | None
    seconds: float
    pairs: int


def write_card(options: TrainingOptions, report: Report) -> Path:
    """Writes ``README.md`` into the folder of a reranker."""
    pointwise = options.family.partition("(")[0] == "pointwise" and options.adapter is None
    adapter = f", as an adapter `{options.adapter}`" if options.adapter else ""
    pairs = f", pairs by `{options.sampler}`" if options.sampler else ""
    text = f"""A reranker of the family `{options.family}`, fine-tuned from `{options.model_name_or_path}` with
`{options.loss}`{adapter} over lists of {options.list_size} candidates{pairs}.
Its scores are raw logits: rank by them, they are no probabilities.

{(_POINTWISE if pointwise else _OTHERS).format(output=options.output_dir)}
"""
    tags = [*(["cross-encoder"] if pointwise else []), "reranker", "sparring"]
    return finish(
        options, report, text, "sentence-transformers" if pointwise else "sparring", "text-ranking", tags
    )


def finish(
    options: TrainingOptions, report: Report, about: str, library: str, pipeline: str, tags: Sequence[str]
) -> Path:
    """Writes a card: the head that the hub reads, what it is about, then what every kind of model says alike.

    Args:
        about: what the model is and how it is used, in Markdown.
        library, pipeline: ``library_name`` and ``pipeline_tag`` of the head; the loss is added to the tags.
    """
    from huggingface_hub import ModelCard, ModelCardData

    license_ = base_license(options.model_name_or_path)
    head: Any = ModelCardData(
        base_model=base_name(options.model_name_or_path),
        library_name=library,
        pipeline_tag=pipeline,
        tags=[*tags, f"loss:{options.loss.partition('(')[0]}"],
        **(license_ or {"license": "other", "license_name": "unknown"}),
    )
    card: Any = ModelCard(f"---\n{head.to_yaml()}\n---\n{_body(options, report, about, license_)}")
    path = options.output_dir / CARD
    with atomic_write(path) as stream:
        stream.write(str(card))
    return path


def base_name(name: str) -> str:
    """What a card calls the model that training started from: its name on the hub, or the folder as given."""
    return EMBEDDED_BASE if name in EMBEDDED_NAMES else name


def base_license(name: str) -> dict[str, Any] | None:
    """The license keys of the card that lies beside a model; None where it has none or names none."""
    from huggingface_hub import ModelCard

    path = find(name).folder / CARD
    if not path.is_file():
        return None
    card: Any = ModelCard.load(path, ignore_metadata_errors=True)
    keys = ("license", "license_name", "license_link")
    found = {key: card.data.get(key) for key in keys if card.data.get(key)}
    return found if "license" in found else None


def _body(options: TrainingOptions, report: Report, about: str, license_: dict[str, Any] | None) -> str:
    data = "\n".join(
        f"| `{part['source']}` | {part['queries']} | {part['candidates']} | {part['lists']} |"
        for part in report.parts
    )
    names = ("sparring", "torch", "transformers", "sentence-transformers")
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in names)
    return f"""# {options.output_dir.name}

{about}
{_license_line(options.model_name_or_path, license_)}

## Development set

{_result(options, report.best)}

## Data

| source | queries | candidates | lists drawn |
|---|---|---|---|
{data}

## Command

```
{_command()}
```

Trained in {report.seconds / 60:.1f} minutes on {report.pairs:,} pairs of a query and a passage, with {versions}.
All options are in `config.yaml`, the curve in `training_log.csv`.
"""


def _license_line(name: str, license_: dict[str, Any] | None) -> str:
    if license_ is None:
        return (
            f"The license is unknown: no card of `{base_name(name)}` names one. Ask before you pass this model on."
        )
    said = license_.get("license_name", license_["license"])
    return f"The license is that of the base model, as its card says: {said}."


def _result(options: TrainingOptions, best: dict[str, Any] | None) -> str:
    if best is None:
        return "Not measured: no development set was given."
    some = f" (every {options.dev_holdout}th topic)" if options.dev_holdout else ""
    return (
        f"{best['measure']} **{best['value']:.4f}** at step {best['step']}, reranking the top {options.dev_depth} "
        f"of `{options.dev_run}`{some}"
    )


def _command() -> str:
    """The command that runs now, as it would be typed to begin anew."""
    return shlex.join(word for word in shlex.split(console.command()) if word not in ("--resume", "--no-resume"))
