"""What it costs that passages see each other: the Set-Encoder against the pointwise model, and lightning-ir.

    python -m sparring.eval.speed.set_encoder --output eval/results/set-encoder-cpu.json --peer PEER/bin/python

One set of weights in lightning-ir's layout, lists of 100 passages of 160 tokens; medians of several repetitions.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...rerank.console import out
from ...rerank.data.atomic import atomic_write
from ...rerank.errors import SparringError
from ...rerank.vocabulary import Candidates, Scorer
from .contenders import quieten, timed
from .hardware import machine

BARS = {"times_pointwise_cost": 1.10, "times_lightning_ir": 3.0}
SIZES = {"base": (12, 768, 12, 3072), "minilm": (6, 384, 12, 1536), "tiny": (2, 64, 4, 128)}
QUERY_TOKENS = 8
Scores = NDArray[np.float64]


def main(arguments: list[str] | None = None) -> None:
    """Builds the weights, measures everybody in turn, writes the JSON file and prints it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="JSON file to write")
    parser.add_argument("--peer", help="Python of an environment with lightning-ir and transformers 4")
    parser.add_argument("--size", choices=SIZES, default="minilm")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--lists", type=int, default=2, help="topics per repetition")
    parser.add_argument("--passages", type=int, default=100, help="passages of a list")
    parser.add_argument("--tokens", type=int, default=160, help="tokens of an input")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args(arguments)
    quieten()
    with tempfile.TemporaryDirectory() as scratch:
        report = measured(options, save_set_encoder(Path(scratch) / "set", options.size, options.tokens))
    options.output.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(options.output) as stream:
        json.dump(report, stream, indent=1)
        stream.write("\n")
    out(json.dumps(report["rows"], indent=1) + "\n" + json.dumps(report["bars"], indent=1))


