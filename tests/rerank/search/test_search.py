"""Search: exact results with ties in order, indexes that refuse what does not fit, and the two commands."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sparring.rerank.cli import main
from sparring.rerank.commands.search_adaptive import check_vectors, item_vectors
from sparring.rerank.data.datasets import Dataset, open_dataset
from sparring.rerank.data.locks import LockedError, hold
from sparring.rerank.data.runs import read_run
from sparring.rerank.errors import InputError, MissingResourceError, SparringError, UsageError
from sparring.rerank.search.bi_encoder import BiEncoder, batches
from sparring.rerank.search.build_index import build_index, encode_collection
from sparring.rerank.search.exact import exact_search
from sparring.rerank.search.index import Ids, Index, as_topics, pack_ids
from sparring.rerank.search.index_types import Layout
from tiny_models import WORDS, save_bi_encoder, save_classifier, sentence

TYPES = ("flat", "hnsw", "ivf", "ivfpq")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_bi_encoder(tmp_path_factory.mktemp("bi"))


@pytest.fixture(scope="module")
def encoder(model: Path) -> BiEncoder:
    return BiEncoder(str(model), device="cpu")


def write_collection(path: Path, size: int) -> Path:
    """A collection of ``size`` documents, and 5 topics."""
    rng = random.Random(1)
    with (path / "corpus.jsonl").open("w") as stream:
        for number in range(size):
            stream.write(json.dumps({"id": f"d{number}", "text": sentence(rng, rng.randint(1, 40))}) + "\n")
    (path / "queries.tsv").write_text("".join(f"q{t}\t{' '.join(rng.sample(WORDS, 4))}\n" for t in range(5)))
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_collection(tmp_path_factory.mktemp("collection"), 60)


@pytest.fixture
def dataset(folder: Path) -> Dataset:
    return open_dataset(str(folder))


@dataclass
class Built:
    """Indexes of a collection of 1,200 documents, each built when first asked for."""

    root: Path
    encoders: dict[str, BiEncoder]
    made: dict[tuple[str, str], Index] = field(default_factory=dict)

    def encoder(self, similarity: str) -> BiEncoder:
        if similarity not in self.encoders:
            path = save_bi_encoder(self.root / similarity, similarity=similarity)
            self.encoders[similarity] = BiEncoder(str(path), device="cpu")
        return self.encoders[similarity]

    def dataset(self) -> Dataset:
        return open_dataset(str(self.root))

    def index(self, kind: str, similarity: str = "cosine") -> Index:
        key = kind, similarity
        if key not in self.made:
            target, layout = self.root / f"{kind}-{similarity}", Layout(kind)  # type: ignore[arg-type]
            self.made[key] = build_index(self.dataset(), self.encoder(similarity), target, layout)
        return self.made[key]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory, encoder: BiEncoder) -> Built:
    return Built(write_collection(tmp_path_factory.mktemp("large"), 1200), {"cosine": encoder})


# --- exact search


def brute_force(queries: np.ndarray, vectors: np.ndarray, depth: int, allowed: list[int]) -> list[list[int]]:
    scores = queries.astype(np.float64) @ vectors.astype(np.float64).T
    return [sorted(allowed, key=lambda i: (-row[i], i))[:depth] for row in scores]


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 200), st.integers(1, 30), st.integers(1, 64), st.integers(0, 2**32 - 1), st.booleans())
def test_exact_search_is_exact_also_in_ties(n: int, depth: int, cells: int, seed: int, filtered: bool) -> None:
    rng = np.random.default_rng(seed)
    vectors = rng.integers(-2, 3, (n, 3)).astype(np.float32)  # small integers: many ties, no rounding
    queries = rng.integers(-2, 3, (4, 3)).astype(np.float32)
    allowed = np.flatnonzero(rng.random(n) < 0.5) if filtered else np.arange(n)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sparring.rerank.search.exact.CPU_CELLS", cells)  # many small chunks
        found, scores = exact_search(queries, vectors, depth, "dot", allowed=allowed if filtered else None)
    expected = brute_force(queries, vectors, depth, allowed.tolist())
    assert [row[row >= 0].tolist() for row in found] == expected
    assert (scores[:, 1:] <= scores[:, :-1]).all()
    assert np.isneginf(scores[found < 0]).all()


def test_euclidean_scores_are_minus_distances() -> None:
    vectors = np.array([[0, 0], [3, 4], [1, 0]], np.float32)
    positions, scores = exact_search(np.zeros((1, 2), np.float32), vectors, 3, "euclidean")
    assert positions.tolist() == [[0, 2, 1]] and np.allclose(scores, [[0, -1, -5]], atol=1e-6)


@pytest.mark.gpu
def test_exact_search_on_a_gpu_is_that_on_a_cpu() -> None:
    rng = np.random.default_rng(0)
    vectors = rng.integers(-3, 4, (20000, 16)).astype(np.float32)
    here = exact_search(vectors[:50], vectors, 100, "dot")
    there = exact_search(vectors[:50], vectors, 100, "dot", device="cuda")
    assert (here[0] == there[0]).all() and (here[1] == there[1]).all()


# --- the encoder


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


# --- indexes


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
    with pytest.raises(MissingResourceError, match="is no index"):
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


@given(st.lists(st.text(min_size=1, max_size=10).filter(str.isprintable), min_size=1, max_size=20))
def test_ids_survive_packing(names: list[str]) -> None:
    ids = pack_ids(names)
    assert isinstance(ids, Ids) and list(ids) == names and ids[1:] == names[1:]


# --- the commands


def test_index_then_search_writes_a_run(
    tmp_path: Path, folder: Path, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    index, first, second = tmp_path / "ix", tmp_path / "a.run", tmp_path / "b.run"
    dataset = ["--dataset", str(folder), "--device", "cpu"]
    assert main(["index", *dataset, "--model", str(model), "--output", str(index)]) == 0
    assert main(["search", *dataset, "--index", str(index), "--output", str(first), "--depth", "30"]) == 0
    assert main(["search", *dataset, "--model", str(model), "--output", str(second), "--depth", "30"]) == 0
    assert first.read_bytes() == second.read_bytes()
    run = read_run(first)
    assert run.topics() == [f"q{t}" for t in range(5)] and len(run["q0"][0]) == 30
    assert (tmp_path / "a.run.meta.yaml").is_file() and (tmp_path / "ix.meta.yaml").is_file()
    assert capsys.readouterr().out == ""
    assert main(["search", *dataset, "--index", str(index), "--output", str(first)]) == 2
    allowed = tmp_path / "allowed.txt"
    allowed.write_text("d3\n\nd5\n")
    flags = ["--index", str(index), "--output", str(tmp_path / "c.run"), "--allow-ids", str(allowed)]
    assert main(["search", *dataset, *flags]) == 0
    assert {docid for qid in run for docid in read_run(tmp_path / "c.run")[qid][0]} == {"d3", "d5"}


def test_a_dry_run_checks_and_writes_nothing(tmp_path: Path, folder: Path, model: Path) -> None:
    flags = ["--dataset", str(folder), "--model", str(model), "--device", "cpu", "--dry-run"]
    assert main(["index", *flags, "--output", str(tmp_path / "out" / "ix")]) == 0
    assert main(["search", *flags, "--output", str(tmp_path / "out" / "r.run")]) == 0
    assert list((tmp_path / "out").iterdir()) == []


def test_commands_say_what_is_wrong(
    tmp_path: Path, folder: Path, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = save_bi_encoder(tmp_path / "other", seed=1)
    index, run = str(tmp_path / "ix"), ["--output", str(tmp_path / "r.run"), "--device", "cpu"]
    data = ["--dataset", str(folder)]
    assert main(["index", *data, "--model", str(model), "--output", index, "--device", "cpu"]) == 0
    (tmp_path / "small.jsonl").write_text('{"id": "x", "text": "y"}\n')
    (tmp_path / "none.txt").write_text("\n")
    for flags, code, message in (
        ([*data], 2, "nothing to search with"),
        ([*data, "--index", index, "--depth", "0"], 2, "--depth must be at least 1"),
        ([*data, "--index", str(tmp_path / "absent")], 4, "is no index"),
        (["--dataset", "absent", "--index", index], 4, "absent: no such folder"),
        ([*data, "--index", index, "--model", str(other)], 5, "queries would be encoded by"),
        ([*data, "--index", index, "--corpus", str(tmp_path / "small.jsonl")], 5, "with hash"),
        ([*data, "--index", index, "--allow-ids", str(tmp_path / "none.txt")], 5, "0 document ids"),
    ):
        assert main(["search", *run, *flags]) == code, message
        assert message in capsys.readouterr().err
    assert not (tmp_path / "r.run").exists()


# --- the claims about real data (minutes on two cores)


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
