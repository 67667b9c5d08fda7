"""What it costs that passages see each other: the Set-Encoder against the pointwise model, and lightning-ir.

One set of weights in lightning-ir's layout, lists of 100 passages of 160 tokens; medians of several repetitions.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from ...rerank.vocabulary import Candidates, Scorer
from .hardware import machine, timed
from .peer import ask

if TYPE_CHECKING:
    import torch

SIZES = {"base": (12, 768, 12, 3072), "minilm": (6, 384, 12, 1536), "tiny": (2, 64, 4, 128)}
QUERY_TOKENS = 8
Scores = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Lists:
    """What is scored: made-up lists of one length."""

    size: Literal["minilm", "base", "tiny"] = "minilm"
    """Layers and width of the model, whose weights are random."""
    lists: int = 2
    """Topics per repetition."""
    passages: int = 100
    """Passages of a list."""
    tokens: int = 160
    """Tokens of an input."""
    repeats: int = 3
    """Repetitions; medians are reported."""


def save_set_encoder(folder: Path, size: str, tokens: int, seed: int = 0) -> Path:
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
    torch.manual_seed(seed)
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


def made_up(lists: int, passages: int, tokens: int, seed: int = 0) -> list[Candidates]:
    """Topics whose inputs all have so many tokens: words that are one token each."""
    words = ["river", "coffee", "mountain", "search", "engine", "winter", "garden", "market", "bread", "ocean"]
    rng = np.random.default_rng(seed)

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


def measured(
    task: Lists, folder: Path, device: torch.device, dtype: str, peer: str | None, seed: int = 0
) -> dict[str, Any]:
    """Everything that goes into the JSON file: fp32 and ``dtype``, of us and of the peer where one is named."""
    import torch

    from ...rerank.executors.open import open_scorer
    from ...rerank.models.loading import load

    topics = made_up(task.lists, task.passages, task.tokens, seed)
    whole = [np.arange(task.passages, dtype=np.int32)[None]] * len(topics)
    singles = [np.arange(task.passages, dtype=np.int32)[:, None]] * len(topics)

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
    for _ in range(task.repeats):
        for name, run in work.items():
            seconds[name].append(timed(run, device)[0])
    if peer:
        for precision in dict.fromkeys(["float32", dtype]):
            said = lightning(peer, task, folder, topics, precision, torch.get_num_threads())
            name = f"lightning-ir {said['version']}, {precision}"
            seconds[name], found[name] = said["seconds"], np.array(said["scores"])
    pairs = task.lists * task.passages
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
    shown = {field.name: getattr(task, field.name) for field in fields(Lists)}
    return {"machine": machine(device), "task": shown, "rows": rows, "ratios": ratios(rows, dtype)}


def lightning(
    python: str, task: Lists, folder: Path, topics: list[Candidates], dtype: str, threads: int
) -> dict[str, Any]:
    """What the peer says of the same lists, from a fresh process."""
    asked = {
        "model": str(folder),
        "dtype": dtype,
        "threads": threads,
        "repeats": task.repeats,
        "query_length": QUERY_TOKENS,
        "doc_length": task.tokens - QUERY_TOKENS - 4,
        "topics": [[topic.query, list(topic.texts)] for topic in topics],
    }
    return ask(python, "peer_lightning.py", asked)


def ratios(rows: list[dict[str, Any]], dtype: str) -> dict[str, float]:
    """The cost against the pointwise model of the same size, and how many times as fast as the peer.

    The peer counts in its fastest setting, and as it is called.
    """
    rate = {row["name"]: row["passages_per_second"] for row in rows}
    own = rate[f"Set-Encoder, {dtype}"]
    found = {"times_pointwise_cost": round(rate[f"pointwise, {dtype}"] / own, 3)}
    peers = {name: value for name, value in rate.items() if name.startswith("lightning-ir")}
    called = [value for name, value in peers.items() if name.endswith("float32")]  # what it loads by itself
    for name, values in (("times_lightning_ir", list(peers.values())), ("times_lightning_ir_as_called", called)):
        if values:
            found[name] = round(own / max(values), 3)
    return found
