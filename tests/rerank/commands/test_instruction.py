"""``--instruction``: reaches the model and the meta file, changes the fingerprint, is refused where nobody is told."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from sparring.rerank.cli import main
from tiny_commands import write_collection
from tiny_generators import save_causal
from tiny_models import save_classifier
from tiny_pairs import state_family


@pytest.fixture(scope="module")
def collection(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_collection(tmp_path_factory.mktemp("collection"))


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return state_family(save_causal(tmp_path_factory.mktemp("told") / "m"), "causal(format=qwen3)")


def flags(collection: Path, model: Path, output: Path, *more: str) -> list[str]:
    run = ["--run", collection / "first.run", "--dataset", collection, "--model", model, "--output", output]
    return [*map(str, run), "--dtype", "float32", "--depth", "4", *more]


def test_an_instruction_reaches_scores_fingerprint_and_meta_file(
    collection: Path, told: Path, tmp_path: Path
) -> None:
    said = []
    for name, more in (("a", ()), ("b", ("--instruction", "Find rivers."))):
        output = tmp_path / f"{name}.run"
        assert main(["rerank", *flags(collection, told, output, "--tag", "t", *more)]) == 0
        method = yaml.safe_load((tmp_path / f"{name}.run.meta.yaml").read_text())["method"]
        said.append((method.get("instruction"), method["fingerprint"], output.read_text()))
    assert [entry[0] for entry in said] == [None, "Find rivers."]
    assert said[0][1] != said[1][1] and said[0][2] != said[1][2]


@pytest.mark.parametrize("command", ["compare", "distill"])
def test_compare_and_distill_tell_it_too(collection: Path, told: Path, tmp_path: Path, command: str) -> None:
    output = tmp_path / ("out.parquet" if command == "compare" else "out.jsonl")
    more = ["--schedule", "neighbours"] if command == "compare" else []
    assert main([command, *flags(collection, told, output, "--instruction", "Find rivers.", *more)]) == 0
    meta = yaml.safe_load(output.with_name(output.name + ".meta.yaml").read_text())
    assert meta["method"]["instruction"] == "Find rivers."


def test_serve_takes_one(told: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["serve", "--model", str(told), "--device", "cpu", "--instruction", "Find rivers.", "--dry-run"]
    assert main(asked) == 0
    assert "ready to serve" in capsys.readouterr().out


def test_models_that_are_not_told_refuse_it(
    collection: Path, told: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    encoder = save_classifier(tmp_path / "bert", "bert")
    refused = flags(collection, encoder, tmp_path / "a.run", "--instruction", "Find rivers.")
    assert main(["rerank", *refused]) == 2
    assert (
        "family sequence_classification takes no instruction: leave --instruction out" in capsys.readouterr().err
    )
    other = tmp_path / "other"
    other.mkdir()
    for path in told.iterdir():
        (other / path.name).write_bytes(path.read_bytes())
    config = json.loads((other / "config.json").read_text())
    prompt = "causal(prompt='Is {a} about {query}?', yes=' yes', no=' no')"
    (other / "config.json").write_text(json.dumps(config | {"sparring_family": prompt}))
    refused = flags(collection, other, tmp_path / "b.run", "--instruction", "Find rivers.")
    assert main(["rerank", *refused]) == 2
    assert "this format has no instruction: leave --instruction out" in capsys.readouterr().err


def test_topics_bring_their_own(
    collection: Path, told: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    queries = dict(line.split("\t") for line in (collection / "queries.tsv").read_text().splitlines())
    rows = [{"id": qid, "text": text} for qid, text in queries.items()]
    rows[1]["instruction"] = "Find rivers."
    path = tmp_path / "topics.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    written = {}
    for name, more in (
        ("own", ("--queries", str(path))),
        ("none", ()),
        ("all", ("--instruction", "Find rivers.")),
    ):
        assert main(["rerank", *flags(collection, told, tmp_path / name, "--tag", "t", *more)]) == 0
        rows = [line.split() for line in (tmp_path / name).read_text().splitlines()]
        written[name] = {qid: {row[2]: float(row[4]) for row in rows if row[0] == qid} for qid in queries}
    own, none, everybody = (written[name] for name in ("own", "none", "all"))
    assert own["q1"] == pytest.approx(everybody["q1"], abs=1e-5)
    assert own["q1"] != pytest.approx(none["q1"], abs=1e-5)
    assert own["q0"] == pytest.approx(none["q0"], abs=1e-5)
    assert own["q0"] != pytest.approx(everybody["q0"], abs=1e-5)
    encoder = save_classifier(tmp_path / "bert", "bert")
    assert main(["rerank", *flags(collection, encoder, tmp_path / "a.run", "--queries", str(path))]) == 2
    assert "takes no instruction, but 1 topics of" in capsys.readouterr().err


def test_an_adaptive_search_does_not_ignore_them(
    collection: Path, told: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "topics.jsonl"
    path.write_text('{"id": "q0", "text": "river", "instruction": "Find rivers."}\n')
    asked = ["--dataset", str(collection), "--queries", str(path), "--output", str(tmp_path / "a.run")]
    asked += ["--model", str(told), "--adaptive", "axn", "--cross-encoder", str(told), "--device", "cpu"]
    assert main(["search", *asked]) == 2
    assert "1 topics carry an instruction, which --cross-encoder would not see" in capsys.readouterr().err
