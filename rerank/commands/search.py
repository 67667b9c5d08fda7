"""``sparring search``: retrieve candidates with a bi-encoder or BM25 and write a TREC run."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import console
from ..data.atomic import check_output
from ..data.datasets import Dataset
from ..data.meta import write_meta
from ..data.runs import write_run
from ..data.text import lines
from ..errors import InputError, UsageError
from .options import CommonOptions, DatasetOptions, RunOptions, WeightsOptions
from .search_adaptive import check_vectors, item_vectors, prepare

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ..search.bi_encoder import BiEncoder
    from ..search.index import Ids, Index
    from .search_adaptive import Adaptive


LEXICAL = "bm25"


@dataclass(frozen=True, kw_only=True)
class Options(DatasetOptions, RunOptions, WeightsOptions, CommonOptions):
    """Retrieve candidates with a bi-encoder or BM25 and write a TREC run."""

    output: Path
    """TREC run to write; a name that ends in .gz is packed."""
    index: Path | None = None
    """Folder of an index; without it the collection is encoded now and searched exactly."""
    model: str | None = None
    """The bi-encoder, or bm25; with --index the one that built it, which must be the same."""
    depth: int = 1000
    """How many documents of each topic to retrieve."""
    allow_ids: Path | None = None
    """File of document ids, one per line: nothing else may be found."""
    probes: int | None = None
    """IVF: lists to visit (nprobe); a sixteenth of them, or what the depth needs, where absent."""
    effort: int | None = None
    """HNSW: candidates to keep (efSearch); twice the depth where absent."""
    tag: str = "sparring"
    """Run tag, one word."""
    adaptive: str | None = None
    """Let a cross-encoder steer: axn(calls=100, rounds=5), or anncur(queries='FILE', items=50, calls=100)."""
    cross_encoder: str | None = None
    """The pointwise model that --adaptive asks, at most so many calls per query."""
    ledger: Path | None = None
    """Store of the cross-encoder's outcomes; without it one lies beside the output until that is written."""
    fresh: bool = False
    """Allow a ledger that was made by another model."""


def main(options: Options) -> None:
    """Checks everything, encodes the queries, searches, and writes the run and its meta file."""
    from ..search.bi_encoder import BiEncoder
    from ..search.index import Index, as_topics, read_manifest

    if options.index is None and options.model is None:
        raise UsageError("nothing to search with: give --index IX, or --model M to encode the collection now")
    if options.depth < 1:
        raise UsageError(f"--depth must be at least 1, not {options.depth}")
    check_output(options.output, options.overwrite)
    dataset = options.open_dataset()
    adaptive = prepare(options)
    if options.model == LEXICAL:
        _search_words(options, dataset)
        return
    queries = dataset.queries
    if adaptive is not None and dataset.instructions:
        raise UsageError(
            f"--adaptive: {len(dataset.instructions)} topics carry an instruction, which --cross-encoder would "
            "not see here: take the field out of a copy, or rerank the run of a plain search"
        )
    allowed = None if options.allow_ids is None else _allowed(options.allow_ids)
    model = options.model
    if model is None and options.index is not None:
        model = str(read_manifest(options.index)["encoder"]["model"])
    encoder = BiEncoder(
        str(model), options.device, options.dtype, allow_pickle=options.allow_pickle, base=options.base
    )
    index = None
    if options.index is not None:
        known = dataset.collection_hash if dataset.has_documents else None
        index = Index.open(options.index, encoder=encoder.identity, collection_hash=known)
    if adaptive is not None:
        check_vectors(encoder.identity.similarity, index)
    count = len(dataset.documents) if index is None else len(index)
    console.log.info(
        "%d queries against %s documents (%s) on %s in %s",
        len(queries),
        f"{count:,}",
        "encoded now" if index is None else index.manifest["factory"],
        encoder.device,
        encoder.dtype,
    )
    if options.dry_run:
        return
    start = time.perf_counter()
    ids, positions, scores = _search(options, dataset, encoder, index, allowed, adaptive)
    written = write_run(options.output, as_topics(list(queries), ids, positions, scores), options.tag)
    seconds = time.perf_counter() - start
    inputs = dataset.files() | ({"allow_ids": options.allow_ids} if options.allow_ids else {})
    details = _details(options, encoder, index, written.separated, seconds)
    write_meta(options.output, options.tag, inputs, details, embed=options.embed_metadata)
    console.log.info("%s: %d lines of %d topics in %.1f s", options.output, written.lines, written.topics, seconds)


