"""Topics and documents: ir_datasets, folders (our own, BEIR, MS MARCO) and the embedded collection.

Qrels are only pointed at: reading them is the business of evaluation and training.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from ..console import log
from ..errors import MissingResourceError, UsageError
from .cache import cache_folder
from .documents import Documents, FileDocuments
from .irds import IrdsDocuments, fetching, load, read_topics
from .offset_index import turn
from .records import read_queries

CORPUS_NAMES = ("corpus.jsonl", "collection.jsonl", "documents.jsonl", "collection.tsv", "corpus.tsv")
QUERY_NAMES = ("queries.tsv", "queries.jsonl", "topics.tsv")
QRELS_NAMES = ("qrels.txt", "qrels.tsv", "qrels/test.tsv")


@dataclass(frozen=True)
class Dataset:
    """Where topics, documents and judgments are; queries and documents are opened when first asked for.

    Args:
        name: the spec it was opened by.
        corpus, queries_path, qrels_path: files, None where the dataset has none (or ir_datasets has them).
        encoding, encoding_errors: of these files.
        query_field: which key or field of a topic is the query ("title", "description"); None takes the usual one.
    """

    name: str
    corpus: Path | None = None
    queries_path: Path | None = None
    qrels_path: Path | None = None
    encoding: str = "utf-8"
    encoding_errors: str = "strict"
    query_field: str | None = None

    @cached_property
    def queries(self) -> dict[str, str]:
        """Query text by topic id, in file order; raises where there are none."""
        if self.queries_path is not None:
            return self._read_topics[0]
        if self.irds is None:
            raise MissingResourceError(f"{self.name} has no {_choices(QUERY_NAMES)}: add --queries FILE")
        return read_topics(self.irds, self.query_field)

    @cached_property
    def instructions(self) -> dict[str, str]:
        """What to judge by, of the topics whose line in the file says it."""
        return {} if self.queries_path is None else self._read_topics[1]

    @cached_property
    def _read_topics(self) -> tuple[dict[str, str], dict[str, str]]:
        """Texts and instructions of the topics' file, read once."""
        told: dict[str, str] = {}
        path = self.queries_path or Path()
        return read_queries(path, self.encoding, self.encoding_errors, self.query_field, told), told

    @cached_property
    def documents(self) -> Documents:
        """The collection, by id; the first use of a file builds its offset index."""
        if self.corpus is not None:
            documents = FileDocuments(self.corpus, self.encoding, self.encoding_errors)
            if documents.empty:
                log.warning("%s: %d documents have no text: scored as empty", self.corpus, documents.empty)
            if documents.duplicates:
                log.warning("%s: %d repeated documents were left out", self.corpus, documents.duplicates)
            return documents
        if self.irds is None:
            raise MissingResourceError(f"{self.name} has no {_choices(CORPUS_NAMES)}: add --corpus FILE")
        with turn(cache_folder("irds") / "store"), fetching(self.irds):  # ir_datasets has no lock of its own
            return IrdsDocuments(self.irds, load(self.irds))

    @property
    def has_documents(self) -> bool:
        """Whether it names a collection; queries alone are a dataset too."""
        return self.corpus is not None or self.irds is not None

    @property
    def collection_hash(self) -> str:
        """Tells one collection from another; for a file the SHA-256 of its uncompressed bytes."""
        return self.documents.hash

    @property
    def irds(self) -> str | None:
        """The ir_datasets id, where the dataset is one."""
        return self.name.removeprefix("irds:") if self.name.startswith("irds:") else None

    def files(self) -> dict[str, Path]:
        """The files it reads, by role, for the meta file of an output."""
        roles = {"corpus": self.corpus, "queries": self.queries_path}
        return {role: path for role, path in roles.items() if path is not None}


def open_dataset(
    spec: str | None,
    queries: Path | None = None,
    corpus: Path | None = None,
    qrels: Path | None = None,
    *,
    encoding: str = "utf-8",
    encoding_errors: str = "strict",
    query_field: str | None = None,
) -> Dataset:
    """Finds the parts of a dataset; says at once which of the named ones do not exist.

    Args:
        spec: ``irds:<id>`` of ir_datasets; ``pydocs``, the embedded collection; or a folder with
            corpus.jsonl or collection.tsv, queries.tsv or queries.jsonl, and qrels.txt or qrels/test.tsv
            (each may end in .gz). None where ``queries`` and ``corpus`` are given.
        queries, corpus, qrels: files that replace these parts.

    Raises:
        MissingResourceError: a folder, a file or an ir_datasets id does not exist.
        UsageError: nothing is named.
    """
    if spec is None and corpus is None and queries is None:
        raise UsageError("no dataset: name one by --dataset, or its parts by --queries and --corpus")
    named = {"queries": queries, "corpus": corpus, "qrels": qrels}
    absent = [f"{role} file {path}" for role, path in named.items() if path is not None and not path.is_file()]
    if absent:
        raise MissingResourceError("no such file: " + ", ".join(absent))
    folder: Path | None = None
    if spec == "pydocs":
        folder = importlib.import_module(".pydocs.collection", __package__).build()
    elif spec is not None and spec.startswith("irds:"):
        load(spec.removeprefix("irds:"))
    elif spec is not None:
        folder = Path(spec)
        if not folder.is_dir():
            raise MissingResourceError(f"{spec}: no such folder; a dataset is a folder, irds:<id> or pydocs")
    return Dataset(
        spec or str(corpus or queries),
        corpus or _first(folder, CORPUS_NAMES),
        queries or _first(folder, QUERY_NAMES),
        qrels or _first(folder, QRELS_NAMES),
        encoding,
        encoding_errors,
        query_field,
    )


def _first(folder: Path | None, names: Iterable[str]) -> Path | None:
    paths = [] if folder is None else [folder / (name + end) for name in names for end in ("", ".gz")]
    return next((path for path in paths if path.is_file()), None)


def _choices(names: tuple[str, ...]) -> str:
    return f"{', '.join(names[:-1])} or {names[-1]}"
