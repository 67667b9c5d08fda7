"""The bench: its measures, its settings, its statistics, and the command from files to tables."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import ir_measures
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sparring.eval.bench.play_setting import Budget, Setting, play
from sparring.eval.bench.rows import Parts, play_all, read_rows
from sparring.eval.bench.simulator import Judge, make_world, preferences
from sparring.eval.bench.stored_pairs import open_arena
from sparring.eval.bench.summary import Line, front, smallest, summarise, verdict
from sparring.eval.bench.tables import needed_table, published_table
from sparring.eval.commands import bench
from sparring.eval.measures import significance
from sparring.eval.measures.batched import Judged, RankValue, kendall_tau, overlap, pad
from sparring.eval.measures.evaluation import score_runs
from sparring.eval.measures.qrels import Qrels, read_qrels
from sparring.rerank.aggregators.bradley_terry import BradleyTerry
from sparring.rerank.cli import main
from sparring.rerank.data.preferences import read_preferences, write_preferences
from sparring.rerank.data.runs import Run, read_run, write_run
from sparring.rerank.errors import InputError, UsageError

MEASURES = [
    "nDCG@10",
    "nDCG",
    "P@5",
    "P(rel=2)@10",
    "RR",
    "RR(rel=2)@10",
    "AP",
    "AP(rel=2)@10",
    "R@10",
    "Judged@10",
]


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six topics of 12 candidates (one of 9) with simulated preferences, a first stage and qrels."""
    folder = tmp_path_factory.mktemp("ground")
    rng = np.random.default_rng(3)
    topics, worlds, lines = [], [], []
    for t in range(6):
        n = 9 if t == 4 else 12
        docids = tuple(f"d{t}-{i}" for i in range(n))
        grades = {
            docid: int(g)
            for docid, g in zip(docids, rng.integers(0, 4, n), strict=True)
            if g or rng.random() < 0.7
        }
        grades[f"elsewhere{t}"] = 3
        scores = np.sort(rng.normal(size=n))[::-1]
        topics.append((f"q{t}", docids, scores))
        worlds.append(make_world(f"q{t}", docids, grades, seed=1, scores=scores))
        lines += [f"q{t} 0 {docid} {grade}\n" for docid, grade in grades.items()]
    write_run(folder / "first.run", topics, "first")
    (folder / "qrels.txt").write_text("".join(lines))
    said = ((world.qid, world.docids, preferences(world, Judge())) for world in worlds)
    write_preferences(folder / "prefs.parquet", said, {"simulation": True})
    return folder


def flags(ground: Path, output: Path, *more: str) -> list[str]:
    named = {"preferences": "prefs.parquet", "run": "first.run", "qrels": "qrels.txt"}
    files = [part for flag, name in named.items() for part in (f"--{flag}", str(ground / name))]
    small = ["--schedules", "bayes", "random", "--aggregators", "bradley_terry", "additive", "default"]
    return [
        "bench",
        *files,
        "--output",
        str(output),
        *small,
        "--budgets",
        "6%",
        "50%",
        "--seeds",
        "0",
        "1",
        *more,
    ]


# ------------------------------------------------------------------------------------------------------- measures


