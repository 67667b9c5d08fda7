"""The encoder: vectors of sentence-transformers, in batches within the budget, from bi-encoders only."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sparring.rerank.errors import SparringError, UsageError
from sparring.rerank.search.bi_encoder import BiEncoder, batches
from tiny_models import save_bi_encoder, save_classifier, sentence


def test_vectors_are_those_of_sentence_transformers(model: Path, encoder: BiEncoder) -> None:
    from sentence_transformers import SentenceTransformer

    rng = random.Random(2)
    texts = [sentence(rng, rng.randint(1, 60)) for _ in range(50)] + ["", "unknown ☃ text"]
    expected = SentenceTransformer(str(model), device="cpu").encode(texts, normalize_embeddings=True)
    assert np.abs(encoder.documents(texts) - expected).max() < 1e-5
    assert np.allclose(np.linalg.norm(encoder.queries(texts), axis=1), 1, atol=1e-6)


def test_prompts_pooling_and_similarity_come_from_the_model(tmp_path: Path) -> None:
    from sentence_transformers import SentenceTransformer

    path = save_bi_encoder(tmp_path, similarity="dot", prompts=True)
    encoder, reference = BiEncoder(str(path), device="cpu"), SentenceTransformer(str(path), device="cpu")
    assert encoder.identity.similarity == "dot" and not encoder.identity.normalised
    assert encoder.identity.prompts == {"query": "search query: ", "document": "passage: "}
    text = ["coffee in winter"]
    assert np.allclose(encoder.queries(text), reference.encode(["search query: coffee in winter"]), atol=1e-5)
    assert np.allclose(encoder.documents(text), reference.encode(["passage: coffee in winter"]), atol=1e-5)


@settings(deadline=None)
@given(st.lists(st.integers(1, 50), max_size=60), st.integers(1, 200))
def test_batches_hold_every_text_once_within_the_budget(lengths: list[int], budget: int) -> None:
    made = list(batches(np.array(lengths, np.int64), budget))
    assert sorted(i for batch in made for i in batch.tolist()) == list(range(len(lengths)))
    assert all(len(b) == 1 or len(b) * max(lengths[i] for i in b) <= budget for b in made)


def test_the_embedded_model_has_384_dimensions() -> None:
    encoder = BiEncoder("minilm", device="cpu")
    assert encoder.identity.dimension == 384 and encoder.identity.similarity == "cosine"
    cat, kitten, tax = encoder.documents(["a cat on a mat", "a kitten on a rug", "income tax law of 1986"])
    assert cat @ kitten > cat @ tax


def test_models_that_are_no_bi_encoders_are_refused(tmp_path: Path, model: Path) -> None:
    with pytest.raises(UsageError, match="is a cross-encoder: it reranks"):
        BiEncoder(str(save_classifier(tmp_path / "cross", "bert")))
    with pytest.raises(UsageError, match="int8"):
        BiEncoder(str(model), dtype="int8")
    manhattan = save_bi_encoder(tmp_path, similarity="manhattan")
    with pytest.raises(UsageError, match="similarity 'manhattan' cannot be indexed"):
        BiEncoder(str(manhattan), device="cpu")


def test_a_vector_that_is_not_finite_names_its_document(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    path = save_bi_encoder(tmp_path)
    weights = load_file(path / "model.safetensors")
    weights["embeddings.word_embeddings.weight"][:] = float("nan")
    save_file(weights, path / "model.safetensors", {"format": "pt"})
    with pytest.raises(SparringError, match="gives no finite vector for document 'a' and 1 more"):
        list(BiEncoder(str(path), device="cpu").collection([("a", "coffee"), ("b", "bread")], 2))
