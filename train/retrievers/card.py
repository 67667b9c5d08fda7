"""The model card of a retriever."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..loop.card import finish

if TYPE_CHECKING:
    from ..loop.options import Options

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
    poly = options.kind.replace("-", "_").startswith("poly_encoder")
    tags = f"{'poly' if poly else 'bi'}-encoder, sparring, loss:{options.loss.partition('(')[0]}"
    head = f"""---
library_name: sentence-transformers
pipeline_tag: sentence-similarity
tags: [sentence-transformers, {tags}]
---
# {output.name}

A retriever of kind `{options.kind}`, fine-tuned from `{options.model_name_or_path}` with `{options.loss}` over
lists of {options.list_size} candidates.

{(_CODES if poly else _VECTORS).format(output=output)}

"""
    return finish(output, head, options, parts, best, seconds)
