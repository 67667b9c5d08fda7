"""The candidates of a run: its documents and queries, checked against a dataset."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from ..console import log
from ..errors import InputError, UsageError
from ..vocabulary import Candidates
from .atomic import atomic_write
from .datasets import Dataset
from .documents import Texts
from .runs import Run

MISSING_LIMIT = 0.01
"""A run with a larger share of documents that are not in the collection was made for another collection."""


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
            told = self.dataset.instructions.get(qid)
            yield Candidates(qid, self.dataset.queries[qid], names, texts, scores[keep], told)

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
