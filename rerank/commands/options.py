"""The commands of ``sparring``: one module each, with its flags (``Options``) and its work (``main``)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from ..data.datasets import Dataset


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """Flags of every command that writes a run."""

    embed_metadata: bool = False
    """Write the meta file's lines as comments at the top of the run too; not every evaluator reads such a run."""


@dataclass(frozen=True, kw_only=True)
class WeightsOptions:
    """Flags of every command that loads a model as it was published."""

    allow_pickle: bool = False
    """Read pickled weights (pytorch_model.bin) where there are no safetensors; only of models that you trust."""


@dataclass(frozen=True, kw_only=True)
class DatasetOptions:
    """Flags of every command that reads topics or documents."""

    dataset: str | None = None
    """irds:<id> of ir_datasets, a folder (corpus.jsonl, queries.tsv, ...), or pydocs, the embedded collection."""
    corpus: Path | None = None
    """Documents (JSONL or id TAB text, may end in .gz) instead of the dataset's."""
    queries: Path | None = None
    """Topics (id TAB text, or JSONL) instead of the dataset's."""
    query_field: str | None = None
    """Which field of a topic is the query, such as title or description."""
    encoding: str = "utf-8"
    """Encoding of these files."""
    encoding_errors: Literal["strict", "replace"] = "strict"
    """What to do with bytes that are not in this encoding."""

    def open_dataset(self) -> Dataset:
        """The dataset that these flags name."""
        from ..data.datasets import open_dataset

        return open_dataset(
            self.dataset,
            self.queries,
            self.corpus,
            encoding=self.encoding,
            encoding_errors=self.encoding_errors,
            query_field=self.query_field,
        )
