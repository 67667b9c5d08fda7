"""Adaptive search: exact where the scores have the promised structure, within the budget, better than reranking."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from sparring.rerank.cli import main
from sparring.rerank.data.runs import read_run
from sparring.rerank.errors import InputError, UsageError
from sparring.rerank.search.adaptive import Positions, Scores, Task, adaptive
from tiny_models import save_bi_encoder, save_classifier, sentence


class Matrix:
    """A cross-encoder that is a table of scores (queries are row numbers), and counts what it is asked."""

    def __init__(self, scores: np.ndarray) -> None:
        self.scores = scores
        self.asked: Counter[tuple[str, int]] = Counter()

    def __call__(self, queries: Sequence[str], items: Positions) -> Scores:
        for query, row in zip(queries, items, strict=True):
            self.asked.update((query, item) for item in row.tolist())
        return np.array([self.scores[int(q)][row] for q, row in zip(queries, items, strict=True)])

    def calls(self, query: str) -> int:
        return sum(count for (name, _), count in self.asked.items() if name == query)


def problem(seed: int, queries: int = 6, items: int = 400, dimension: int = 8) -> tuple[np.ndarray, np.ndarray]:
    """Vectors of queries and items, of length 1."""
    rng = np.random.default_rng(seed)
    sets = [rng.normal(size=(count, dimension)).astype(np.float32) for count in (queries, items)]
    first, second = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True) for vectors in sets)
    return first, second


def top(scores: np.ndarray, k: int) -> list[int]:
    return np.argsort(-scores, kind="stable")[:k].tolist()


def test_linear_scores_are_found_with_few_calls() -> None:
    """The cross-encoder's direction has nothing to do with the bi-encoder's: only regression finds it."""
    vectors, items = problem(0)
    truth = problem(1)[0] @ items.T * 7 - 3
    model = Matrix(truth)
    task = Task([str(i) for i in range(6)], vectors, items, model)
    positions, scores = adaptive.parse("axn(calls=40, rounds=4, ridge=1e-6)").search(
        task, 400, np.random.default_rng(0)
    )
    for query in range(6):
        assert positions[query, :10].tolist() == top(truth[query], 10)
        assert sorted(positions[query].tolist()) == list(range(400))
        assert (np.diff(scores[query]) < 0).all()
        assert model.calls(str(query)) == 40
        assert max(model.asked.values()) == 1


def test_regression_beats_reranking_at_equal_calls() -> None:
    """Scores that are partly the bi-encoder's, partly linear in another direction, partly noise."""
    recalls = {}
    vectors, items = problem(2, queries=40, items=2000, dimension=32)
    rng = np.random.default_rng(3)
    other = problem(4, queries=40, dimension=32)[0]
    truth = 10 * (vectors + other) @ items.T + 0.3 * rng.normal(size=(40, 2000))
    for spec in ("axn(calls=100, rounds=5)", "axn(calls=100, rounds=1)"):  # one round is retrieve and rerank
        task = Task([str(i) for i in range(40)], vectors, items, Matrix(truth))
        positions, _ = adaptive.parse(spec).search(task, 10, rng)
        hits = [
            len(set(row.tolist()) & set(top(scores, 10))) for row, scores in zip(positions, truth, strict=True)
        ]
        recalls[spec] = float(np.mean(hits)) / 10
    better, plain = recalls.values()
    assert better > plain + 0.2


def anchors(path: Path, rows: Sequence[int]) -> str:
    """A topics file whose queries are row numbers of the matrix."""
    path.write_text("".join(f"a{row}\t{row}\n" for row in rows))
    return str(path)


