"""`sparring probe`: every candidate ranked, the end that is up, and flags that are wrong."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest
from sparring.rerank.cli import main
from sparring.rerank.data.runs import read_run
from sparring.train.probes.fit import agreement
from tiny_generators import save_causal
from tiny_models import save_classifier, sentence


@pytest.fixture(scope="module")
def causal(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_causal(tmp_path_factory.mktemp("causal"))


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_classifier(tmp_path_factory.mktemp("encoder"), "bert", positions=256)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    rng = random.Random(5)
    corpus = [{"id": f"d{i}", "text": sentence(rng, 3 + i % 5)} for i in range(8)]
    (folder / "corpus.jsonl").write_text("".join(json.dumps(record) + "\n" for record in corpus))
    (folder / "queries.tsv").write_text("".join(f"q{i}\t{sentence(rng, 3)}\n" for i in range(3)))
    lines = [f"q{t} Q0 d{i} {i + 1} {20 - i} first\n" for t in range(3) for i in range(8 - t)]
    (folder / "first.run").write_text("".join(lines))
    return folder


def probe(data: Path, model: Path, output: Path, *more: str) -> int:
    return main(
        [
            "probe",
            f"--run={data}/first.run",
            f"--dataset={data}",
            f"--model={model}",
            f"--output={output}",
            "--device=cpu",
            "--dtype=float32",
            "--steps=20",
            "--restarts=2",
            "--depth=5",
            "--quiet",
            *more,
        ]
    )


@pytest.mark.parametrize(
    ("kind", "more"),
    [
        ("causal", ["--loss=ccs"]),
        ("causal", ["--loss=ccr_margin", "--prompt=pair"]),
        ("encoder", ["--loss=ccr_ordinal", "--passage-tokens=16"]),
        ("encoder", ["--loss=ccs", "--prompt=pair", "--passage-tokens=16"]),
    ],
)
def test_every_candidate_is_ranked(
    kind: str, more: list[str], data: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    first = read_run(data / "first.run")
    assert probe(data, request.getfixturevalue(kind), tmp_path / "out.run", *more) == 0
    run = read_run(tmp_path / "out.run")
    for qid, docids, scores in run.items():
        assert set(docids[:5]) == {f"d{i}" for i in range(5)} and docids[5:] == first[qid][0][5:]
        assert (np.diff(scores) < 0).all()
    order = [np.array([-docids.index(f"d{i}") for i in range(5)], float) for _, docids, _ in run.items()]
    assert agreement(order) >= 0
    assert "kendall with the run" in (tmp_path / "out.run.meta.yaml").read_text()


@pytest.mark.parametrize("prompt", ["item", "pair"])
def test_one_labelled_pair_says_which_end_is_up(causal: Path, data: Path, tmp_path: Path, prompt: str) -> None:
    rankings = []
    for better, worse in (("d1", "d3"), ("d3", "d1")):
        output = tmp_path / f"{better}.run"
        assert probe(data, causal, output, f"--prompt={prompt}", "--labelled-pair", "q1", better, worse) == 0
        docids = read_run(output)["q1"][0]
        assert docids.index(better) < docids.index(worse)
        rankings.append(docids[:5])
    assert prompt == "pair" or rankings[0] == rankings[1][::-1]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--loss=bce"], "a probe of item prompts is fitted by ccs, ccr_margin, ccr_triplet, ccr_ordinal"),
        (["--loss=ccr_triplet", "--prompt=pair"], "a probe of pair prompts is fitted by ccs, ccr_margin"),
        (["--labelled-pair", "q1", "d1", "d7"], "expected a topic and two of its first 5 documents"),
        (["--passage-tokens=0"], "--passage-tokens must be at least 1, not 0"),
    ],
)
def test_wrong_flags_are_said_before_any_work(
    causal: Path, data: Path, tmp_path: Path, flags: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert probe(data, causal, tmp_path / "out.run", *flags) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out.run").exists()


def test_a_dry_run_counts_the_prompts(
    causal: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for flags, count in ((["--loss=ccs"], 30), (["--prompt=pair"], 60), ([], 15)):
        assert probe(data, causal, tmp_path / "out.run", "--dry-run", *flags) == 0
        assert f"3 topics, 15 candidates, {count} prompts" in capsys.readouterr().out
