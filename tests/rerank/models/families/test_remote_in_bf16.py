"""Networks that are built here, in bf16 on a CPU: close to fp32, and with heads that stay in fp32."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from sparring.rerank.contracts.families import every_group
from sparring.rerank.executors.open import open_scorer
from sparring.rerank.models.loading import load
from tiny_kalm import save_kalm
from tiny_models import tiny_topics
from tiny_remote import save_gte, save_jina_bert, save_jina_v3, save_nemotron

SAVED: dict[str, Callable[[Path], Path]] = {
    "gte": save_gte,
    "gte rms": lambda folder: save_gte(folder, layer_norm_type="rms_norm"),
    "jina_bert": save_jina_bert,
    "jina_v3": save_jina_v3,
    "kalm": save_kalm,
    "nemotron": save_nemotron,
}


@pytest.mark.parametrize("name", SAVED)
def test_half_precision_is_close(tmp_path: Path, name: str) -> None:
    folder = str(SAVED[name](tmp_path / "m"))
    topics = tiny_topics(2, 6)
    whole, half = (
        open_scorer(
            load(folder, family=name if name == "kalm" else None), device="cpu", dtype=dtype, progress=False
        )
        for dtype in ("float32", "bfloat16")
    )
    groups = [every_group(whole.width, len(topic)) for topic in topics]
    expected, found = (np.concatenate([x.ravel() for x in scorer(topics, groups)]) for scorer in (whole, half))
    assert whole.fingerprint != half.fingerprint
    np.testing.assert_allclose(found, expected, atol=0.15 * max(1.0, np.abs(expected).max()))
    assert np.isfinite(found).all() and not np.array_equal(found, expected)