def test_low_rank_scores_are_recovered_exactly(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    truth = rng.normal(size=(36, 6)) @ rng.normal(size=(6, 300))
    path = anchors(tmp_path / "anchors.tsv", range(30))
    model = Matrix(truth)
    task = Task(
        [str(i) for i in range(30, 36)], np.zeros((6, 1), np.float32), np.zeros((300, 1), np.float32), model
    )
    positions, scores = adaptive.parse(f"anncur(queries='{path}', items=10, calls=30)").search(task, 300, rng)
    for row, query in enumerate(range(30, 36)):
        assert positions[row, :20].tolist() == top(truth[query], 20)
        np.testing.assert_allclose(scores[row, :20], truth[query][positions[row, :20]])
        assert sorted(positions[row].tolist()) == list(range(300))
        assert model.calls(str(query)) == 30
    assert model.calls("0") == 300


def test_ridge_keeps_noise_from_being_inverted(tmp_path: Path) -> None:
    rng = np.random.default_rng(6)
    truth = rng.normal(size=(60, 4)) @ rng.normal(size=(4, 500)) + 0.2 * rng.normal(size=(60, 500))
    path = anchors(tmp_path / "anchors.tsv", range(40))
    found = {}
    for ridge in (0, 20):
        task = Task(
            [str(i) for i in range(40, 60)],
            np.zeros((20, 1), np.float32),
            np.zeros((500, 1), np.float32),
            Matrix(truth),
        )
        search = adaptive.parse(f"anncur(queries='{path}', items=40, calls=60, ridge={ridge})")
        positions, _ = search.search(task, 10, np.random.default_rng(0))
        found[ridge] = np.mean(
            [len(set(p.tolist()) & set(top(truth[q], 10))) for q, p in enumerate(positions, 40)]
        )
    assert found[20] > found[0]


@settings(deadline=None, max_examples=30)
@given(
    items=st.integers(1, 30),
    calls=st.integers(1, 40),
    rounds=st.integers(1, 6),
    depth=st.integers(1, 50),
    seed=st.integers(0, 99),
    holes=st.booleans(),
)
@example(items=2, calls=6, rounds=6, depth=5, seed=0, holes=True)
def test_no_budget_is_exceeded_and_nothing_comes_twice(
    items: int, calls: int, rounds: int, depth: int, seed: int, holes: bool
) -> None:
    vectors, table = problem(seed, queries=3, items=items, dimension=4)
    truth = np.random.default_rng(seed).normal(size=(3, items))
    if holes:
        truth[:, ::3] = np.nan
    model = Matrix(truth)
    search = adaptive.parse(f"axn(calls={max(calls, rounds)}, rounds={rounds})")
    task = Task(["0", "1", "2"], vectors, table, model)
    positions, scores = search.search(task, depth, np.random.default_rng(0))
    assert positions.shape == scores.shape == (3, min(depth, items))
    for query in range(3):
        assert len(set(positions[query].tolist())) == min(depth, items)
        assert model.calls(str(query)) == min(search.calls, items)
        assert (np.diff(scores[query]) <= 0).all() and np.isfinite(scores[query]).all()


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("axm", "did you mean 'axn'"),
        ("axn(calls=3, rounds=5)", "3 calls cannot be spent in 5 rounds"),
        ("axn(ridge=0)", "ridge must be above 0"),
        ("anncur", "needs queries"),
        ("anncur(queries='x', items=200)", "200 anchor items do not fit into 100 calls"),
    ],
)
def test_bad_specs(spec: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        adaptive.parse(spec)


def test_more_anchors_than_documents(tmp_path: Path) -> None:
    path = anchors(tmp_path / "anchors.tsv", [0])
    task = Task(["0"], np.zeros((1, 1), np.float32), np.zeros((5, 1), np.float32), Matrix(np.zeros((1, 5))))
    with pytest.raises(InputError, match="50 anchor items are wanted, but the collection has 5"):
        adaptive.parse(f"anncur(queries='{path}')").search(task, 5, np.random.default_rng(0))


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Forty documents, two topics, three anchor queries, a bi-encoder and a cross-encoder."""
    data = tmp_path_factory.mktemp("data")
    rng = random.Random(2)
    corpus = [{"id": f"d{i}", "text": sentence(rng, 4 + i % 9)} for i in range(40)]
    (data / "corpus.jsonl").write_text("".join(json.dumps(record) + "\n" for record in corpus))
    (data / "queries.tsv").write_text("".join(f"q{i}\t{sentence(rng, 4)}\n" for i in range(2)))
    (data / "anchors.tsv").write_text("".join(f"a{i}\t{sentence(rng, 4)}\n" for i in range(3)))
    bi = save_bi_encoder(tmp_path_factory.mktemp("bi"))
    cross = save_classifier(tmp_path_factory.mktemp("cross") / "tiny", "bert")
    return {"data": data, "bi": bi, "cross": cross}


def search(places: dict[str, Path], output: Path, *more: str) -> int:
    data, bi = places["data"], places["bi"]
    where = [f"--dataset={data}", f"--output={output}", "--device=cpu", "--dtype=float32", "--quiet"]
    return main(["search", *where, *(more if "--model" in more else ("--model", str(bi), *more))])


@pytest.mark.usefixtures("cache")
def test_search_spends_the_calls_where_the_cross_encoder_points(places: dict[str, Path], tmp_path: Path) -> None:
    cross = f"--cross-encoder={places['cross']}"
    assert search(places, tmp_path / "all.run", cross, "--adaptive=axn(calls=40, rounds=1)") == 0
    every = read_run(tmp_path / "all.run")
    ledger = tmp_path / "ledger"
    anchored = f"--adaptive=anncur(queries='{places['data']}/anchors.tsv', items=3, calls=12)"
    for name, method in (("axn", "--adaptive=axn(calls=12, rounds=3)"), ("anncur", anchored)):
        assert search(places, tmp_path / f"{name}.run", cross, method, f"--ledger={ledger}") == 0
        run = read_run(tmp_path / f"{name}.run")
        for qid in ("q0", "q1"):
            docids, scores = run[qid]
            known = dict(zip(*every[qid], strict=True))
            assert len(docids) == len(known) == 40
            np.testing.assert_allclose(scores[:12], [known[docid] for docid in docids[:12]], atol=1e-5)
            assert (scores[12:] < scores[11]).all()
    assert "axn(calls=12, rounds=3)" in (tmp_path / "axn.run.meta.yaml").read_text()
    assert not list(tmp_path.glob(".*ledger*"))


@pytest.mark.usefixtures("cache")
@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--adaptive=axn"], "needs --cross-encoder M, a pointwise reranker"),
        (["--cross-encoder={cross}"], "--cross-encoder is what --adaptive asks"),
        (["--adaptive=axm", "--cross-encoder={cross}"], "did you mean 'axn'"),
        (["--adaptive=axn", "--cross-encoder={cross}", "--allow-ids={data}/queries.tsv"], "does not go with"),
        (["--model", "bm25", "--adaptive=axn", "--cross-encoder={cross}"], "leave --index and --adaptive out"),
    ],
)
def test_flags_that_do_not_go_together(
    places: dict[str, Path], tmp_path: Path, flags: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert search(places, tmp_path / "x.run", *(flag.format(**places) for flag in flags)) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "x.run").exists()
