"""The vectors that a FAISS index holds, without a copy: by functions that FAISS does not document.

``reconstruct_n`` is public, but copies every vector. Tried with faiss-cpu 1.15;
``tests/rerank/search/test_stored_vectors.py`` says which release changed them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def stored_vectors(faiss: Any, index: Any, kind: str) -> NDArray[np.float32] | None:
    """The vectors of an index, (n, dimension), in memory that is its own, or mapped from its file.

    Args:
        faiss: the module.
        index: what it has read or built; it must live as long as the vectors are used.
        kind: the type of `sparring.rerank.search.index_types.Layout`; None comes back for ivf and ivfpq, whose
            vectors lie in lists.
    """
    if kind not in ("flat", "hnsw"):
        return None
    flat = faiss.downcast_index(index.storage) if kind == "hnsw" else index
    values: NDArray[np.float32] = faiss.rev_swig_ptr(flat.get_xb(), flat.ntotal * flat.d)
    return values.reshape(flat.ntotal, flat.d)
