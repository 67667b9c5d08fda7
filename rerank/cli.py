"""The table of commands: ``sparring COMMAND [flags]``.

A command is a module with a frozen dataclass ``Options`` (its flags) and ``main(options)`` (its work). Modules
are imported by name when their command runs, so that ``sparring --help`` answers at once.
"""

from __future__ import annotations

import importlib
import logging
import os
import sys
from collections.abc import Sequence

from . import console
from .commands.config import parse
from .errors import SparringError, UsageError
from .registry import unknown

COMMANDS: dict[str, tuple[str, str]] = {
    "index": ("sparring.rerank.commands.index", "encode a collection with a bi-encoder into a FAISS index"),
    "search": ("sparring.rerank.commands.search", "retrieve candidates and write a TREC run"),
    "rerank": ("sparring.rerank.commands.rerank", "rerank a TREC run with a neural model"),
    "compare": ("sparring.rerank.commands.compare", "ask a model for pair preferences and store them"),
    "aggregate": ("sparring.rerank.commands.aggregate", "turn stored preferences into a ranking"),
    "fuse": ("sparring.eval.commands.fuse", "combine runs by scores or ranks"),
    "evaluate": ("sparring.eval.commands.evaluate", "score runs against qrels, with significance tests"),
    "bench": ("sparring.eval.commands.bench", "play schedules on stored preferences: quality against comparisons"),
    "simulate": (
        "sparring.eval.commands.simulate",
        "preferences of a simulated judge on real qrels, for the bench",
    ),
    "train": ("sparring.train.commands.train", "train a reranker or retriever"),
    "report": ("sparring.eval.commands.report", "one page of runs, benches, preferences, throughput and training"),
    "benchmark": (
        "sparring.eval.commands.benchmark",
        "measure speed, and what a comparison buys, on this machine",
    ),
    "serve": ("sparring.rerank.commands.serve", "serve a reranker over HTTP (POST /rerank)"),
    "mine": ("sparring.train.commands.mine", "find hard negatives for judged queries"),
    "distill": (
        "sparring.train.commands.distill",
        "write a teacher's scores or pair probabilities as training data",
    ),
    "probe": (
        "sparring.train.commands.probe",
        "rerank by a probe of a frozen language model, fitted without labels",
    ),
    "list": ("sparring.rerank.commands.list", "list the models, schedules, aggregators, losses or measures"),
    "doctor": ("sparring.rerank.commands.doctor", "say what is installed, cached and missing"),
}

GROUPS = ("benchmark",)
"""Commands of several: their ``main`` takes words, the first of which names one."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code (0 ok, 2 usage, 3 prerequisite, 4 resource, 5 input, 6 other)."""
    args = list(sys.argv[1:] if arguments is None else arguments)
    console.remember(args)
    debug = "--debug" in args
    console.configure(quiet="--quiet" in args, debug=debug)
    try:
        return _run(args)
    except SparringError as error:
        if debug:
            logging.getLogger("sparring").exception("traceback")
        sys.stderr.write(f"sparring: error: {error}\n")
        return error.exit_code
    except KeyboardInterrupt as interrupt:
        sys.stderr.write(f"sparring: {str(interrupt) or 'interrupted'}\n")
        return getattr(interrupt, "exit_code", 130)
    except BrokenPipeError:  # `sparring evaluate ... | head` is not an error
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except Exception as error:
        if debug:
            raise
        sys.stderr.write(
            f"sparring: unexpected {type(error).__name__}: {error}\n"
            "This is a bug or a failure of the machine; run again with --debug to see where it came from.\n"
        )
        return 6


def _run(args: list[str]) -> int:
    if not args or args[0] in ("-h", "--help"):
        console.out(_help())
        return 0 if args else 2
    if args[0] == "--version":
        from importlib.metadata import version

        console.out(f"sparring {version('sparring')}")
        return 0
    name, rest = args[0], args[1:]
    if name not in COMMANDS:
        raise UsageError(unknown("command", name, COMMANDS))
    module = importlib.import_module(COMMANDS[name][0])
    module.main(rest if name in GROUPS else parse(module.Options, name, rest))
    return 0


def _help() -> str:
    rows = "\n".join(f"  {name:<17}{text}" for name, (_, text) in COMMANDS.items())
    return (
        "usage: sparring COMMAND [flags]      (sparring COMMAND --help lists the flags)\n\n"
        "Rerank with pointwise, sampled-pair and listwise models; train and benchmark them.\n\n"
        f"commands:\n{rows}\n\n"
        "exit codes: 0 ok, 2 usage, 3 missing prerequisite, 4 missing resource, 5 invalid input,\n"
        "            6 runtime, 7 partial success, 130 interrupted\n"
    )


if __name__ == "__main__":
    sys.exit(main())
