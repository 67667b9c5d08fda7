"""How fast preferences become rankings: one batched call against the libraries' loops, and a whole bench.

Three figures, all without a model: Bradley-Terry MAP of many topics in one call beside a loop over choix or
evalica; all ordered pairs of 43 topics of 100 scheduled and aggregated; and `sparring bench` with 20 settings and
6 budgets. Library loops run over a few topics, on lists made beforehand.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import expit

from ...rerank.aggregators.bradley_terry import BradleyTerry
from ...rerank.data.preferences import write_preferences
from ...rerank.data.runs import write_run
from ...rerank.errors import MissingPrerequisiteError
from ...rerank.pipeline import rerank
from ...rerank.registry import aggregators, schedules
from ...rerank.vocabulary import Candidates, Preferences
from ..bench.simulator import Judge, make_world, preferences
from ..bench.stored_pairs import StoredScorer
from .hardware import timed

SCHEDULES = ("bayes", "window(skip=7)", "random", "swiss")
AGGREGATORS = ("log_odds", "bradley_terry", "greedy", "pagerank", "additive")


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """How much is aggregated and benched."""

    topics: int = 1000
    """Topics of the batched call."""
    candidates: int = 100
    """Candidates of each."""
    comparisons: int = 1000
    """Sampled comparisons of each."""
    looped: int = 5
    """Topics that the libraries' loops are measured on."""
    bench_topics: int = 43
    """Topics of the bench; its schedules, aggregators and budgets are always the same."""
    seeds: int = 10
    """Seeds of the bench."""
    jobs: int = 2
    """Processes of the bench."""


def sampled(topics: int, candidates: int, comparisons: int, seed: int = 0) -> Preferences:
    """Random hard outcomes of random pairs."""
    rng = np.random.default_rng(seed)
    skill = rng.normal(size=(topics, candidates))
    first = rng.integers(candidates, size=topics * comparisons)
    second = (first + rng.integers(1, candidates, size=len(first))) % candidates
    topic = np.repeat(np.arange(topics), comparisons)
    won = rng.random(len(first)) < expit(skill[topic, first] - skill[topic, second])
    return Preferences(
        np.full(topics, candidates),
        np.arange(topics + 1) * comparisons,
        first.astype(np.int32),
        second.astype(np.int32),
        won.astype(float),
    )


def libraries() -> tuple[Any, Any]:
    """choix and evalica, which are measured against; a MissingPrerequisiteError says how to get them."""
    try:
        import choix
        import evalica
    except ImportError as error:
        raise MissingPrerequisiteError(
            f"{error.name} is what this is measured against: pip install choix evalica"
        ) from None
    return choix, evalica


def against_libraries(sizes: Sizes, seed: int = 0) -> dict[str, Any]:
    """Seconds of one batched call, of the libraries' loops over as many topics, and the ratio of the two.

    ``largest_difference`` is that of the scores from choix's on the looped topics: the same mode, to 1e-5.
    """
    said = sampled(sizes.topics, sizes.candidates, sizes.comparisons, seed)
    aggregator = BradleyTerry(mean=0.0)
    aggregator(sampled(2, sizes.candidates, sizes.comparisons))  # imports and warm caches
    own, scores = min((timed(lambda: aggregator(said)) for _ in range(3)), key=lambda pair: pair[0])
    loops, modes = _libraries(said, min(sizes.looped, sizes.topics))
    return {
        "seconds": own,
        "loop_seconds": {name: each * sizes.topics for name, each in loops.items()},
        "times_faster": {name: each * sizes.topics / own for name, each in loops.items()},
        "largest_difference": float(np.abs(modes - scores[: len(modes)]).max()),
    }


