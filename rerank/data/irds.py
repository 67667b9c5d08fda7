"""Collections of ir_datasets: its documents, its queries, and its errors in one line.

Not promised by ir_datasets, and tried with 0.6: ``registry`` can be iterated, records are named tuples, and a
``PickleLz4FullStore`` is built by ``build()``, after which ``docs_count()`` knows the size.
``tests/rerank/data/test_irds.py`` says which release changed it.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator, Sequence
from typing import Any

from ..errors import InputError, MissingResourceError
from ..registry import unknown
from .records import clean


def load(name: str) -> Any:
    """The dataset of an id; MissingResourceError names the nearest where there is none."""
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


def read_topics(name: str, query_field: str | None) -> dict[str, str]:
    """Query texts by id, in the dataset's order, from the field named or from its default text."""
    dataset = load(name)
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


class IrdsDocuments:
    """The documents of an ir_datasets collection, through its ``docs_store``; never the whole corpus in memory.

    Args:
        name: the dataset id, without ``irds:``.
        dataset: what ``ir_datasets.load(name)`` returned.
        field: the attribute that holds the text; where None, ir_datasets' ``default_text()``.
    """

    def __init__(self, name: str, dataset: Any, field: str | None = None) -> None:
        self._arguments = (name, field)
        self._dataset, self._field = dataset, field
        self._store = dataset.docs_store()
        self._count = _count(dataset, self._store)
        first = next(iter(dataset.docs_iter()), None)
        if first is None:
            raise InputError(f"0 documents read from irds:{name}")
        if field is not None and field not in first._fields:
            raise InputError(f"irds:{name}: documents have no field {field!r}; found: {', '.join(first._fields)}")
        content = (dataset.docs_namespace(), self._count, first.doc_id, self._text(first))
        self.hash = hashlib.sha256(repr(content).encode()).hexdigest()

    def __reduce__(self) -> tuple[Any, ...]:
        return _irds_documents, self._arguments

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[str]:
        return (document.doc_id for document in self._dataset.docs_iter())

    def __contains__(self, docid: object) -> bool:
        return isinstance(docid, str) and docid in self._store.get_many([docid])

    def items(self) -> Iterator[tuple[str, str]]:
        """(id, text) of every document, in collection order."""
        return ((document.doc_id, self._text(document)) for document in self._dataset.docs_iter())

    def text(self, docid: str) -> str:
        """The text of one document; KeyError for an unknown id."""
        return self.get_many([docid])[0]

    def get_many(self, docids: Sequence[str]) -> list[str]:
        """Texts in the order asked; KeyError names the first unknown id."""
        found = self._store.get_many(docids)
        return [self._text(found[docid]) for docid in docids]

    def missing(self, docids: Sequence[str]) -> set[str]:
        """Those of the ids that the collection does not have."""
        missing: set[str] = set()
        for start in range(0, len(docids), 1000):
            part = docids[start : start + 1000]
            missing.update(set(part).difference(self._store.get_many(part)))
        return missing

    def _text(self, document: Any) -> str:
        if self._field is not None:
            return clean(getattr(document, self._field))
        return clean(document.default_text()).strip()


def _count(dataset: Any, store: Any) -> int:
    """How many documents there are; collections without a hint know it once they are stored."""
    from ir_datasets.indices import PickleLz4FullStore

    count = dataset.docs_count()
    if count is None and isinstance(store, PickleLz4FullStore):
        store.build()
        count = dataset.docs_count()
    return sum(1 for _ in dataset.docs_iter()) if count is None else int(count)


def _irds_documents(name: str, field: str | None) -> IrdsDocuments:
    return IrdsDocuments(name, load(name), field)
