"""The throughput benchmark: same scores from everybody, honest figures, files beside the output."""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path

import numpy as np
import pytest
from sparring.eval.commands import throughput
from sparring.eval.speed.hardware import forward_flops, peak_memory, rerank_made_up
from sparring.eval.speed.inputs import build_cross_encoder, lengthened, load_pairs
from sparring.eval.speed.results import Row, mean_tau, ratios, ratios_text
from sparring.rerank.errors import SparringError


@pytest.fixture
def collection(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    words = ["river", "coffee", "mountain", "learning", "search", "engine", "of", "the", "and"]
    texts = [" ".join(rng.choice(words, rng.integers(3, 40))) for _ in range(30)]
    lines = [json.dumps({"id": f"d{i}", "text": text}) for i, text in enumerate(texts)]
    (tmp_path / "corpus.jsonl").write_text("\n".join(lines) + "\n")
    (tmp_path / "queries.tsv").write_text("1\twhat is a river\n2\tsearch engine\n3\tcoffee\n")
    (tmp_path / "qrels.txt").write_text("1 0 d1 2\n1 0 d2 0\n2 0 d3 1\n3 0 d9 1\n")
    run = [f"{q} Q0 d{(i * q) % 30} {i + 1} {30 - i} tag" for q in (1, 2, 3) for i in range(8)]
    (tmp_path / "first.run").write_text("\n".join(run) + "\n")
    return tmp_path


@pytest.mark.slow
def test_everybody_scores_alike_and_all_files_are_written(collection, capsys, caplog):
    output = collection / "bench.json"
    common = {"dataset": str(collection), "run": collection / "first.run", "output": output, "size": "tiny"}
    with caplog.at_level(logging.WARNING, "sparring"):
        throughput.main(throughput.Options(**common, quick=True, peers=sys.executable))
    assert "no row for rerankers" in caplog.text
    report = json.loads(output.read_text())
    rows = {(row["name"], row["settings"]): row for row in report["rows"]}
    assert report["task"]["pairs"] == 24 and report["task"]["topics"] == 3
    assert rows["sentence-transformers, as called", "float32, batch 32"]["max_difference"] == 0
    ours = rows["sparring", "float32, by tokens"]
    assert ours["max_difference"] < 1e-5 and ours["tau"] > 0.999
    assert all(row["pairs_per_second"] > 0 and row["tau"] > 0.8 for row in rows.values())
    assert ours["ndcg"] == pytest.approx(report["rows"][0]["ndcg"], abs=1e-9)
    shown = capsys.readouterr().out
    assert "pairs/s" in shown and "times default" in shown
    assert "sparring with ledger" in (collection / "bench.md").read_text()
    assert (collection / "bench.svg").exists()
    assert report["machine"]["torch"] and report["gemm_gflops"]["float32"]["model_shapes"] > 0


def test_pairs_come_in_whole_topics_with_their_judgements(collection):
    pairs = load_pairs(str(collection), collection / "first.run", limit=17, depth=8)
    assert [topic.qid for topic in pairs.topics] == ["1", "2"] and len(pairs) == 16
    assert set(pairs.qrels) == {"1", "2"}
    assert pairs.flat()[8] == ("search engine", pairs.topics[1].texts[0])
    best = np.concatenate([[2.0 * (d == "d1") + (d == "d3") for d in topic.docids] for topic in pairs.topics])
    assert pairs.ndcg(best) == 0.5  # the relevant document of topic 2 was not retrieved
    judged = load_pairs(str(collection), None, limit=0, depth=6)
    assert judged.topics[0].docids[:2] == ("d1", "d2")
    assert all(len(topic) == 6 for topic in judged.topics)
    long = lengthened(pairs, 50)
    assert all(len(text.split()) >= 50 for topic in long.topics for text in topic.texts)


def test_the_model_is_the_same_for_the_same_seed(tmp_path):
    first, again, other = (
        (build_cross_encoder(tmp_path / name, "tiny", seed) / "model.safetensors").read_bytes()
        for name, seed in (("a", 1), ("b", 1), ("c", 2))
    )
    assert first == again != other


def test_operations_are_counted_by_hand():
    class Config:
        hidden_size, intermediate_size, num_hidden_layers = 4, 8, 3

    linear = 2 * 5 * (4 * 16 + 2 * 32)  # two sequences of 2 and 3 tokens
    attention = 4 * (2 * 2 + 3 * 3) * 4
    assert forward_flops(Config, np.array([2, 3])) == 3 * (linear + attention)


def test_tau_is_averaged_over_topics():
    up, down = np.arange(3.0), -np.arange(3.0)
    assert mean_tau([up, up], [up, down]) == 0.0
    assert mean_tau([up, np.ones(1)], [up, np.ones(1)]) == 1.0


@pytest.mark.slow
def test_memory_is_flat_in_the_number_of_topics(tmp_path):
    folder = str(build_cross_encoder(tmp_path / "model", "tiny"))
    few, many = (peak_memory(rerank_made_up, folder, count, "cpu", "float32", 1) for count in (100, 1600))
    assert many < 1.05 * few + 8


def test_ratios_are_of_the_best_precision_against_both_settings():
    def row(name: str, settings: str, rate: float, ndcg: float) -> Row:
        return Row(name, settings, rate, rate, 0.0, rate, 0.0, 1.0, ndcg, [])

    rows = [
        row("sentence-transformers, as called", "float32, batch 32", 10.0, 0.5),
        row("sentence-transformers, best setting", "bfloat16, batch 16", 20.0, 0.5),
        row("sparring", "float32, by tokens", 15.0, 0.5),
        row("sparring", "bfloat16, by tokens", 30.0, 0.49),
        row("sparring with ledger", "bfloat16, by tokens", 29.0, 0.49),
    ]
    gemm = {name: {"model_shapes": 40.0, "best": 60.0} for name in ("float32", "bfloat16")}
    found = ratios(rows, gemm, "cpu")
    assert found == {"times_default": 3.0, "times_best": 1.5, "share_of_gemm": 0.75, "ndcg_difference": 0.01}
    assert ratios(rows, gemm, "cuda")["share_of_gemm"] == 0.5
    assert ratios_text(found).splitlines()[:2] == ["times default: 3", "times best: 1.5"]


def test_nothing_is_measured_on_a_device_with_other_scores(collection, tmp_path, monkeypatch):
    import torch

    folder = build_cross_encoder(tmp_path / "model", "tiny")
    pairs = load_pairs(str(collection), collection / "first.run", limit=8, depth=8)
    cpu = torch.device("cpu")
    assert throughput.parity(folder, cpu, pairs, 512) == 0.0
    monkeypatch.setattr(throughput, "PARITY", -1.0)
    with pytest.raises(SparringError, match="other scores than the processor"):
        throughput.parity(folder, cpu, pairs, 512)
