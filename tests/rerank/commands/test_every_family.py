"""Every registered family, tiny, through every command that scores: a new family is tested by existing."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import save_file
from sparring.rerank import registry
from sparring.rerank.cli import main
from sparring.rerank.data.candidates import candidates
from sparring.rerank.data.datasets import open_dataset
from sparring.rerank.data.preferences import read_preferences
from sparring.rerank.data.runs import read_run
from sparring.rerank.engine.model import AnyModel, default_schedule
from sparring.rerank.executors.open import open_scorer
from sparring.rerank.ledger.ledger import Ledger
from sparring.rerank.models.families.encoders.poly_encoder import PolyCodes
from sparring.rerank.models.loading import load
from sparring.rerank.vocabulary import Groups, Scorer
from tiny_commands import write_collection
from tiny_families import allrank_state, save_jina, save_list_con_ranker, save_listt5, save_pair_rm, save_webis
from tiny_generators import save_causal, save_t5
from tiny_kalm import save_kalm
from tiny_layerwise import save_layerwise
from tiny_models import SIZES, save_bi_encoder, save_classifier
from tiny_modular import save_modular
from tiny_pairs import save_duo, save_late_pair, state_family
from tiny_remote import save_gte, save_jina_bert, save_jina_v3, save_nemotron


def poly_encoder(folder: Path) -> Path:
    path = save_bi_encoder(folder)
    torch.manual_seed(1)
    codes = PolyCodes(5, SIZES["hidden_size"])
    codes.codes.data.normal_()
    codes.save(path)
    return state_family(path, "poly_encoder")


def list_head(folder: Path) -> Path:
    save_classifier(folder, "electra")
    save_file(allrank_state(SIZES["hidden_size"]), folder / "list_head.safetensors")
    return state_family(folder, "list_head", list_head={"heads": 3})


def jina(folder: Path) -> Path:
    return save_jina(folder, save_classifier(folder.with_name("source"), "xlm-roberta"))


SAVED: dict[str, Callable[[Path], Path]] = {
    "bi_encoder": save_bi_encoder,
    "causal": lambda folder: state_family(save_causal(folder), "causal(format=qwen3)"),
    "causal_pair": lambda folder: state_family(save_causal(folder, "llama"), "causal_pair(chat=False)"),
    "cross_encoder": save_modular,
    "duo": lambda folder: save_duo(folder, "bert", 2),
    "gte": save_gte,
    "jina": jina,
    "jina_bert": save_jina_bert,
    "jina_v3": save_jina_v3,
    "kalm": lambda folder: state_family(save_kalm(folder), "kalm"),
    "late_pair": save_late_pair,
    "layerwise": save_layerwise,
    "list_con_ranker": save_list_con_ranker,
    "list_head": list_head,
    "list_llm": lambda folder: state_family(save_causal(folder), "list_llm(prompt=setwise, words=4)"),
    "listt5": lambda folder: state_family(save_listt5(folder), "listt5"),
    "nemotron": save_nemotron,
    "pair_rm": save_pair_rm,
    "poly_encoder": poly_encoder,
    "sequence_classification": lambda folder: save_classifier(folder, "bert"),
    "set_encoder": lambda folder: state_family(save_classifier(folder, "electra"), "set_encoder"),
    "t5": lambda folder: state_family(save_t5(folder), "t5(kind=mono)"),
    "webis": save_webis,
}
"""How a tiny checkpoint of each family is made."""


@pytest.fixture(scope="module")
def collection(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_collection(tmp_path_factory.mktemp("collection"))


@pytest.fixture(scope="module", params=sorted(SAVED))
def checkpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return SAVED[request.param](tmp_path_factory.mktemp("family") / request.param)


def flags(collection: Path, checkpoint: Path, *more: object) -> list[str]:
    base = [
        "--run",
        collection / "first.run",
        "--dataset",
        collection,
        "--model",
        checkpoint,
        "--dtype",
        "float32",
    ]
    return [str(flag) for flag in (*base, "--depth", 6, *more)]


def test_every_family_is_tried_here() -> None:
    assert set(SAVED) == set(registry.families.names())


def test_rerank_writes_a_run_and_counts_its_work(collection: Path, checkpoint: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.run"
    assert main(["rerank", *flags(collection, checkpoint, "--output", output)]) == 0
    before, after = read_run(collection / "first.run"), read_run(output)
    for qid in before.topics():
        names, scores = after[qid]
        assert sorted(names[:6]) == sorted(before[qid][0][:6]) and (np.diff(scores) < 0).all()
    said = yaml.safe_load((tmp_path / "out.run.meta.yaml").read_text())["method"]
    assert said["groups"] > 0 and said["tokens"] > 0 and said["seconds"] > 0
    assert said["schedule"].split("(")[0] == default_schedule(load(str(checkpoint))).split("(")[0]


def test_compare_stores_probabilities(collection: Path, checkpoint: Path, tmp_path: Path) -> None:
    output = tmp_path / "said.parquet"
    asked = ("--schedule", "neighbours", "--output", output)
    assert main(["compare", *flags(collection, checkpoint, *asked)]) == 0
    said = read_preferences(output).preferences.probability
    assert len(said) >= 4 * 5 and ((said >= 0) & (said <= 1)).all()


def test_distill_writes_scores(collection: Path, checkpoint: Path, tmp_path: Path) -> None:
    output = tmp_path / "teacher.jsonl"
    assert main(["distill", *flags(collection, checkpoint, "--output", output)]) == 0
    rows = [json.loads(line) for line in output.read_text().splitlines()]
    assert len(rows) == 4 and all(len(row["docids"]) == len(row["scores"]) == 6 for row in rows)


def test_a_resumed_rerank_is_byte_identical_without_asking_again(
    collection: Path, checkpoint: Path, tmp_path: Path
) -> None:
    ledger = ("--ledger", tmp_path / "ledger")
    for name in ("a.run", "b.run"):
        output = tmp_path / name
        assert main(["rerank", *flags(collection, checkpoint, *ledger, "--tag", "t", "--output", output)]) == 0
    assert (tmp_path / "a.run").read_bytes() == (tmp_path / "b.run").read_bytes()
    again = yaml.safe_load((tmp_path / "b.run.meta.yaml").read_text())["method"]
    assert again["tokens"] == 0


def test_opening_a_scorer_leaves_the_model_as_it_is(checkpoint: Path) -> None:
    model = load(str(checkpoint))
    before = model.fingerprint
    one, other = (open_scorer(model, device="cpu", dtype="float32", progress=False) for _ in range(2))
    assert one is not other and one.fingerprint == other.fingerprint and model.fingerprint == before
    assert one.description["model"] == str(checkpoint) and one.stats is not other.stats


def test_serve_loads_it(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", "--model", str(checkpoint), "--device", "cpu", "--dtype", "float32", "--dry-run"]) == 0
    assert "ready to serve" in capsys.readouterr().out


def test_a_run_that_was_stopped_between_rounds_goes_on_with_the_same_bits(
    collection: Path, checkpoint: Path, tmp_path: Path
) -> None:
    """What a scorer keeps from round to round is made again in the batches of an uninterrupted run."""
    model = load(str(checkpoint))
    run, dataset = read_run(collection / "first.run"), open_dataset(str(collection))
    topics = list(candidates(run, dataset, depth=8))
    rounds = rounds_of(model.width)
    with Ledger.open(tmp_path / "whole") as ledger:
        scorer = ledger.wrap(opened(model))
        whole, work = [scorer(topics, asked) for asked in rounds], scorer.stats.sequences
    with Ledger.open(tmp_path / "stopped") as ledger:
        ledger.wrap(opened(model))(topics, rounds[0])
    with Ledger.open(tmp_path / "stopped") as ledger:
        scorer = ledger.wrap(opened(model))
        again = [scorer(topics, asked) for asked in rounds]
        assert scorer.stats.sequences == work or not scorer.remembers  # batches of both rounds, as without a stop
    for one, other in zip(whole, again, strict=True):
        assert all(a.tobytes() == b.tobytes() for a, b in zip(one, other, strict=True))


def opened(model: AnyModel) -> Scorer:
    return open_scorer(model, device="cpu", dtype="bfloat16", progress=False)


def rounds_of(width: int | None) -> list[list[Groups]]:
    """Two rounds for four topics; the second asks about candidates of the first and about others."""
    first = {1: [[0], [1], [2], [3]], 2: [[0, 1], [2, 3], [1, 4]], None: [[0, 1, 2, 3]]}[width]
    second = {1: [[4], [5], [6]], 2: [[1, 0], [3, 5], [4, 6]], None: [[2, 3, 4, 5]]}[width]
    return [[np.array(rows, np.int32)] * 4 for rows in (first, second)]
