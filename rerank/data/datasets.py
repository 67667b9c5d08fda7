"""Topics and documents: ir_datasets, folders (our own, BEIR, MS MARCO) and the embedded collection.

Qrels are only pointed at: reading them is the business of evaluation and training.
"""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from ..console import log
from ..errors import InputError, MissingResourceError, UsageError
from ..registry import unknown
from ..vocabulary import Candidates
from .atomic import atomic_write
from .documents import Documents, FileDocuments, IrdsDocuments, Texts
from .offset_index import cache_folder, turn
from .records import clean, read_queries
from .runs import Run

CORPUS_NAMES = ("corpus.jsonl", "collection.jsonl", "documents.jsonl", "collection.tsv", "corpus.tsv")
QUERY_NAMES = ("queries.tsv", "queries.jsonl", "topics.tsv")
QRELS_NAMES = ("qrels.txt", "qrels.tsv", "qrels/test.tsv")
MISSING_LIMIT = 0.01
"""A run with a larger share of documents that are not in the collection was made for another collection."""


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
            return read_queries(self.queries_path, self.encoding, self.encoding_errors, self.query_field)
        if self.irds is None:
            raise MissingResourceError(f"{self.name} has no {_choices(QUERY_NAMES)}: add --queries FILE")
        return _irds_queries(self.irds, self.query_field)

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
            return IrdsDocuments(self.irds, _irds(self.irds))

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
        folder = importlib.import_module(".pydocs", __package__).build()
    elif spec is not None and spec.startswith("irds:"):
        _irds(spec.removeprefix("irds:"))
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


def _irds(name: str) -> Any:
    import ir_datasets

    try:
        return ir_datasets.load(name)
    except KeyError:
        message = unknown("ir_datasets id", name, list(ir_datasets.registry))
        raise MissingResourceError(message.partition("; known:")[0]) from None


@contextlib.contextmanager
def fetching(name: str) -> Iterator[None]:
    """Turns ir_datasets' errors about files that are neither here nor to be had into one line."""
    try:
        yield
    except (RuntimeError, OSError) as error:
        reason = " ".join(str(error.args[0] if error.args else error).split())[:200]
        raise MissingResourceError(
            f"irds:{name} could not be read or downloaded ({reason}): check the network, or see "
            f"https://ir-datasets.com/{name.split('/')[0]}.html for files that must be fetched by hand"
        ) from error


def _irds_queries(name: str, query_field: str | None) -> dict[str, str]:
    dataset = _irds(name)
    if not dataset.has_queries():
        raise MissingResourceError(f"irds:{name} has no queries: name a subset of it, or add --queries FILE")
    queries = {}
    with fetching(name):
        found = list(dataset.queries_iter())
    for query in found:
        if query_field is not None and query_field not in query._fields:
            raise InputError(
                f"irds:{name}: queries have no field {query_field!r}; found: {', '.join(query._fields)}"
            )
        text = query.default_text() if query_field is None else getattr(query, query_field)
        queries[query.query_id] = clean(text).strip()
    if not queries:
        raise InputError(f"0 topics read from irds:{name}")
    return queries


@dataclass(frozen=True)
class CandidateSet:
    """The candidates of a run, checked against the dataset; iterating reads texts lazily, topic after topic.

    Args:
        missing: documents of the run, within the depth, that the collection does not have, by topic, in input
            order. They are no candidates: whoever writes the result puts them at its tail.
        skipped: topics of the run that the dataset does not have (only where that was allowed).
        empty: topics without any candidate that has a text in the collection.
        pairs: candidates of all topics together.
    """

    run: Run
    dataset: Dataset
    depth: int
    topics: tuple[str, ...]
    missing: dict[str, tuple[str, ...]]
    skipped: tuple[str, ...]
    empty: tuple[str, ...]
    pairs: int
    _gone: frozenset[str] = field(repr=False)

    def __len__(self) -> int:
        return len(self.topics)

    def __iter__(self) -> Iterator[Candidates]:
        for qid in self.topics:
            docids, scores = self.run[qid]
            keep = [i for i, docid in enumerate(docids[: self.depth]) if docid not in self._gone]
            names = tuple(docids[i] for i in keep)
            texts = Texts(self.dataset.documents, names)
            yield Candidates(qid, self.dataset.queries[qid], names, texts, scores[keep])

    def write_missing(self, output: Path) -> Path | None:
        """Lists the missing documents in ``<output>.missing_docs.tsv``; None if there are none."""
        if not self.missing:
            return None
        path = output.with_name(output.name + ".missing_docs.tsv")
        with atomic_write(path) as stream:
            stream.write("qid\tdocid\n")
            for qid, docids in self.missing.items():
                stream.writelines(f"{qid}\t{docid}\n" for docid in docids)
        log.warning("%d documents are not in the collection: %s", sum(map(len, self.missing.values())), path)
        return path


def candidates(
    run: Run,
    dataset: Dataset,
    depth: int = 100,
    *,
    allow_missing_queries: bool = False,
    missing_limit: float = MISSING_LIMIT,
) -> CandidateSet:
    """The first ``depth`` documents of every topic of a run, with query and texts, in first-stage order.

    Everything is checked before any text is read. Topics without candidates are warned about and left out.

    Args:
        allow_missing_queries: leave out topics of the run that the dataset does not have, instead of stopping.
        missing_limit: largest share of candidates that may be absent from the collection.

    Raises:
        InputError: topics of the run are not in the dataset (the first 5 and their number), or more candidates
            than ``missing_limit`` allows are not in the collection.
    """
    if depth < 1:
        raise UsageError(f"--depth must be at least 1, not {depth}")
    problems = []
    skipped = tuple(qid for qid in run if qid not in dataset.queries)
    known = [qid for qid in run if qid in dataset.queries]
    if skipped and (not allow_missing_queries or not known):
        problems.append(
            f"{len(skipped)} of {len(run)} topics of the run are not among the queries of {dataset.name}: "
            f"{_some(skipped)}; check --dataset, or add --allow-missing-queries to leave them out"
        )
    tops = {qid: run[qid][0][:depth] for qid in known}
    gone = frozenset(dataset.documents.missing(list(dict.fromkeys(d for top in tops.values() for d in top))))
    missing = {qid: lost for qid, top in tops.items() if (lost := tuple(d for d in top if d in gone))}
    total, lost_count = sum(map(len, tops.values())), sum(map(len, missing.values()))
    if lost_count > missing_limit * total:
        examples = _some([docid for lost in missing.values() for docid in lost])
        problems.append(
            f"{lost_count} of {total} candidates ({lost_count / total:.1%}) are not in the collection of "
            f"{dataset.name}: {examples}; check --dataset, or raise --missing-limit (now {missing_limit:g})"
        )
    if problems:
        raise InputError("; ".join(problems))
    topics = tuple(qid for qid in known if len(tops[qid]) > len(missing.get(qid, ())))
    empty = tuple(qid for qid in known if qid not in set(topics))
    for what, qids in (("not among the queries: left out", skipped), ("without candidates", empty)):
        if qids:
            log.warning("%d topics %s: %s", len(qids), what, _some(qids))
    return CandidateSet(run, dataset, depth, topics, missing, skipped, empty, total - lost_count, gone)


def _some(names: Iterable[str]) -> str:
    items = list(names)
    return ", ".join(items[:5]) + (f" and {len(items) - 5} more" if len(items) > 5 else "")
