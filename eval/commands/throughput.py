"""``sparring benchmark throughput``: pairs per second of this engine and of what users run today, side by side.

Same weights, same pairs, medians of interleaved repetitions; quality beside speed: the largest difference of a
score and Kendall's tau to sentence-transformers in fp32, and nDCG@10.
"""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ...rerank.commands.options import CommonOptions
from ...rerank.console import log, out, quiet_transformers
from ...rerank.data.atomic import atomic_write, check_output
from ...rerank.errors import SparringError, UsageError
from ..speed.contenders import (
    Contender,
    Ours,
    Rerankers,
    SentenceTransformers,
    Timing,
    has_rerankers,
    interleaved,
)
from ..speed.hardware import forward_flops, gemm_rates, machine, peak_memory, rerank_made_up, warn_if_busy
from ..speed.inputs import Pairs, build_cross_encoder, lengthened, load_pairs
from ..speed.results import Row, as_table, plot, ratios, ratios_text, summary, write_json

PARITY = 1e-3
"""How far an fp32 score of a GPU may be from the processor's: more is a fault, and nothing is measured."""
BATCHES = {"cpu": (8, 16, 32, 64), "cuda": (64, 128, 256, 512, 1024)}


@dataclass(frozen=True, kw_only=True)
class Options(CommonOptions):
    """Measure throughput against sentence-transformers and, where it is installed, rerankers."""

    output: Path
    """JSON with all figures; a Markdown table and a plot (extra: report) are written beside it."""
    dataset: str = "pydocs"
    """Collection of the pairs: a folder, irds:<id>, or pydocs, the embedded one."""
    run: Path | None = None
    """Candidates; by default the judged documents of a topic, and others by chance."""
    pairs: int = 300
    """About so many pairs, in whole topics of up to 100; 0 takes all."""
    repeats: int = 3
    """Repetitions; medians are reported."""
    size: Literal["minilm", "bert-base", "tiny"] = "minilm"
    """Body of the cross-encoder: the embedded MiniLM-L6, or BERT with random weights."""
    tokens: Literal[0, 128, 512] = 0
    """Lengthen every passage so that all inputs have so many tokens; 0 leaves them as they are."""
    peers: str | None = None
    """Python of an environment with `rerankers`; by default the variable SPARRING_PEERS_PYTHON."""
    quick: bool = False
    """Few pairs, one repetition, no memory measurement: shows that it works, measures nothing."""


def main(options: Options) -> None:
    """Builds the model, measures everybody in turn, and writes JSON, table and plot."""
    from ...rerank.engine.devices import choose_device

    check_output(options.output, options.overwrite)
    if options.pairs < 0 or options.repeats < 1:
        raise UsageError("--pairs must be 0 or more and --repeats at least 1")
    device = choose_device(options.device)
    pairs = chosen_pairs(options)
    log.info("%d pairs of %d topics from %s on %s", len(pairs), len(pairs.topics), pairs.source, device)
    if options.dry_run:
        return
    warn_if_busy()
    with quiet_transformers(), tempfile.TemporaryDirectory() as scratch:
        folder = build_cross_encoder(Path(scratch) / "model", options.size, options.seed)
        report = measured(options, folder, device, pairs)
    write_json(options.output, report)
    table = as_table(report["rows"])
    with atomic_write(options.output.with_suffix(".md")) as stream:
        stream.write(table.markdown() + "\n" + ratios_text(report["ratios"]))
    plot(report, options.output.with_suffix(".svg"))
    out(table.text() + "\n" + ratios_text(report["ratios"]))


def chosen_pairs(options: Options) -> Pairs:
    """The pairs that the options name, lengthened where fixed lengths are asked."""
    depth, limit = (20, 40) if options.quick else (100, options.pairs)
    pairs = load_pairs(options.dataset, options.run, limit, depth)
    return lengthened(pairs, options.tokens) if options.tokens else pairs


