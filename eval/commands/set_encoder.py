"""``sparring benchmark set-encoder``: what it costs that passages see each other."""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass
from pathlib import Path

from ...rerank.commands.options import CommonOptions
from ...rerank.console import log, out, quiet_transformers
from ...rerank.data.atomic import check_output
from ...rerank.errors import UsageError
from ..speed.hardware import warn_if_busy
from ..speed.results import write_json
from ..speed.set_encoder import QUERY_TOKENS, Lists, measured, save_set_encoder


@dataclass(frozen=True, kw_only=True)
class Options(Lists, CommonOptions):
    """Measure a Set-Encoder against the pointwise model of the same size and, where it is named, lightning-ir."""

    output: Path
    """JSON file with all figures."""
    peer: str | None = None
    """Python of an environment with lightning-ir and transformers 4."""


def main(options: Options) -> None:
    """Builds the weights, measures everybody in turn, writes the JSON file and prints it."""
    from ...rerank.engine.devices import choose_device, choose_dtype, dtype_name

    check_output(options.output, options.overwrite)
    if min(options.lists, options.passages, options.repeats) < 1 or options.tokens < QUERY_TOKENS + 5:
        raise UsageError(
            f"--lists, --passages and --repeats must be at least 1, --tokens at least {QUERY_TOKENS + 5}"
        )
    device = choose_device(options.device)
    dtype = dtype_name(choose_dtype(options.dtype, device))
    log.info("%d lists of %d passages of %d tokens on %s", options.lists, options.passages, options.tokens, device)
    if options.dry_run:
        return
    warn_if_busy()
    with quiet_transformers(), tempfile.TemporaryDirectory() as scratch:
        folder = save_set_encoder(Path(scratch) / "set", options.size, options.tokens, options.seed)
        report = measured(options, folder, device, dtype, options.peer, options.seed)
    write_json(options.output, report)
    out(json.dumps(report["rows"], indent=1) + "\n" + json.dumps(report["ratios"], indent=1))