def _libraries(said: Preferences, topics: int) -> tuple[dict[str, float], np.ndarray[Any, Any]]:
    """Mean seconds per topic of each library's method, and choix's MAP scores of these topics."""
    choix, evalica = libraries()
    size, spent = int(said.sizes[0]), dict[str, float]()
    modes = []
    for topic in range(topics):
        rows = slice(said.offsets[topic], said.offsets[topic + 1])
        xs, ys, won = said.first[rows].tolist(), said.second[rows].tolist(), said.probability[rows] > 0.5
        winners = [evalica.Winner.X if w else evalica.Winner.Y for w in won]
        pairs = [(x, y) if w else (y, x) for x, y, w in zip(xs, ys, won, strict=True)]
        methods: dict[str, Callable[[], Any]] = {
            "choix.opt_pairwise": partial(choix.opt_pairwise, size, pairs, alpha=0.5, tol=1e-8),
            "choix.ilsr_pairwise": partial(choix.ilsr_pairwise, size, pairs, alpha=0.1),
            "evalica.newman": partial(evalica.newman, xs, ys, winners),
            "evalica.bradley_terry": partial(evalica.bradley_terry, xs, ys, winners),
        }
        for name, method in methods.items():
            seconds, result = timed(method)
            spent[name] = spent.get(name, 0.0) + seconds
            if name == "choix.opt_pairwise":
                modes.append(result)
    return {name: total / topics for name, total in spent.items()}, np.concatenate(modes)


def all_pairs(topics: int = 43, candidates: int = 100) -> dict[str, Any]:
    """Seconds for all ordered pairs of all topics: scheduling and looking up, and each aggregator on them."""
    rng = np.random.default_rng(0)
    matrices = {str(t): rng.random((candidates, candidates)) for t in range(topics)}
    given = [
        Candidates(qid, "", tuple(map(str, range(candidates))), [""] * candidates, -np.arange(float(candidates)))
        for qid in matrices
    ]
    everything = schedules.parse("all")
    scheduled, ranked = timed(lambda: list(rerank(given, StoredScorer(matrices), everything, order="given")))
    said = Preferences.join(result.preferences for result in ranked)
    seconds = {name: timed(partial(aggregators.parse(name), said))[0] for name in AGGREGATORS}
    return {"pairs": len(said.first), "scheduled_seconds": scheduled, "aggregated_seconds": seconds}


def whole_bench(sizes: Sizes) -> dict[str, Any]:
    """Seconds and memory of `sparring bench` as its own process, on simulated preferences."""
    with tempfile.TemporaryDirectory(prefix="sparring-") as name:
        folder = Path(name)
        _ground(folder, sizes.bench_topics)
        flags = ["--preferences", folder / "prefs.parquet", "--run", folder / "first.run"]
        flags += ["--qrels", folder / "qrels.txt", "--output", folder / "rows.parquet", "--quiet"]
        flags += ["--schedules", *SCHEDULES, "--aggregators", *AGGREGATORS, "--jobs", sizes.jobs]
        flags += ["--seeds", *range(sizes.seeds)]
        words = [sys.executable, "-m", "sparring.rerank.cli", "bench", *map(str, flags)]
        seconds, _ = timed(lambda: subprocess.run(words, check=True, stdout=subprocess.DEVNULL))
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / (1 << (30 if sys.platform == "darwin" else 20))
    return {
        "settings": len(SCHEDULES) * len(AGGREGATORS),
        "seconds": seconds,
        "largest_process_gib": round(peak, 2),
    }


def _ground(folder: Path, topics: int, candidates: int = 50) -> None:
    """Simulated preferences, first stage and judgements of random grades."""
    rng = np.random.default_rng(0)
    worlds, run, lines = [], [], []
    for t in range(topics):
        docids = tuple(f"d{t}-{i}" for i in range(candidates))
        grades = {docid: int(grade) for docid, grade in zip(docids, rng.integers(0, 4, candidates), strict=True)}
        scores = np.sort(rng.normal(size=candidates))[::-1]
        worlds.append(make_world(f"q{t}", docids, grades, 0, scores))
        run.append((f"q{t}", docids, scores))
        lines += [f"q{t} 0 {docid} {grade}\n" for docid, grade in grades.items()]
    said = ((world.qid, world.docids, preferences(world, Judge())) for world in worlds)
    write_preferences(folder / "prefs.parquet", said, {"simulation": True})
    write_run(folder / "first.run", run, "first")
    (folder / "qrels.txt").write_text("".join(lines), encoding="utf-8")
