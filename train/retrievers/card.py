"""The model card of a retriever."""

from __future__ import annotations

from pathlib import Path

from ..loop.card import Report, finish
from ..loop.options import TrainingOptions

_VECTORS = """```python
from sentence_transformers import SentenceTransformer
model = SentenceTransformer("{output}")
similarity = model.similarity(model.encode_query("a query"), model.encode_document(["a passage"]))
```"""
_CODES = """The sentence-transformers model in this folder encodes passages; the codes beside it read queries:

```
sparring rerank --model {output} --run first.run --dataset DATASET --output reranked.run
```"""


def write_card(options: TrainingOptions, report: Report) -> Path:
    """Writes ``README.md`` into the folder of a bi-encoder or poly-encoder."""
    poly = options.family.replace("-", "_").startswith("poly_encoder")
    text = f"""A retriever of the family `{options.family}`, fine-tuned from `{options.model_name_or_path}` with
`{options.loss}` over lists of {options.list_size} candidates.

{(_CODES if poly else _VECTORS).format(output=options.output_dir)}
"""
    tags = ["sentence-transformers", f"{'poly' if poly else 'bi'}-encoder", "sparring"]
    return finish(options, report, text, "sentence-transformers", "sentence-similarity", tags)
