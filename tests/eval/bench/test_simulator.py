"""The simulated judge: seeded, calibrated, labelled, and of the form that real preferences have."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from sparring.eval.bench.simulator import (
    Judge,
    Statistics,
    World,
    calibrate,
    first_stage,
    make_world,
    measure,
    preferences,
)
from sparring.eval.measures.evaluation import score_runs
from sparring.eval.measures.qrels import read_qrels
from sparring.rerank.cli import main
from sparring.rerank.data.preferences import read_preferences
from sparring.rerank.data.runs import read_run, write_run
from sparring.rerank.pairs.diagnostics import diagnose
from sparring.rerank.vocabulary import Preferences


@pytest.fixture(scope="module")
def worlds() -> list[World]:
    rng = np.random.default_rng(0)
    made = []
    for t in range(12):
        docids = [f"d{i}" for i in range(24)]
        made.append(
            make_world(
                f"q{t}", docids, {d: int(g) for d, g in zip(docids, rng.integers(0, 4, 24), strict=True)}, seed=7
            )
        )
    return made


def test_a_perfect_judge_ranks_by_grades(worlds: list[World]) -> None:
    sure = measure(
        worlds, Judge(grade=50, document_error=1e-6, pair_error=1e-6, order_error=1e-6, order_bias=1e-6)
    )
    assert sure.ndcg == pytest.approx(1)
    assert sure.min_transitivity > 0.95 and sure.correlation > 0.99


def test_chance_comes_from_seed_and_topic_alone() -> None:
    docids, grades = ["a", "b", "c", "d"], {"a": 3, "c": 1}
    one, two, other = (make_world("q", docids, grades, seed).matrix(Judge()) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, two)
    assert not np.allclose(one[0, 1], other[0, 1])
    off = one[~np.eye(4, dtype=bool)]
    assert ((off > 0) & (off < 1)).all() and np.isnan(np.diagonal(one)).all()


def test_statistics_are_those_of_diagnose(worlds: list[World]) -> None:
    judge = Judge(order_bias=0.8)
    said = diagnose(Preferences.join(preferences(world, judge) for world in worlds))
    got = measure(worlds, judge)
    assert got.flip_rate == pytest.approx(said.flip_rate, abs=1e-12)
    assert got.correlation == pytest.approx(said.correlation, abs=1e-9)
    assert said.first_wins > 0.55  # the order bias favours whoever is shown first


def test_calibration_reaches_what_was_stated(worlds: list[World]) -> None:
    wanted = measure(worlds, Judge(1.3, 1.6, 0.3, 1.8, 0.7))
    judge = calibrate(worlds, wanted, steps=150)
    got = measure(worlds, judge).as_dict()
    assert got == pytest.approx(wanted.as_dict(), abs=0.02)
    assert judge == calibrate(worlds, wanted, steps=150)


def test_errors_are_shared_with_the_first_stage() -> None:
    rng = np.random.default_rng(1)
    docids = [f"d{i}" for i in range(400)]
    grades = {d: int(g) for d, g in zip(docids, rng.integers(0, 4, 400), strict=True)}
    slip = rng.standard_normal(400)
    scores = np.array([grades[d] for d in docids]) + slip
    for shared in (0.0, 0.6):
        world = make_world("q", docids, grades, 0, scores, shared)
        assert np.corrcoef(world.error, slip)[0, 1] == pytest.approx(shared, abs=0.12)


def test_a_first_stage_of_the_wanted_quality(worlds: list[World], tmp_path: Path) -> None:
    scores = first_stage(worlds, 0.75, seed=0)
    write_run(tmp_path / "first.run", [(w.qid, w.docids, s) for w, s in zip(worlds, scores, strict=True)], "s")
    lines = [f"{w.qid} 0 {d} {g}\n" for w in worlds for d, g in zip(w.docids, w.grades, strict=True)]
    (tmp_path / "qrels").write_text("".join(lines))
    assert score_runs(
        read_qrels(tmp_path / "qrels"), [read_run(tmp_path / "first.run")], "nDCG@10"
    ) == pytest.approx([0.75], abs=0.02)


@pytest.mark.parametrize("simulated_first_stage", [False, True])
def test_the_command(
    worlds: list[World], tmp_path: Path, simulated_first_stage: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    write_run(tmp_path / "first.run", [(w.qid, w.docids, np.arange(24.0)) for w in worlds], "first")
    lines = [f"{w.qid} 0 {d} {g}\n" for w in worlds for d, g in zip(w.docids, w.grades, strict=True)]
    (tmp_path / "qrels").write_text("".join(lines))
    prefs, made = tmp_path / "p.parquet", tmp_path / "made.run"
    files = ["--run", str(tmp_path / "first.run"), "--qrels", str(tmp_path / "qrels"), "--output", str(prefs)]
    more = ["--first-stage", str(made)] if simulated_first_stage else []
    assert main(["simulate", *files, "--depth", "20", "--ndcg", "0.8", *more]) == 0
    assert "(wanted 0.800)" in capsys.readouterr().out
    stored = read_preferences(prefs, read_run(made if simulated_first_stage else tmp_path / "first.run"), 20)
    assert stored.details["simulation"] is True and "simulated" in stored.details["note"]
    assert stored.preferences.sizes.tolist() == [20] * 12
    assert len(stored.preferences.first) == 12 * 20 * 19
    assert "simulation: true" in Path(f"{prefs}.meta.yaml").read_text()


def test_wishes_have_names() -> None:
    assert Statistics().as_dict() == {
        "flip_rate": 0.31,
        "correlation": 0.57,
        "min_transitivity": 0.76,
        "ndcg": 0.7,
    }