def measured(options: Options, folder: Path, device: Any, pairs: Pairs) -> dict[str, Any]:
    """Everything that goes into the JSON file."""
    import torch
    from transformers import AutoConfig, AutoTokenizer

    from ...rerank.engine.devices import choose_dtype, default_budget

    limit = options.tokens or 512
    config = AutoConfig.from_pretrained(folder)
    encoded = AutoTokenizer.from_pretrained(folder)(pairs.flat(), truncation="longest_first", max_length=limit)
    tokens = np.array([len(ids) for ids in encoded["input_ids"]])
    flops = forward_flops(config, tokens)
    description = machine(device)
    difference = parity(folder, device, load_warm(pairs), limit) if device.type != "cpu" else None
    contenders = line_up(options, folder, device, pairs, limit)
    log.info("warming up")
    for contender in contenders[:-1] if isinstance(contenders[-1], Rerankers) else contenders:
        contender.measure(load_warm(pairs))
    timings: dict[int, list[Timing]] = {id(contender): [] for contender in contenders}
    for contender, timing in interleaved(contenders, pairs, 1 if options.quick else options.repeats):
        timings[id(contender)].append(timing)
        log.info("%s (%s): %.1f pairs/s", contender.name, contender.settings, len(pairs) / timing.seconds)
    reference = timings[id(contenders[0])][0].scores
    rows = [summary(c, timings[id(c)], pairs, int(tokens.sum()), flops, reference) for c in contenders]
    gemm = {
        str(dtype).removeprefix("torch."): gemm_rates(config, default_budget(device), device, dtype, options.quick)
        for dtype in dict.fromkeys([torch.float32, choose_dtype(options.dtype, device)])
    }
    return {
        "machine": description,
        "task": {
            "pairs": len(pairs),
            "topics": len(pairs.topics),
            "source": Path(pairs.source.split(",")[0]).name + "," + pairs.source.partition(",")[2],
            "tokens_mean": round(float(tokens.mean()), 1),
            "tokens_total": int(tokens.sum()),
            "model": options.size,
            "gflop_total": round(flops / 1e9, 1),
            "repeats": 1 if options.quick else options.repeats,
            "seed": options.seed,
        },
        **({} if difference is None else {"difference_to_cpu": difference}),
        "gemm_gflops": gemm,
        "rows": [{name: getattr(row, name) for name in Row.__slots__} for row in rows],
        "memory": {} if options.quick else memory(folder, str(device), torch.get_num_threads()),
        "ratios": ratios(rows, gemm, device.type),
    }


def parity(folder: Path, device: Any, pairs: Pairs, limit: int) -> float:
    """The largest difference of an fp32 score on this device from the processor's.

    Raises:
        SparringError: it is larger than ``PARITY``.
    """
    import torch

    there, here = (
        Ours(folder, place, "float32", limit).measure(pairs).scores for place in (device, torch.device("cpu"))
    )
    difference = float(np.abs(there - here).max())
    log.info("%d pairs on %s and on the processor: scores differ by at most %.1e", len(pairs), device, difference)
    if not difference <= PARITY:
        raise SparringError(
            f"{device} gives other scores than the processor: up to {difference:.1e} apart, more than {PARITY:g}"
        )
    return difference


def line_up(options: Options, folder: Path, device: Any, pairs: Pairs, limit: int) -> list[Contender]:
    """The contenders, sentence-transformers in fp32 first; what cannot take part is said."""
    import torch

    from ...rerank.engine.devices import choose_dtype, dtype_name

    low = dtype_name(choose_dtype(options.dtype, device))
    best = SentenceTransformers(folder, device, low, 32, "sentence-transformers, best setting", limit)
    step = max(1, len(pairs) // 256)
    best.tune(pairs.flat()[::step], (8, 16) if options.quick else BATCHES[device.type])
    contenders: list[Contender] = [
        SentenceTransformers(folder, device, "float32", 32, "sentence-transformers, as called", limit),
        best,
        Ours(folder, device, "float32", limit),
        Ours(folder, device, options.dtype, limit),
        Ours(folder, device, options.dtype, limit, ledger=True),
    ]
    python = options.peers or os.environ.get("SPARRING_PEERS_PYTHON")
    if python and has_rerankers(python):
        contenders.append(Rerankers(python, folder, device, "float32", 32, torch.get_num_threads()))
    else:
        log.warning("no row for rerankers: name a Python that has it by --peers or SPARRING_PEERS_PYTHON")
    return contenders


def load_warm(pairs: Pairs) -> Pairs:
    """The first topic alone."""
    return Pairs(pairs.source, pairs.topics[:1], None)


def memory(folder: Path, device: str, threads: int) -> dict[str, float]:
    """Peak resident memory of reranking few and four times as many topics, in MiB, each in a fresh process."""
    few, many = 64, 256
    return {
        f"{count}_topics_mib": round(peak_memory(rerank_made_up, str(folder), count, device, "auto", threads), 1)
        for count in (few, many)
    }
