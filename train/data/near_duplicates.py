"""Groups of near-duplicate passages in a list, for rankers that should show each thing once."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

DISTANCE = 0.5


def near_duplicates(texts: Sequence[str], distance: float = DISTANCE) -> NDArray[np.int64]:
    """The group of each text, (n,); -1 for texts that stand alone.

    Groups are complete-linkage clusters in which any two texts have a Jaccard distance of their words of at most
    ``distance``; empty texts stand alone. Reference: Schlatt et al. (Set-Encoder), ECIR 2025.
    """
    from scipy.cluster.hierarchy import fcluster, linkage

    words = [frozenset(text.lower().split()) for text in texts]
    if len(words) < 2:
        return np.full(len(words), -1)
    apart = [_jaccard(one, other) for place, one in enumerate(words) for other in words[place + 1 :]]
    cluster = fcluster(linkage(np.array(apart), "complete"), distance, "distance")
    sizes = np.bincount(cluster)
    return np.where(sizes[cluster] > 1, cluster, -1).astype(np.int64)


def _jaccard(one: frozenset[str], other: frozenset[str]) -> float:
    union = len(one | other)
    return 1.0 - len(one & other) / union if one and other else 1.0
