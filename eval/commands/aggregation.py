"""``sparring benchmark aggregation``: how fast preferences become rankings, beside choix and evalica."""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from pathlib import Path

from ...rerank.commands.options import CommonOptions
from ...rerank.console import log, out
from ...rerank.data.atomic import check_output
from ...rerank.errors import UsageError
from ..speed.aggregation import Sizes, against_libraries, all_pairs, libraries, whole_bench
from ..speed.hardware import machine, warn_if_busy
from ..speed.results import write_json


@dataclass(frozen=True, kw_only=True)
class Options(Sizes, CommonOptions):
    """Measure aggregation and the bench on this machine's processor."""

    output: Path
    """JSON file with all figures."""


def main(options: Options) -> None:
    """Measures everything and writes it as JSON."""
    check_output(options.output, options.overwrite)
    sizes = {field.name: getattr(options, field.name) for field in fields(Sizes)}
    if small := [name for name, value in sizes.items() if value < 1]:
        raise UsageError(f"{', '.join('--' + name.replace('_', '-') for name in small)} must be at least 1")
    if options.candidates < 2:
        raise UsageError("--candidates must be at least 2")
    libraries()
    log.info(
        "%d topics of %d candidates and %d comparisons, a bench of %d topics and %d seeds",
        options.topics,
        options.candidates,
        options.comparisons,
        options.bench_topics,
        options.seeds,
    )
    if options.dry_run:
        return
    import torch

    warn_if_busy()
    found = {
        "bradley_terry": against_libraries(options, options.seed),
        "all_pairs": all_pairs(),
        "bench": whole_bench(options),
    }
    write_json(options.output, {"machine": machine(torch.device("cpu")), "task": sizes, **found})
    out(json.dumps(found, indent=1))
