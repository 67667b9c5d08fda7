"""The model card: what the model is, what it saw, how well it ranks, and the command that makes it again."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...rerank import console
from ...rerank.data.atomic import atomic_write

if TYPE_CHECKING:
    from .options import Options


_POINTWISE = """```python
from sentence_transformers import CrossEncoder
model = CrossEncoder("{output}")
scores = model.predict([("a query", "a passage")])
```"""
_OTHERS = """```
sparring rerank --model {output} --run first.run --dataset DATASET --output reranked.run
```"""


def write_card(
    output: Path, options: Options, parts: Sequence[dict[str, Any]], best: dict[str, Any] | None, seconds: float
) -> Path:
    """Writes ``README.md`` into a model folder."""
    pointwise = options.kind.partition("(")[0] == "pointwise"
    pairs = f", pairs by `{options.sampler}`" if options.sampler else ""
    head = f"""---
library_name: {"sentence-transformers" if pointwise else "sparring"}
pipeline_tag: text-ranking
tags: [{"cross-encoder, " if pointwise else ""}reranker, sparring, loss:{options.loss.partition("(")[0]}]
---
# {output.name}

A reranker of kind `{options.kind}`, fine-tuned from `{options.model_name_or_path}` with `{options.loss}` over
lists of {options.list_size} candidates{pairs}. Its scores are raw logits: rank by them, they are no probabilities.

{_POINTWISE.format(output=output) if pointwise else _OTHERS.format(output=output)}

"""
    return finish(output, head, options, parts, best, seconds)


def finish(
    output: Path,
    head: str,
    options: Options,
    parts: Sequence[dict[str, Any]],
    best: dict[str, Any] | None,
    seconds: float,
) -> Path:
    """Writes a card: its own head, then measure, data and command, which every kind of model says alike."""
    data = "\n".join(f"| `{p['source']}` | {p['queries']} | {p['candidates']} | {p['lists']} |" for p in parts)
    result = (
        f"{best['measure']} **{best['value']:.4f}** at step {best['step']}, reranking the top {options.dev_depth} "
        f"of `{options.dev_run}`" + (f" (every {options.dev_holdout}th topic)" if options.dev_holdout else "")
        if best
        else "Not measured: no development set was given."
    )
    names = ("sparring", "torch", "transformers", "sentence-transformers")
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in names)
    text = f"""{head}## Development set

{result}

## Data

| source | queries | candidates | lists drawn |
|---|---|---|---|
{data}

## Command

```
{console.command()}
```

Trained in {seconds / 60:.1f} minutes with {versions}; all options are in `config.yaml`, the curve in
`training_log.csv`.
"""
    path = output / "README.md"
    with atomic_write(path) as stream:
        stream.write(text)
    return path