def save_set_encoder(folder: Path, size: str, tokens: int) -> Path:
    """Writes an ELECTRA of random weights in the layout of lightning-ir, with ``[INT]`` as interaction token."""
    import torch
    from safetensors.torch import save_file
    from transformers import AutoTokenizer, ElectraConfig, ElectraModel

    from ...rerank.models.checkpoints import EMBEDDED, find

    layers, hidden, heads, inner = SIZES[size]
    tokenizer: Any = AutoTokenizer.from_pretrained(find(EMBEDDED).folder)
    tokenizer.add_special_tokens({"additional_special_tokens": ["[INT]"]})
    tokenizer.model_max_length = 512
    config = ElectraConfig(
        vocab_size=-(-len(tokenizer) // 8) * 8,
        embedding_size=hidden,
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=inner,
        initializer_range=0.05,
    )
    torch.manual_seed(0)
    weights = {name: value.contiguous() for name, value in ElectraModel(config).state_dict().items()}
    weights = {
        name: value for name, value in weights.items() if not name.endswith(("position_ids", "token_type_ids"))
    }
    weights["linear.weight"] = torch.randn(1, hidden)
    folder.mkdir(parents=True)
    tokenizer.save_pretrained(folder)
    path = folder / "tokenizer_config.json"
    known = json.loads(path.read_text(encoding="utf-8"))
    known["additional_special_tokens"] = known.pop(
        "extra_special_tokens", ["[INT]"]
    )  # as transformers 4 reads them
    path.write_text(json.dumps(known), encoding="utf-8")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    settings = config.to_dict() | {
        "model_type": "set-encoder",
        "architectures": ["SetEncoderElectraModel"],
        "backbone_model_type": "electra",
        "query_length": QUERY_TOKENS,
        "doc_length": tokens - QUERY_TOKENS - 4,
        "add_extra_token": True,
        "sample_missing_docs": False,
        "pooling_strategy": "first",
        "linear_bias": False,
        "depth": 100,
    }
    (folder / "config.json").write_text(json.dumps(settings))
    return folder


def made_up(lists: int, passages: int, tokens: int) -> list[Candidates]:
    """Topics whose inputs all have so many tokens: words that are one token each."""
    words = ["river", "coffee", "mountain", "search", "engine", "winter", "garden", "market", "bread", "ocean"]
    rng = np.random.default_rng(0)

    def text(count: int) -> str:
        return " ".join(rng.choice(words, count))

    return [
        Candidates(
            str(t),
            text(QUERY_TOKENS),
            tuple(f"d{i}" for i in range(passages)),
            [text(tokens - QUERY_TOKENS - 4) for _ in range(passages)],
            np.zeros(passages),
        )
        for t in range(lists)
    ]


def measured(options: Any, folder: Path) -> dict[str, Any]:
    """Everything that goes into the JSON file."""
    import torch

    from ...rerank.engine.devices import choose_device, choose_dtype, dtype_name
    from ...rerank.executors.open import open_scorer
    from ...rerank.models.loading import load

    device = choose_device(options.device)
    dtype = dtype_name(choose_dtype("auto", device))
    topics = made_up(options.lists, options.passages, options.tokens)
    whole = [np.arange(options.passages, dtype=np.int32)[None]] * len(topics)
    singles = [np.arange(options.passages, dtype=np.int32)[:, None]] * len(topics)

    def ours(family: str, precision: str) -> Scorer:
        return open_scorer(load(str(folder), family=family), device=str(device), dtype=precision, progress=False)

    def scores(scorer: Scorer, groups: list[NDArray[np.int32]]) -> Scores:
        return np.concatenate([said.ravel() for said in scorer(topics, groups)])

    work: dict[str, Callable[[], Scores]] = {}
    for precision in dict.fromkeys(["float32", dtype]):
        sets, alone = ours("set_encoder", precision), ours("webis", precision)
        work[f"Set-Encoder, {precision}"] = lambda scorer=sets: scores(scorer, whole)  # type: ignore[misc]
        work[f"pointwise, {precision}"] = lambda scorer=alone: scores(scorer, singles)  # type: ignore[misc]
    found = {name: run() for name, run in work.items()}  # warm: tokenised, weights packed
    seconds: dict[str, list[float]] = {name: [] for name in work}
    for _ in range(options.repeats):
        for name, run in work.items():
            seconds[name].append(timed(device, run)[0])
    if options.peer:
        for precision in dict.fromkeys(["float32", dtype]):
            said = lightning(options, folder, topics, precision, torch.get_num_threads())
            name = f"lightning-ir {said['version']}, {precision}"
            seconds[name], found[name] = said["seconds"], np.array(said["scores"])
    pairs = options.lists * options.passages
    reference = found["Set-Encoder, float32"]
    rows = [
        {
            "name": name,
            "passages_per_second": round(pairs / float(np.median(times)), 2),
            "seconds": [round(value, 4) for value in times],
            "max_difference": None if "pointwise" in name else float(np.abs(found[name] - reference).max()),
        }
        for name, times in seconds.items()
    ]
    task = {name: getattr(options, name) for name in ("size", "lists", "passages", "tokens", "repeats")}
    return {"machine": machine(device), "task": task, "rows": rows, "bars": judged(rows, dtype)}


def lightning(options: Any, folder: Path, topics: list[Candidates], dtype: str, threads: int) -> dict[str, Any]:
    """What the peer says of the same lists, from a fresh process."""
    task = {
        "model": str(folder),
        "dtype": dtype,
        "threads": threads,
        "repeats": options.repeats,
        "query_length": QUERY_TOKENS,
        "doc_length": options.tokens - QUERY_TOKENS - 4,
        "topics": [[topic.query, list(topic.texts)] for topic in topics],
    }
    command = [options.peer, str(Path(__file__).with_name("peer_lightning.py"))]
    done = subprocess.run(command, input=json.dumps(task), capture_output=True, text=True, check=False)
    if done.returncode:
        raise SparringError(f"{options.peer}: {(done.stderr.strip().splitlines() or ['no message'])[-1]}")
    said: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return said


def judged(rows: list[dict[str, Any]], dtype: str) -> dict[str, Any]:
    """The bars: cost against the pointwise model of the same size, and throughput against the peer.

    The peer counts in its fastest setting, and as it is called.
    """
    rate = {row["name"]: row["passages_per_second"] for row in rows}
    own = rate[f"Set-Encoder, {dtype}"]
    cost = rate[f"pointwise, {dtype}"] / own
    bars = {"times_pointwise_cost": {"value": round(cost, 3), "bar": BARS["times_pointwise_cost"]}}
    bars["times_pointwise_cost"]["met"] = cost <= BARS["times_pointwise_cost"]
    peers = {name: value for name, value in rate.items() if name.startswith("lightning-ir")}
    called = [value for name, value in peers.items() if name.endswith("float32")]  # what it loads by itself
    for name, values in (("times_lightning_ir", list(peers.values())), ("times_lightning_ir_as_called", called)):
        if values:
            times, bar = own / max(values), BARS["times_lightning_ir"]
            bars[name] = {"value": round(times, 3), "bar": bar, "met": times >= bar}
    return bars


if __name__ == "__main__":
    main()
