"""A folder as a model of the hub, in a cache of the test: only there does a name decide anything."""

from __future__ import annotations

from pathlib import Path

import pytest

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def in_hub(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Puts ``folder`` into a hub's cache beside it under the name ``owner/model``, which it returns."""
    from huggingface_hub import constants

    cache = folder.parent / "hub"
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    home = cache / f"models--{name.replace('/', '--')}"
    (home / "refs").mkdir(parents=True)
    (home / "refs" / "main").write_text(COMMIT)
    (home / "snapshots").mkdir()
    (home / "snapshots" / COMMIT).symlink_to(folder)
    return name
