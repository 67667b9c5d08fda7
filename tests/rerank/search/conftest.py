"""A bi-encoder, and a collection to search."""

from __future__ import annotations

from pathlib import Path

import pytest
from sparring.rerank.data.datasets import Dataset, open_dataset
from sparring.rerank.search.bi_encoder import BiEncoder
from tiny_models import save_bi_encoder
from tiny_search import write_collection


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_bi_encoder(tmp_path_factory.mktemp("bi"))


@pytest.fixture(scope="module")
def encoder(model: Path) -> BiEncoder:
    return BiEncoder(str(model), device="cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_collection(tmp_path_factory.mktemp("collection"), 60)


@pytest.fixture
def dataset(folder: Path) -> Dataset:
    return open_dataset(str(folder))
