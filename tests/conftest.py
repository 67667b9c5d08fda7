"""The suite runs offline: any socket to another host is refused, so a test that would download fails here."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest
from hypothesis import settings
from places import SHARED

os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1", TOKENIZERS_PARALLELISM="false", NO_PROGRESS="1")

settings.register_profile("suite", max_examples=40, deadline=None)  # the whole suite takes less than three minutes
settings.load_profile("suite")

LOCAL = ("127.0.0.1", "::1", "localhost")


@pytest.fixture(autouse=True)
def offline(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Refuses every connection but those to this machine, unless the test is marked ``network``."""
    if request.node.get_closest_marker("network"):
        return
    connect = socket.socket.connect

    def refuse(self: socket.socket, address: object) -> None:
        if self.family in (socket.AF_INET, socket.AF_INET6) and str(address[0]) not in LOCAL:  # type: ignore[index]
            raise OSError(f"the suite is offline, but something connects to {address}")
        connect(self, address)  # type: ignore[arg-type]

    monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real collections; skips where it is absent."""
    if not SHARED.is_dir():
        pytest.skip(f"real collections are not at {SHARED}")
    return SHARED