def _search_words(options: Options, dataset: Dataset) -> None:
    """Scores the collection by BM25, and writes the run and its meta file."""
    from ..search.bm25 import BM25, K1, B
    from ..search.index import as_topics

    if options.index is not None or options.adaptive is not None:
        raise UsageError(f"--model {LEXICAL} reads the collection itself: leave --index and --adaptive out")
    allowed = None if options.allow_ids is None else set(_allowed(options.allow_ids))
    queries, documents = dataset.queries, dataset.documents
    console.log.info("%d queries against %s documents (%s)", len(queries), f"{len(documents):,}", LEXICAL)
    if options.dry_run:
        return
    start = time.perf_counter()
    ids, texts = zip(*documents.items(), strict=True)
    places = None
    if allowed is not None:
        places = np.array([place for place, docid in enumerate(ids) if docid in allowed], np.int64)
    found = BM25.of(texts).search(list(queries.values()), options.depth, places)
    written = write_run(options.output, as_topics(list(queries), ids, *found), options.tag)
    seconds = round(time.perf_counter() - start, 3)
    inputs = dataset.files() | ({"allow_ids": options.allow_ids} if options.allow_ids else {})
    details = {"model": LEXICAL, "k1": K1, "b": B, "depth": options.depth, "seconds": seconds}
    write_meta(options.output, options.tag, inputs, details, embed=options.embed_metadata)
    console.log.info("%s: %d lines of %d topics in %.1f s", options.output, written.lines, written.topics, seconds)


def _search(
    options: Options,
    dataset: Dataset,
    encoder: BiEncoder,
    index: Index | None,
    allowed: list[str] | None,
    adaptive: Adaptive | None,
) -> tuple[Ids, NDArray[np.int64], NDArray[np.floating]]:
    from ..search.build_index import encode_collection
    from ..search.exact import exact_search

    if index is None:
        ids, vectors = encode_collection(encoder, dataset.documents)
        if adaptive is not None:
            return ids, *adaptive.search(options, dataset, ids, encoder, vectors)
        places = None if allowed is None else ids.positions(allowed)
        found = exact_search(
            encoder.queries(list(dataset.queries.values())),
            vectors,
            min(options.depth, len(ids)),
            encoder.identity.similarity,
            allowed=places,
            device=encoder.device,
        )
        return ids, *found
    if adaptive is not None:
        return index.ids, *adaptive.search(options, dataset, index.ids, encoder, item_vectors(index))
    found = index.search(
        encoder.queries(list(dataset.queries.values())),
        min(options.depth, len(index)),
        allowed_ids=allowed,
        probes=options.probes,
        effort=options.effort,
        device=encoder.device,
    )
    return index.ids, *found


def _allowed(path: Path) -> list[str]:
    ids = [text.strip() for _, text in lines(path) if text.strip()]
    if not ids:
        raise InputError(f"{path}: 0 document ids read from it: expected one per line")
    return ids


def _details(
    options: Options, encoder: BiEncoder, index: Index | None, separated: int, seconds: float
) -> dict[str, Any]:
    return {
        "model": encoder.identity.model,
        "revision": encoder.identity.revision,
        "dtype": encoder.dtype,
        "device": str(encoder.device),
        "similarity": encoder.identity.similarity,
        "index": None if index is None else {"path": str(options.index), "factory": index.manifest["factory"]},
        "depth": options.depth,
        "adaptive": options.adaptive,
        "cross_encoder": options.cross_encoder,
        "scores": "separated" if separated else "original",
        "seconds": round(seconds, 3),
    }
