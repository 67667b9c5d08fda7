"""What every command of the table promises: --config, --dry-run, --overwrite and --quiet mean the same everywhere."""

from __future__ import annotations

import dataclasses
import gzip
import random
import resource
import subprocess
import sys
from pathlib import Path

import pytest
from every_command import MODULES, options_of
from places import ROOT
from sparring.rerank.cli import main
from sparring.rerank.commands.config import config_text, parse
from sparring.rerank.commands.options import CommonOptions
from sparring.rerank.errors import UsageError
from tiny_models import save_bi_encoder, save_classifier, sentence

EXAMPLES = {
    "index": "--dataset {data} --model {bi} --output {out}",
    "search": "--dataset {data} --model bm25 --output {out}.run",
    "rerank": "--run {run} --dataset {data} --model {cross} --output {out}.run",
    "compare": "--run {run} --dataset {data} --model {cross} --output {out}.parquet",
    "aggregate": "--preferences {data}/votes.csv --output {out}.tsv",
    "fuse": "{run} {run} --output {out}.run",
    "evaluate": "{data}/qrels.txt {run} --output {out}.txt",
    "bench": "--preferences {data}/votes.csv --reference all-pairs --output {out}.parquet",
    "simulate": "--run {run} --qrels {data}/qrels.txt --output {out}.parquet",
    "train": "--data judged(dataset='{data}') --model-name-or-path {cross} --max-steps 1 --output-dir {out}",
    "report": "{run} --qrels {data}/qrels.txt --output {out}.html",
    "benchmark throughput": "--run {run} --dataset {data} --output {out}.json",
    "benchmark set-encoder": "--size tiny --output {out}.json",
    "benchmark training": "--dataset {data} --size tiny --output {out}.json",
    "benchmark aggregation": "--topics 2 --output {out}.json",
    "benchmark sampling": "photographs --data {data} --grids {grids} --models {data} --output {out}",
    "serve": "--model {cross} --port 0",
    "mine": "--dataset {data} --run {run} --output {out}.jsonl",
    "distill": "--run {run} --dataset {data} --output {out}.jsonl",
    "probe": "--run {run} --dataset {data} --model {cross} --passage-tokens 8 --output {out}.run",
    "list": "losses",
    "doctor": "--model {cross}",
}
"""One way to call every command, without an output that exists."""
IN_FOLDERS = {"index": "kept", "train": "kept", "benchmark sampling": "photographs.md"}
"""A file in the output, where that is a folder."""
WRITING = sorted(name for name, example in EXAMPLES.items() if "{out}" in example)


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A folder of 12 documents, 2 topics, their run, qrels and votes; a bi-encoder and a cross-encoder."""
    data = tmp_path_factory.mktemp("data")
    rng = random.Random(2)
    names = [f"d{i:02}" for i in range(12)]
    (data / "corpus.jsonl").write_text("".join(f'{{"id": "{n}", "text": "{sentence(rng, 8)}"}}\n' for n in names))
    (data / "queries.tsv").write_text("".join(f"q{i}\t{sentence(rng, 4)}\n" for i in range(2)))
    ranks = [(q, n, r) for q in ("q0", "q1") for r, n in enumerate(names)]
    (data / "first.run").write_text("".join(f"{q} Q0 {n} {r + 1} {20 - r} first\n" for q, n, r in ranks))
    (data / "qrels.txt").write_text("".join(f"{q} 0 {n} {r % 3}\n" for q, n, r in ranks))
    pairs = [(a, b) for a in names for b in names if a != b]
    votes = "".join(f"{a},{b},{'left' if a < b else 'right'}\n" for a, b in pairs)
    (data / "votes.csv").write_text("left,right,winner\n" + votes)
    (data / "pairwise" / "photo200").mkdir(parents=True)
    (data / "pairwise" / "photo200" / "photo200.csv.gz").write_bytes(gzip.compress(votes.encode()))
    for model in ("pairwise-late", "pointwise-minilm", "set-encoder"):
        (data / model).mkdir()
    bi = save_bi_encoder(tmp_path_factory.mktemp("bi"))
    cross = save_classifier(tmp_path_factory.mktemp("cross") / "tiny", "bert")
    return {"data": data, "run": data / "first.run", "bi": bi, "cross": cross, "grids": ROOT / "configs" / "bench"}


def words(name: str, places: dict[str, Path], out: Path) -> list[str]:
    return [word.format(**places, out=out) for word in EXAMPLES[name].split()]


def test_every_command_has_an_example() -> None:
    assert set(EXAMPLES) == set(MODULES)


@pytest.mark.parametrize("name", sorted(MODULES))
def test_flags_are_one_frozen_dataclass(name: str) -> None:
    options = options_of(name)
    assert issubclass(options, CommonOptions) and options.__doc__
    assert options.__dataclass_params__.frozen and all(field.kw_only for field in dataclasses.fields(options))


@pytest.mark.parametrize("name", sorted(MODULES))
def test_a_config_file_says_what_flags_say(name: str, places: dict[str, Path], tmp_path: Path) -> None:
    flags = [*words(name, places, tmp_path / "out"), "--seed", "7", "--overwrite"]
    options = parse(options_of(name), name, flags)
    path = tmp_path / "config.yaml"
    path.write_text(config_text(name, options))
    again = parse(options_of(name), name, ["--config", str(path)])
    assert dataclasses.replace(again, config=None) == options
    assert parse(options_of(name), name, ["--config", str(path), "--seed", "8"]).seed == 8
    path.write_text("sede: 3\n")
    with pytest.raises(UsageError, match="did you mean 'seed'"):
        parse(options_of(name), name, ["--config", str(path)])


@pytest.mark.parametrize("name", sorted(MODULES))
def test_a_quiet_dry_run_checks_and_leaves_no_trace(
    name: str, places: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = tmp_path / "results"
    folder.mkdir()
    assert main([*name.split(), *words(name, places, folder / "out"), "--dry-run", "--quiet"]) == 0
    assert capsys.readouterr().err == ""
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("name", WRITING)
def test_what_exists_is_safe_without_overwrite(
    name: str, places: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    flags = words(name, places, tmp_path / "out")
    output = next(Path(word) for word in flags if word.startswith(str(tmp_path / "out")))
    kept = output / IN_FOLDERS[name] if name in IN_FOLDERS else output
    kept.parent.mkdir(exist_ok=True)
    kept.write_text("precious")
    assert main([*name.split(), *flags]) == 2
    assert str(output) in (said := capsys.readouterr().err) and "--overwrite" in said
    foreign = name in ("index", "train")  # they replace folders of their own kind, and no others
    assert main([*name.split(), *flags, "--overwrite", "--dry-run"]) == (2 if foreign else 0)
    assert kept.read_text() == "precious"


def test_help_takes_less_than_half_a_second() -> None:
    """Processor time, so that other programs at work do not count; the best of three."""
    taken = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-m", "sparring.rerank.cli", "--help"], check=True, capture_output=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        taken.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert min(taken) < 0.5
