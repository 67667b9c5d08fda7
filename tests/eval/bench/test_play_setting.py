"""Budgets of the bench, and the pairs that it needs."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from sparring.eval.bench.play_setting import Budget
from sparring.eval.bench.stored_pairs import open_arena
from sparring.eval.commands import bench
from sparring.eval.measures.batched import Judged, RankValue
from sparring.eval.measures.evaluation import score_runs
from sparring.eval.measures.qrels import Qrels, read_qrels
from sparring.rerank.aggregators.bradley_terry import BradleyTerry
from sparring.rerank.data.preferences import read_preferences, write_preferences
from sparring.rerank.data.runs import Run, read_run
from sparring.rerank.errors import InputError, UsageError


@pytest.mark.parametrize(("text", "n", "calls"), [("4%", 50, 98), ("2.5n", 50, 125), ("98", 50, 98), ("1%", 5, 1)])
def test_budgets(text: str, n: int, calls: int) -> None:
    assert Budget(text).calls(n) == calls


@pytest.mark.parametrize("text", ["0%", "101%", "four", "2.5", "-3", ""])
def test_budgets_that_make_no_sense(text: str) -> None:
    with pytest.raises(UsageError, match="budget"):
        Budget(text)


def test_an_arena_needs_every_pair(ground: Path, tmp_path: Path) -> None:
    worlds = read_preferences(ground / "prefs.parquet", read_run(ground / "first.run"))
    said = worlds.preferences.topic(0)
    half = said.first < said.second
    one_order = dataclasses.replace(
        said,
        offsets=np.array([0, half.sum()]),
        first=said.first[half],
        second=said.second[half],
        probability=said.probability[half],
        prior=None,
    )
    write_preferences(tmp_path / "half.parquet", [("q0", worlds.docids[0], one_order)], {})
    arena = open_arena(tmp_path / "half.parquet", None, read_qrels(ground / "qrels.txt"))
    matrix = arena.scorer.matrices["q0"]
    np.testing.assert_allclose((matrix + matrix.T)[~np.eye(len(matrix), dtype=bool)], 1)
    few = dataclasses.replace(
        one_order,
        offsets=np.array([0, 20]),
        first=one_order.first[:20],
        second=one_order.second[:20],
        probability=one_order.probability[:20],
    )
    write_preferences(tmp_path / "few.parquet", [("q0", worlds.docids[0], few)], {})
    with pytest.raises(InputError, match="lacks .* of its .* pairs"):
        open_arena(tmp_path / "few.parquet", None, read_qrels(ground / "qrels.txt"))


def test_published_all_pairs_runs(shared: Path) -> None:
    folder = shared / "ictir22-duot5"
    qrels = read_qrels(folder / "qrels.txt")
    wanted = {"greedy": 0.7071, "pagerank": 0.6953, "bradleyterry": 0.6914, "additive": 0.6911}
    runs = [read_run(folder / "runs" / f"duot5-3b-{name}.txt") for name in wanted]
    assert score_runs(qrels, runs, "nDCG@10", "run") == pytest.approx(list(wanted.values()), abs=5e-5)
    for run, value in zip(runs, wanted.values(), strict=True):  # and by the bench's own measure
        topics = [(qid, ids) for qid, ids, _ in run.items() if qid in qrels]
        grades = [np.array([qrels[qid].get(docid, -1) for docid in ids]) for qid, ids in topics]
        judged = Judged.from_topics(grades, [np.array(list(qrels[qid].values())) for qid, _ in topics])
        assert len(topics) == 42
        assert RankValue.parse("nDCG@10")(judged.grades, judged).mean() == pytest.approx(value, abs=5e-5)


def test_photographs_have_every_pair(shared: Path) -> None:
    arena = open_arena(shared / "pairwise" / "photo200" / "photo200.csv.gz", None, None)
    assert [len(topic) for topic in arena.topics] == [200] and not arena.first_stage
    assert np.isnan(arena.scorer.matrices["all"]).sum() == 200


def test_helpers_match_the_aggregator() -> None:
    assert str(BradleyTerry(mean=0.0)) == bench.PLAIN and str(BradleyTerry()) == bench.PRIOR
    assert isinstance(Qrels({}), Qrels) and isinstance(Run.from_topics([]), Run)
