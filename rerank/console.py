"""What the user sees: results on stdout, progress and notes on stderr, bars only on a terminal."""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import shlex
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tqdm import tqdm

log = logging.getLogger("sparring")

_typed: list[str] = []


def configure(quiet: bool = False, debug: bool = False) -> None:
    """Sends the toolkit's log to stderr: warnings only with ``quiet``, everything with ``debug``."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(message)s"))
    log.handlers[:] = [handler]
    log.propagate = False
    log.setLevel(logging.DEBUG if debug else logging.WARNING if quiet else logging.INFO)


def remember(arguments: Sequence[str]) -> None:
    """Keeps the words of the command that runs now, for `command`."""
    _typed[:] = arguments


def command() -> str:
    """The command that runs now, as a user would type it: meta files, cards and reports name it."""
    return shlex.join(["sparring", *_typed])


def out(text: str) -> None:
    """Writes a result line to stdout."""
    sys.stdout.write(text if text.endswith("\n") else text + "\n")
    sys.stdout.flush()


def bars_wanted() -> bool:
    """True on a terminal, unless ``--quiet`` or NO_PROGRESS is set."""
    return sys.stderr.isatty() and log.isEnabledFor(logging.INFO) and not os.environ.get("NO_PROGRESS")


def progress(*, total: float | None = None, unit: str = "it", label: str = "") -> tqdm[Any]:
    """A progress bar with an estimate of the time left; invisible where bars are not wanted."""
    from tqdm import tqdm

    return tqdm(
        total=total,
        unit=unit,
        desc=label or None,
        unit_scale=True,
        file=sys.stderr,
        disable=not bars_wanted(),
        smoothing=0.1,
        dynamic_ncols=True,
    )


@contextlib.contextmanager
def quiet_transformers(level: int | None = logging.ERROR) -> Iterator[None]:
    """Keeps transformers' bars, and what it logs below ``level``, off stderr; None leaves its log alone.

    Bars and level are afterwards what they were. It is a decorator too.
    """
    library: Any = importlib.import_module("transformers.utils.logging")
    before, bars = library.get_verbosity(), library.is_progress_bar_enabled()
    if level is not None:
        library.set_verbosity(level)
    library.disable_progress_bar()
    try:
        yield
    finally:
        library.set_verbosity(before)
        if bars:
            library.enable_progress_bar()
