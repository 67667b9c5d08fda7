"""Tests of what adapters take from other libraries: a failure names the release that broke it and the file to mend."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version


@contextmanager
def relied_on(library: str, adapter: str) -> Iterator[None]:
    """Turns any failure inside into one that names the installed release of ``library`` and the file ``adapter``."""
    try:
        yield
    except Exception as error:
        raise AssertionError(
            f"{library} {version(library)} no longer does what {adapter} relies on: "
            f"{type(error).__name__}: {error}"
        ) from error
