"""The aggregation benchmark, in small: same answers as choix, and every figure there. Its real size is a command."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from sparring.eval.commands.aggregation import Options, main
from sparring.eval.speed.aggregation import AGGREGATORS, Sizes, against_libraries, all_pairs, sampled
from sparring.rerank import cli


def test_both_sides_find_the_same_mode() -> None:
    found = against_libraries(Sizes(topics=3, candidates=12, comparisons=40, looped=2))
    assert found["largest_difference"] < 1e-5 and found["seconds"] > 0
    assert set(found["loop_seconds"]) == set(found["times_faster"]) > {"choix.opt_pairwise", "evalica.newman"}


def test_all_ordered_pairs_are_scheduled_and_aggregated() -> None:
    found = all_pairs(topics=2, candidates=7)
    assert found["pairs"] == 2 * 7 * 6 and set(found["aggregated_seconds"]) == set(AGGREGATORS)


def test_comparisons_are_drawn_between_two_candidates_of_one_topic() -> None:
    said = sampled(4, 5, 30)
    assert said.sizes.tolist() == [5] * 4 and (said.first != said.second).all()
    assert set(said.probability.tolist()) == {0.0, 1.0}


def test_sizes_that_measure_nothing_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--output", str(tmp_path / "a.json"), "--topics", "0", "--bench-topics", "0"]
    assert cli.main(["benchmark", "aggregation", *flags]) == 2
    assert "--topics, --bench-topics must be at least 1" in capsys.readouterr().err


@pytest.mark.slow
def test_the_whole_benchmark_writes_its_figures(tmp_path: Path) -> None:
    output = tmp_path / "a.json"
    main(
        Options(output=output, topics=20, candidates=20, comparisons=60, looped=1, bench_topics=2, seeds=1, jobs=1)
    )
    found = json.loads(output.read_text())
    assert found["bench"]["settings"] == 20 and found["bench"]["seconds"] > 0
    assert found["task"]["topics"] == 20 and found["machine"]["cores"] >= 1
