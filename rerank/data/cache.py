"""The cache folder: what can be made anew, such as indexes of collections, lies there."""

from __future__ import annotations

import os
from pathlib import Path

from ..errors import MissingResourceError


def cache_place(*parts: str) -> Path:
    """``$XDG_CACHE_HOME/sparring/...`` (``~/.cache`` where unset), whether it exists or not."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache").joinpath("sparring", *parts)


def cache_folder(*parts: str) -> Path:
    """The folder of that name in the cache, created; MissingResourceError where it cannot be."""
    folder = cache_place(*parts)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise MissingResourceError(
            f"{folder}: {error.strerror}: set XDG_CACHE_HOME to a folder that can be written"
        ) from None
    return folder
