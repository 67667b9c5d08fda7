"""The model card of a retriever."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..rerank import console
from ..rerank.files import atomic_write

if TYPE_CHECKING:
    from .train import Options

_VECTORS = """```python
from sentence_transformers import SentenceTransformer
model = SentenceTransformer("{output}")
similarity = model.similarity(model.encode_query("a query"), model.encode_document(["a passage"]))
```"""
_CODES = """The sentence-transformers model in this folder encodes passages; the codes beside it read queries:

```
sparring rerank --model {output} --run first.run --dataset DATASET --output reranked.run
```"""


def write_card(
    output: Path, options: Options, parts: Sequence[dict[str, Any]], best: dict[str, Any] | None, seconds: float
) -> Path:
    """Writes ``README.md`` into the folder of a bi-encoder or poly-encoder."""
    data = "\n".join(f"| `{p['source']}` | {p['queries']} | {p['candidates']} | {p['lists']} |" for p in parts)
    result = (
        f"{best['measure']} **{best['value']:.4f}** at step {best['step']}, reranking the top {options.dev_depth} "
        f"of `{options.dev_run}`" + (f" (every {options.dev_holdout}th topic)" if options.dev_holdout else "")
        if best
        else "Not measured: no development set was given."
    )
    poly = options.kind.replace("-", "_").startswith("poly_encoder")
    tags = f"{'poly' if poly else 'bi'}-encoder, sparring, loss:{options.loss.partition('(')[0]}"
    names = ("sparring", "torch", "transformers", "sentence-transformers")
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in names)
    text = f"""---
library_name: sentence-transformers
pipeline_tag: sentence-similarity
tags: [sentence-transformers, {tags}]
---
# {output.name}

A retriever of kind `{options.kind}`, fine-tuned from `{options.model_name_or_path}` with `{options.loss}` over
lists of {options.list_size} candidates.

{(_CODES if poly else _VECTORS).format(output=output)}

## Development set

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
