"""What every model family promises, tried on a checkpoint of it: scores that depend on the texts alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ..models.families.about import Described
from ..registry import families
from ..vocabulary import Candidates, Groups, Outcomes
from .component import check_component, promise

TEXTS = (
    "coffee is a brewed drink",
    "a river",
    "the mountain stands above the garden and the river, and nobody knows how many stones it has",
    "coffee",
    "history of the market",
)


def check_family(family: Any, folder: str | Path, *, tolerance: float = 1e-4) -> None:
    """Loads a checkpoint folder by ``family`` and scores a few texts on the CPU in fp32.

    Raises ContractError where a model lacks what the engine asks, a score is not finite, or a score depends on the
    order of candidates, on what else is in the batch, or on the run.

    Args:
        tolerance: how far rounding may move a score.
    """
    from ..executors.open import open_scorer
    from ..models.checkpoints import find
    from ..models.loading import load

    check_component(family, families)
    promise(
        isinstance(family, Described),
        family,
        "it says what it is (`sparring.rerank.models.families.about`)",
        "nothing",
    )
    claimed = family.claims(find(str(folder)))
    promise(isinstance(claimed, bool), family, "claims returns True or False", repr(claimed))
    model, again = (load(str(folder), family=str(family)) for _ in range(2))
    promise(model.width in (1, 2, None), family, "the width of its model is 1, 2 or None (any)", repr(model.width))
    promise(isinstance(model.name, str), family, "its model has a name", repr(model.name))
    promise(
        isinstance(model.fingerprint, str) and model.fingerprint == again.fingerprint,
        family,
        "its model has the same fingerprint whenever it is loaded",
        f"{model.fingerprint} and {again.fingerprint}",
    )
    scorer = open_scorer(model, device="cpu", dtype="float32", progress=False)
    together = Candidates("q", "what is coffee", tuple("abcde"), TEXTS, np.zeros(len(TEXTS)))
    groups = every_group(model.width, len(TEXTS))
    scores = scorer([together], [groups])[0]
    promise(np.isfinite(scores).all(), family, "every score is finite", scores)

    def close(said: Outcomes) -> bool:
        return np.allclose(said, scores, rtol=tolerance, atol=tolerance)

    repeated = scorer([together], [groups])[0]
    promise(close(repeated), family, "asked again it says the same", repeated - scores)
    apart = np.concatenate([scorer([together], [groups[row : row + 1]])[0] for row in range(len(groups))])
    promise(close(apart), family, "a group alone scores as in a batch", apart - scores)
    beside = replace(together, qid="other", query="a longer question about the river")
    neighbours = scorer([beside, together], [groups, groups])[1]
    promise(close(neighbours), family, "other topics change no score", neighbours - scores)
    _check_probability(family, model.width, scores)


def every_group(width: int | None, n: int) -> Groups:
    """All singles, all ordered pairs, or the whole list."""
    if width == 1:
        return np.arange(n, dtype=np.int32)[:, None]
    if width is None:
        return np.arange(n, dtype=np.int32)[None, :]
    return np.array([(a, b) for a in range(n) for b in range(n) if a != b], np.int32)


def _check_probability(family: Any, width: int | None, scores: Outcomes) -> None:
    if width == 2:
        promise(((scores >= 0) & (scores <= 1)).all(), family, "pairs have probabilities", scores)
