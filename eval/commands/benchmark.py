"""``sparring benchmark NAME``: how fast the toolkit is, and what a comparison buys, measured here.

The benchmarks are commands of their own, in a table like that of ``sparring``: modules that are imported by name
when they run, since those of training lie above this package.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence

from ...rerank.commands.config import parse
from ...rerank.console import out
from ...rerank.errors import UsageError
from ...rerank.registry import unknown

BENCHMARKS: dict[str, tuple[str, str]] = {
    "throughput": ("sparring.eval.commands.throughput", "pairs per second beside other libraries"),
    "set-encoder": ("sparring.eval.commands.set_encoder", "what it costs that passages see each other"),
    "training": ("sparring.train.commands.benchmark", "training speed beside sentence-transformers"),
    "aggregation": ("sparring.eval.commands.aggregation", "preferences to rankings beside choix and evalica"),
    "sampling": ("sparring.eval.commands.sampling", "what a comparison buys: quality against budget"),
}


def main(arguments: Sequence[str]) -> None:
    """Runs one benchmark, or lists them."""
    if not arguments:
        raise UsageError(f"name a benchmark: {', '.join(BENCHMARKS)} (sparring benchmark --help says more)")
    name, flags = arguments[0], list(arguments[1:])
    if name in ("-h", "--help"):
        out(_help())
        return
    if name not in BENCHMARKS:
        raise UsageError(unknown("benchmark", name, BENCHMARKS))
    module = importlib.import_module(BENCHMARKS[name][0])
    module.main(parse(module.Options, f"benchmark {name}", flags))


def _help() -> str:
    rows = "\n".join(f"  {name:<13}{text}" for name, (_, text) in BENCHMARKS.items())
    return (
        "usage: sparring benchmark NAME [flags]      (sparring benchmark NAME --help lists the flags)\n\n"
        f"Measure on this machine; --output is a JSON file, of sampling a folder.\n\nbenchmarks:\n{rows}\n"
    )
