"""Files that are either whole or absent, and the meta file beside each output."""

from __future__ import annotations

import contextlib
import glob
import gzip
import hashlib
import io
import os
import platform
import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, cast

from ..errors import UsageError


def check_output(path: Path, overwrite: bool) -> None:
    """Refuses, before any work, an output that exists (unless ``overwrite``) or whose folder cannot be written."""
    if path.exists() and not overwrite:
        raise UsageError(f"{path} exists already: choose another --output or add --overwrite")
    folder = path.parent
    folder.mkdir(parents=True, exist_ok=True)
    if not os.access(folder, os.W_OK):
        raise UsageError(f"{folder} is not writable: choose another --output")


@contextlib.contextmanager
def atomic_write(path: Path, mode: str = "w") -> Iterator[IO[Any]]:
    """Opens a temporary file beside ``path`` and moves it into place on success; on any error nothing is left.

    ``mode`` is "w" (UTF-8 text, LF line ends) or "wb". Text under a name that ends in ``.gz`` is compressed
    without a time stamp, so that equal content gives equal bytes.
    """
    _sweep(path)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f"{_prefix(path)}{os.getpid()}.", suffix=".tmp")
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as raw:
            if path.suffix == ".gz":
                with gzip.GzipFile(filename="", mode="wb", fileobj=raw, mtime=0) as packed:
                    if mode == "wb":
                        yield cast(IO[Any], packed)
                    else:
                        with io.TextIOWrapper(packed, encoding="utf-8", newline="\n") as text:
                            yield text
            elif mode == "wb":
                yield raw
            else:
                with io.TextIOWrapper(raw, encoding="utf-8", newline="\n", write_through=False) as text:
                    yield text
                    text.flush()
                    os.fsync(raw.fileno())
            if not raw.closed:
                raw.flush()
                os.fsync(raw.fileno())
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(temporary, 0o666 & ~umask)
        os.replace(temporary, path)
        _sync_folder(path.parent)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _prefix(path: Path) -> str:
    """How temporary files of ``path`` begin: the host stands in the name, so that each sweeps its own."""
    return f".{path.name}.{zlib.crc32(platform.node().encode()):08x}-"


def _sweep(path: Path) -> None:
    """Removes the temporary files that killed processes of this host left beside ``path``."""
    prefix = _prefix(path)
    for leftover in path.parent.glob(f"{glob.escape(prefix)}*.tmp"):
        pid = leftover.name.removeprefix(prefix).partition(".")[0]
        try:
            os.kill(int(pid), 0)
        except (ProcessLookupError, OverflowError):
            leftover.unlink(missing_ok=True)
        except (PermissionError, ValueError):
            continue


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256(path: Path) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