@settings(deadline=None, max_examples=15)
@given(st.integers(0, 2**31), st.integers(1, 40))
def test_values_equal_ir_measures(seed: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    grades = rng.integers(-1, 4, (3, n))
    extra = [rng.integers(0, 4, rng.integers(1, 6)) for _ in range(3)]
    pools = [np.concatenate([row[row >= 0], more]) for row, more in zip(grades, extra, strict=True)]
    judged = Judged.from_topics(list(grades), pools)
    orders = np.stack([rng.permutation(n) for _ in range(3)])
    ranked = np.take_along_axis(grades, orders, axis=1)
    qrels = {
        str(t): {f"d{i}": int(g) for i, g in enumerate(grades[t]) if g >= 0}
        | {f"x{i}": int(g) for i, g in enumerate(extra[t])}
        for t in range(3)
    }
    run = {str(t): {f"d{i}": float(n - rank) for rank, i in enumerate(orders[t])} for t in range(3)}
    wanted = [ir_measures.parse_measure(name) for name in MEASURES]
    theirs = {(str(m.measure), m.query_id): m.value for m in ir_measures.iter_calc(wanted, qrels, run)}
    for name, measure in zip(MEASURES, wanted, strict=True):
        ours = RankValue.parse(name)(ranked, judged)
        assert str(RankValue.parse(name)) == name
        np.testing.assert_allclose(ours, [theirs[str(measure), str(t)] for t in range(3)], atol=1e-9, err_msg=name)


@pytest.mark.parametrize(
    ("text", "message"),
    [("ERR@10", "a bench computes"), ("P", "needs a cutoff"), ("nDCG(rel=2)@5", "no option rel")],
)
def test_other_measures_are_refused(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        RankValue.parse(text)


def test_tau_and_overlap() -> None:
    rng = np.random.default_rng(0)
    one, other = (pad([rng.permutation(n) for n in (2, 7, 12)], -1) for _ in range(2))
    for t, n in enumerate((2, 7, 12)):
        left, right = np.argsort(one[t, :n]), np.argsort(other[t, :n])
        assert kendall_tau(one, other)[t] == pytest.approx(stats.kendalltau(left, right).statistic)
        shared = len(set(one[t, :n][:5]) & set(other[t, :n][:5]))
        assert overlap(one, other, 5)[t] == pytest.approx(shared / min(n, 5))


# ------------------------------------------------------------------------------------------------------- settings


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


# ----------------------------------------------------------------------------------------------------- the command


def test_from_files_to_tables(ground: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "b.parquet"
    assert main(flags(ground, output, "--jobs", "1", "--rows-tsv", "--pair-tokens", "100")) == 0
    text = capsys.readouterr()
    assert "SIMULATED" in text.err and "equivalent (TOST 0.01)" in text.out
    assert "min-transitivity" in text.err and "never below the first stage" in text.out
    columns, details = read_rows(output)
    assert details["simulation"] and details["command"].startswith("sparring ")
    named = set(zip(columns["schedule"], columns["aggregator"], columns["budget"], strict=True))
    assert {
        ("first stage", "", ""),
        ("oracle", "", ""),
        ("random order", "", ""),
        ("all", "bradley_terry", ""),
    } <= named
    assert ("all", "bradley_terry(mean=0.0)", "") in named and ("bayes", "default", "50%") in named
    assert len(columns["qid"]) == 6 * (4 + 4 + 2 * 3 * 2 * 2)
    full = columns["schedule"] == "all"
    assert (columns["tau"][full] == 1).all() and (columns["share"][full] == 1).all()
    assert (columns["tokens"] == 100 * columns["comparisons"]).all()
    sampled = columns["budget"] == "6%"
    assert columns["comparisons"][sampled].max() <= round(0.06 * 12 * 11)
    oracle = columns["nDCG@10"][columns["schedule"] == "oracle"]
    assert (columns["nDCG@10"].reshape(-1, 6) <= oracle + 1e-12).all()
    wanted = ("summary.md", "summary.tsv", "summary.tex", "full.md", "needed.tsv", "published.md", "bar.md", "tsv")
    for name in wanted:
        assert (tmp_path / f"b.{name}").stat().st_size > 0
    assert (tmp_path / "b.parquet.meta.yaml").is_file() and not list(tmp_path.glob(".b*"))
    rows = (tmp_path / "b.tsv").read_text().splitlines()
    assert len(rows) == 1 + len(columns["qid"]) and rows[0].startswith('"qid"\t"schedule"')


def test_all_pairs_equal_the_aggregate_command(ground: Path, tmp_path: Path) -> None:
    assert main(flags(ground, tmp_path / "b.parquet", "--jobs", "1", "--quiet")) == 0
    lines = summarise(read_rows(tmp_path / "b.parquet")[0], "nDCG@10")
    files = ["--preferences", str(ground / "prefs.parquet"), "--run", str(ground / "first.run")]
    for name, spec in (("bradley_terry", "bradley_terry"), ("default", "log_odds")):  # of pairs without an order
        run = tmp_path / f"{name}.run"
        assert main(["aggregate", *files, "--aggregator", spec, "--output", str(run), "--quiet"]) == 0
        value = score_runs(read_qrels(ground / "qrels.txt"), [read_run(run)], "nDCG@10")
        line = next(line for line in lines if line.name == f"all + {name}")
        assert line.mean == pytest.approx(value[0], abs=1e-9)


def test_processes_and_interruptions_change_nothing(ground: Path, tmp_path: Path) -> None:
    one, two = tmp_path / "one.parquet", tmp_path / "two.parquet"
    assert main(flags(ground, one, "--jobs", "1", "--quiet")) == 0
    options = bench.Options(
        preferences=ground / "prefs.parquet",
        run=ground / "first.run",
        qrels=ground / "qrels.txt",
        output=two,
        schedules=("bayes", "random"),
        aggregators=("bradley_terry", "additive", "default"),
        budgets=("6%", "50%"),
        seeds=(0, 1),
    )
    arena = open_arena(options.preferences, read_run(options.run), read_qrels(options.qrels))
    job = bench.prepare(arena, ("bradley_terry", "additive", "default"), (RankValue.parse("nDCG@10"),), options)
    plan = bench.plan(options)
    parts = Parts.beside(two, bench._fingerprint(options, job.aggregators))
    play_all(plan[:3], job, parts, 1)  # then the machine goes down
    before = {path: path.stat().st_mtime_ns for path in parts.folder.iterdir()}
    assert len(before) == 3
    assert main(flags(ground, two, "--jobs", "2", "--quiet")) == 0
    left, right = read_rows(one)[0], read_rows(two)[0]
    for name in left:
        if name != "seconds":
            np.testing.assert_array_equal(left[name], right[name], err_msg=name)


def test_the_order_of_topics_changes_nothing(ground: Path) -> None:
    arena = open_arena(ground / "prefs.parquet", read_run(ground / "first.run"), read_qrels(ground / "qrels.txt"))
    options = bench.Options(preferences=Path("p"), output=Path("o.parquet"))
    job = bench.prepare(arena, ("bradley_terry",), (RankValue.parse("nDCG@10"),), options)
    assert arena.judged is not None
    turned = dataclasses.replace(
        arena, topics=arena.topics[::-1], judged=Judged(arena.judged.grades[::-1], arena.judged.ideal[::-1])
    )
    other = bench.prepare(turned, ("bradley_terry",), (RankValue.parse("nDCG@10"),), options)
    setting = Setting("random", Budget("20%"), 4)
    one, two = play(setting, job), play(setting, other)
    for name in one:
        if name != "seconds":
            np.testing.assert_array_equal(one[name], two[name][::-1], err_msg=name)


def test_the_all_pairs_ranking_as_reference(ground: Path, tmp_path: Path) -> None:
    output = tmp_path / "b.parquet"
    few = ["--schedules", "random", "--aggregators", "bradley_terry(mean=0)", "--budgets", "20%", "--jobs", "1"]
    files = ["--preferences", str(ground / "prefs.parquet"), "--output", str(output), "--reference", "all-pairs"]
    assert main(["bench", *files, *few, "--quiet"]) == 0
    columns, _ = read_rows(output)
    full = (columns["schedule"] == "all") & (columns["aggregator"] == "bradley_terry(mean=0.0)")
    assert (columns["nDCG@10"][full] == 1).all() and (columns["overlap"][full] == 1).all()
    assert "first stage" not in columns["schedule"]
    assert 0 < columns["nDCG@10"][columns["schedule"] == "random"].mean() < 1


def test_everything_wrong_is_said_at_once(
    ground: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = ["--schedules", "bayse", "pointwise", "--aggregators", "gredy", "--budgets", "0%"]
    files = ["--preferences", str(ground / "prefs.parquet"), "--qrels", str(ground / "qrels.txt")]
    assert main(["bench", *files, "--output", str(tmp_path / "b.parquet"), *bad]) == 2
    said = capsys.readouterr().err
    assert all(part in said for part in ("'bayes'?", "pointwise", "'greedy'?", "0%"))
    assert main(["bench", "--preferences", "p", "--output", str(tmp_path / "b.parquet")]) == 2
    assert "--reference all-pairs" in capsys.readouterr().err


# ------------------------------------------------------------------------------------------------------ statistics


def rows_of(values: dict[tuple[str, str], np.ndarray], calls: dict[tuple[str, str], int]) -> dict[str, np.ndarray]:
    """Rows of (schedule, budget) → (seeds, topics) with one aggregator."""
    columns: dict[str, list[object]] = {}
    for (schedule, budget), table in values.items():
        for seed, row in enumerate(np.atleast_2d(table)):
            for topic, value in enumerate(row):
                cost = dict.fromkeys(("share", "rounds", "tokens", "seconds", "tau", "overlap"), 0.0)
                line = {"qid": f"q{topic}", "schedule": schedule, "aggregator": "greedy", "budget": budget}
                line |= {"seed": seed, "nDCG@10": value, "comparisons": calls[schedule, budget], **cost}
                for name, cell in line.items():
                    columns.setdefault(name, []).append(cell)
    return {name: np.array(cells) for name, cells in columns.items()}


def test_lines_are_tested_against_all_pairs() -> None:
    rng = np.random.default_rng(5)
    full = rng.uniform(0.4, 0.9, 40)
    near, far = full + rng.normal(0, 0.01, (3, 40)), full + rng.normal(-0.1, 0.05, (3, 40))
    values = {("all", ""): full, ("window", "2%"): far, ("window", "30%"): near}
    calls = {("all", ""): 2450, ("window", "2%"): 49, ("window", "30%"): 735}
    lines = summarise(rows_of(values, calls), "nDCG@10")
    assert [line.budget for line in lines] == ["", "2%", "30%"]
    whole, bad, good = lines
    assert math.isnan(whole.difference) and verdict(whole) == "" and whole.mean == pytest.approx(full.mean())
    assert bad.p == significance.paired_t(far.mean(axis=0), full) and bad.p_holm == pytest.approx(2 * bad.p)
    assert good.equivalence == significance.tost(near.mean(axis=0), full, 0.01).p
    assert (verdict(bad), verdict(good)) == ("worse", "equivalent")
    assert (bad.worst_p < 1e-6 and [line.front for line in lines] == [True, True, True]) or good.mean > whole.mean
    assert needed_table(lines, 0.01).rows[0][2].startswith("30%")
    assert published_table(lines).rows[0][0] == "greedy" and published_table(lines).rows[0][1].startswith("30%")


def test_smallest_budget_and_front() -> None:
    def line(calls: int, mean: float) -> Line:
        empty = np.empty(0)
        return Line("s", "a", f"{calls}", 1, mean, mean, mean, empty, empty, {"comparisons": float(calls)})

    lines = [line(10, 0.5), line(20, 0.7), line(30, 0.6), line(40, 0.8)]
    assert [item.budget for item in front(lines)] == ["10", "20", "40"]
    chosen = smallest(lines, [True, False, True, True])
    assert chosen is not None and chosen.budget == "30"
    assert smallest(lines, [True, True, True, False]) is None


# ------------------------------------------------------------------------------------------------- real collections


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
