"""``sparring index``: encode a collection with a bi-encoder into a FAISS index."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from .. import console
from ..data.atomic import check_output
from ..data.meta import write_meta
from ..errors import UsageError
from ..search.index_types import IndexType, Layout
from .options import CommonOptions, DatasetOptions, WeightsOptions


@dataclass(frozen=True, kw_only=True)
class Options(DatasetOptions, WeightsOptions, CommonOptions):
    """Encode a collection with a bi-encoder into a FAISS index."""

    model: str
    """A sentence-transformers model: a folder, a name of the hub, or minilm, the embedded one."""
    output: Path
    """Folder of the index."""
    index_type: IndexType = "flat"
    """flat is exact; hnsw a graph; ivf inverted lists; ivfpq lists of compressed vectors."""
    links: int = 32
    """HNSW: links of a node (M)."""
    construction: int = 200
    """HNSW: candidates while building (efConstruction)."""
    lists: int | None = None
    """IVF: number of lists; 4 times the square root of the number of documents where absent."""
    subvectors: int | None = None
    """IVF-PQ: bytes of a vector; a quarter of the dimension where absent."""


def main(options: Options) -> None:
    """Checks everything, encodes, and moves the finished index into place."""
    from ..search.bi_encoder import BiEncoder
    from ..search.build_index import build_index

    check_output(options.output, options.overwrite)
    if options.output.exists() and not (options.output / "manifest.json").is_file():
        raise UsageError(
            f"{options.output} holds no index: --overwrite replaces none but those; name another folder"
        )
    layout = Layout(options.index_type, options.links, options.construction, options.lists, options.subvectors)
    dataset = options.open_dataset()
    encoder = BiEncoder(
        options.model, options.device, options.dtype, allow_pickle=options.allow_pickle, base=options.base
    )
    count, dimension = len(dataset.documents), encoder.identity.dimension
    factory = layout.factory(count, dimension)
    console.log.info(
        "%s: %s documents, vectors of %d dimensions (%.2f GB), %s on %s in %s",
        dataset.name,
        f"{count:,}",
        dimension,
        4 * count * dimension / 1e9,
        factory,
        encoder.device,
        encoder.dtype,
    )
    if options.dry_run:
        return
    start = time.perf_counter()
    build_index(dataset, encoder, options.output, layout, seed=options.seed)
    seconds = time.perf_counter() - start
    write_meta(
        options.output,
        "index",
        dataset.files(),
        {
            "model": options.model,
            "revision": encoder.identity.revision,
            "dtype": encoder.dtype,
            "device": str(encoder.device),
            "factory": factory,
            "documents": count,
            "collection_hash": dataset.collection_hash,
            "seed": options.seed,
            "seconds": round(seconds, 3),
        },
    )
    rate = count / seconds
    console.log.info("%s: %s documents in %.1f s (%.0f per second)", options.output, f"{count:,}", seconds, rate)
