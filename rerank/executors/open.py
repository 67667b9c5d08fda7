"""From a loaded model to a scorer: on one device, or on many."""

from __future__ import annotations

from typing import Any

from ..engine.devices import split_devices
from ..engine.engine import Engine
from ..vocabulary import Scorer


def open_scorer(model: Any, *, device: str = "auto", **options: Any) -> Scorer:
    """The scorer of a loaded model: an `Engine`, or what a model that batches on its own (a bi-encoder) returns.

    Several devices (``cuda:0,1``) get a process each, behind a `sparring.rerank.executors.pool.Pool`. ``options`` are those
    of `Engine`.
    """
    if "," in device:
        from ..executors.pool import Pool

        return Pool(model, split_devices(device), **options)
    options["device"] = device
    own: Scorer | None = model.scorer(**options) if hasattr(model, "scorer") else None
    return Engine(model, **options) if own is None else own
