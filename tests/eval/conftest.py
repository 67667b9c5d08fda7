"""A small ground for benches."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from sparring.eval.bench.simulator import Judge, make_world, preferences
from sparring.rerank.data.preferences import write_preferences
from sparring.rerank.data.runs import write_run


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
