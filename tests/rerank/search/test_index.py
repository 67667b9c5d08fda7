"""Indexes: they find what exact search finds, refuse what does not fit, and are whole or absent."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sparring.rerank.commands.search_adaptive import check_vectors, item_vectors
from sparring.rerank.data.datasets import Dataset, open_dataset
from sparring.rerank.data.locks import LockedError, hold
from sparring.rerank.errors import InputError, MissingResourceError, SparringError, UsageError
from sparring.rerank.search.bi_encoder import BiEncoder
from sparring.rerank.search.build_index import build_index, encode_collection
from sparring.rerank.search.exact import exact_search
from sparring.rerank.search.index import Ids, Index, as_topics, pack_ids
from sparring.rerank.search.index_types import Layout
from tiny_search import Built, write_collection

TYPES = ("flat", "hnsw", "ivf", "ivfpq")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory, encoder: BiEncoder) -> Built:
    return Built(write_collection(tmp_path_factory.mktemp("large"), 1200), {"cosine": encoder})


@pytest.mark.parametrize(
    ("kind", "similarity"),
    [
        *((kind, "cosine") for kind in TYPES),
        ("flat", "dot"),
        ("ivf", "dot"),
        ("flat", "euclidean"),
        ("hnsw", "euclidean"),
    ],
)
def test_every_index_finds_what_exact_search_finds(built: Built, kind: str, similarity: str) -> None:
    index, encoder = built.index(kind, similarity), built.encoder(similarity)
    assert len(index) == 1200 and index.ids[7] == "d7"
    queries = encoder.queries(list(built.dataset().queries.values()))
    vectors = built.index("flat", similarity).vectors()
    assert vectors is not None
    exact, exact_scores = exact_search(queries, vectors, 50, similarity)
    found, scores = index.search(queries, 50)
    recall = np.mean([len(set(a) & set(b)) / 50 for a, b in zip(found, exact, strict=True)])
    assert recall >= {"flat": 1, "hnsw": 0.98, "ivf": 0.6, "ivfpq": 0.5}[kind]
    assert (np.diff(scores, axis=1) <= 0).all()
    if kind != "ivfpq":
        known = {(q, p): s for q, row in enumerate(exact) for p, s in zip(row, exact_scores[q], strict=True)}
        shared = [
            (s, known[q, p]) for q in range(5) for p, s in zip(found[q], scores[q], strict=True) if (q, p) in known
        ]
        assert np.ptp(np.subtract(*zip(*shared, strict=True))) < 1e-4


def test_searching_every_list_is_exact(built: Built) -> None:
    queries = built.encoder("cosine").queries(list(built.dataset().queries.values()))
    exact, _ = built.index("flat").search(queries, 50)
    found, _ = built.index("ivf").search(queries, 50, probes=10**6)
    assert all(set(a) == set(b) for a, b in zip(found.tolist(), exact.tolist(), strict=True))
    deep, _ = built.index("ivf").search(queries, 1000)
    assert (deep >= 0).all()  # enough lists are visited for the depth


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("step", [2, 40])
def test_a_filter_finds_allowed_documents_only(built: Built, kind: str, step: int) -> None:
    index, dataset = built.index(kind), built.dataset()
    queries = built.encoder("cosine").queries(list(dataset.queries.values()))
    allowed = [f"d{i}" for i in range(0, 1200, step)]
    positions, scores = index.search(queries, 20, allowed_ids=[*allowed, "unknown"])
    topics = list(as_topics(list(dataset.queries), index.ids, positions, scores))
    assert all(set(docids) <= set(allowed) and len(docids) == 20 for _, docids, _ in topics)
    if kind == "flat":
        flat, _ = index.search(queries, 1200)
        assert positions.tolist() == [[p for p in row if p % step == 0][:20] for row in flat.tolist()]
    with pytest.raises(InputError, match="none of the 1 allowed ids is in the collection"):
        index.search(queries, 20, allowed_ids=["unknown"])


def test_vectors_without_an_index_are_those_in_one(built: Built) -> None:
    ids, vectors = encode_collection(built.encoder("cosine"), built.dataset().documents)
    assert list(ids) == list(built.index("flat").ids)
    stored = built.index("flat").vectors()
    assert stored is not None and (vectors == stored).all()


def test_an_index_of_another_model_or_collection_is_refused(
    tmp_path: Path, dataset: Dataset, encoder: BiEncoder
) -> None:
    build_index(dataset, encoder, tmp_path / "ix")
    assert Index.open(tmp_path / "ix", encoder=encoder.identity, collection_hash=dataset.collection_hash)
    renamed = replace(encoder.identity, model="the same under another name")
    assert Index.open(tmp_path / "ix", encoder=renamed)
    for change in ({"revision": "f" * 64}, {"dimension": 8}, {"similarity": "dot"}, {"prompts": {"query": "q: "}}):
        other = replace(encoder.identity, **change)
        with pytest.raises(InputError) as error:
            Index.open(tmp_path / "ix", encoder=other)
        assert str(encoder.identity) in str(error.value) and str(other) in str(error.value)
    with pytest.raises(InputError, match=rf"with hash {dataset.collection_hash[:12]}, the collection .* has eeee"):
        Index.open(tmp_path / "ix", collection_hash="e" * 64)


def test_damaged_files_are_found_before_faiss_reads_them(
    tmp_path: Path, dataset: Dataset, encoder: BiEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    build_index(dataset, encoder, tmp_path / "ix")
    monkeypatch.setattr("sparring.rerank.search.index.load_faiss", lambda: pytest.fail("FAISS was called"))
    path = tmp_path / "ix" / "index.faiss"
    content = path.read_bytes()
    path.write_bytes(content[:-1])
    with pytest.raises(InputError, match=r"index.faiss: 7,\d+ bytes, the manifest says 7,\d+: truncated"):
        Index.open(tmp_path / "ix")
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(InputError, match=r"index.faiss: sha256 \w+, the manifest says \w+: damaged or replaced"):
        Index.open(tmp_path / "ix")
    path.unlink()
    with pytest.raises(InputError, match="index.faiss is missing"):
        Index.open(tmp_path / "ix")
    (tmp_path / "ix" / "manifest.json").write_text("{}")
    with pytest.raises(InputError, match="not a manifest"):
        Index.open(tmp_path / "ix")
    with pytest.raises(MissingResourceError, match="is not an index"):
        Index.open(tmp_path)


def test_an_index_is_whole_or_absent(
    tmp_path: Path, dataset: Dataset, encoder: BiEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    build_index(dataset, encoder, tmp_path / "ix")
    before = (tmp_path / "ix" / "manifest.json").read_bytes()
    with monkeypatch.context() as patch, pytest.raises(OSError, match="disk"):
        patch.setattr(
            "sparring.rerank.search.build_index._write_manifest", lambda *_: (_ for _ in ()).throw(OSError("disk"))
        )
        build_index(dataset, encoder, tmp_path / "ix", Layout("hnsw"))
    assert (tmp_path / "ix" / "manifest.json").read_bytes() == before
    build_index(dataset, encoder, tmp_path / "ix", Layout("hnsw"))
    assert Index.open(tmp_path / "ix").manifest["type"] == "hnsw"
    assert sorted(p.name for p in tmp_path.iterdir() if "ix" in p.name) == ["ix"]
    assert {p.suffix for p in (tmp_path / "ix").iterdir()} == {".faiss", ".npy", ".json"}  # no pickle


def test_what_a_killed_build_left_is_cleared_and_two_builds_do_not_mix(
    tmp_path: Path, dataset: Dataset, encoder: BiEncoder
) -> None:
    left = tmp_path / ".ix.building-dead"
    left.mkdir()
    (left / "vectors").write_bytes(b"0" * 100)
    with hold(tmp_path / "ix"), pytest.raises(LockedError, match="is in use by process"):
        build_index(dataset, encoder, tmp_path / "ix")
    assert left.is_dir()
    build_index(dataset, encoder, tmp_path / "ix")
    assert not left.exists()


def test_a_full_disk_is_said_before_encoding(
    tmp_path: Path, dataset: Dataset, encoder: BiEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 10}))
    with pytest.raises(SparringError, match=r"the index needs about .* GB .* are free: make room"):
        build_index(dataset, encoder, tmp_path / "ix")
    assert not (tmp_path / "ix").exists()


@pytest.mark.parametrize(
    ("layout", "count", "message"),
    [
        ({"type": "ivf", "lists": 50}, 20, "50 lists for 20 documents"),
        ({"type": "ivfpq"}, 999, "999 documents are too few to train ivfpq"),
        ({"type": "ivfpq", "subvectors": 7}, 5000, "7 sub-vectors do not divide 32 dimensions"),
        ({"type": "flot"}, 10, r"unknown index type 'flot' \(did you mean 'flat'\?\)"),
    ],
)
def test_layouts_that_do_not_fit_are_refused(layout: dict[str, object], count: int, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Layout(**layout).factory(count, 32)  # type: ignore[arg-type]


def test_adaptive_search_needs_vectors_and_inner_products(built: Built) -> None:
    vectors = item_vectors(built.index("flat"))
    assert len(vectors) == 1200 and vectors.dtype == np.float32
    with pytest.raises(UsageError, match="type ivf does not keep: build one with --index-type flat or hnsw"):
        check_vectors("cosine", built.index("ivf"))
    with pytest.raises(UsageError, match="searches by inner products"):
        check_vectors("euclidean", None)


def test_layouts_suit_the_size_of_the_collection() -> None:
    assert Layout("ivf").factory(8_841_823, 384) == "IVF11894,Flat"
    assert Layout("ivf").factory(1000, 384) == "IVF25,Flat"
    assert Layout("ivfpq").factory(8_841_823, 384) == "IVF11894,PQ96x8np"
    assert Layout("hnsw").factory(10, 384) == "HNSW32,Flat"


@given(
    st.lists(
        st.text(st.characters(categories=["L", "N", "P", "S"]), min_size=1, max_size=10), min_size=1, max_size=20
    )
)
def test_ids_survive_packing(names: list[str]) -> None:
    ids = pack_ids(names)
    assert isinstance(ids, Ids) and list(ids) == names and ids[1:] == names[1:]


@dataclass(frozen=True)
class Stored:
    """Gives vectors that are there already to `build_index`, as the encoder would."""

    encoder: BiEncoder
    vectors: np.ndarray

    @property
    def identity(self) -> object:
        return self.encoder.identity

    @property
    def dtype(self) -> str:
        return self.encoder.dtype

    def collection(self, items: Iterable[tuple[str, str]], total: int) -> Iterator[tuple[list[str], np.ndarray]]:
        yield [docid for docid, _ in items], self.vectors


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_flat_equals_semantic_search_and_hnsw_recalls_it(shared: Path, tmp_path: Path) -> None:
    from sentence_transformers import util

    dataset, encoder = open_dataset(str(shared / "trec-dl-2019-pool")), BiEncoder("minilm", device="cpu")
    queries = encoder.queries(list(dataset.queries.values()))
    flat = build_index(dataset, encoder, tmp_path / "flat")
    positions, scores = flat.search(queries, 100)
    vectors = flat.vectors()
    assert vectors is not None
    reference = util.semantic_search(torch.from_numpy(queries), torch.from_numpy(vectors), top_k=100)
    for row, values, hits in zip(positions.tolist(), scores, reference, strict=True):
        assert np.allclose(values, [hit["score"] for hit in hits], atol=1e-6)
        assert set(row) == {int(hit["corpus_id"]) for hit in hits}  # the order differs where scores do by 1e-7
    graph = build_index(dataset, Stored(encoder, vectors), tmp_path / "hnsw", Layout("hnsw"))  # type: ignore[arg-type]
    found, _ = graph.search(queries, 100)
    recall = [len(set(a) & set(b)) / 100 for a, b in zip(found.tolist(), positions.tolist(), strict=True)]
    assert np.mean(recall) >= 0.98
