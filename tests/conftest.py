"""The suite runs offline and away from home: any socket to another host is refused, every cache is made for it."""

from __future__ import annotations

import os
import shutil
import socket
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings
from places import SHARED

if TYPE_CHECKING:
    from worlds import World

HOME = Path(tempfile.mkdtemp(prefix="sparring-tests-"))
"""Home of this process and of every process that a test starts, so that no test reads or writes a user's."""
# one thread for each of the two processes that run the tests: tiny models gain nothing from more
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.update(
    HOME=str(HOME),
    XDG_CACHE_HOME=str(HOME / "cache"),
    HF_HOME=str(HOME / "hub"),
    MPLCONFIGDIR=str(HOME / "matplotlib"),
)
os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1", TOKENIZERS_PARALLELISM="false", NO_PROGRESS="1")

settings.register_profile("suite", max_examples=40, deadline=None)  # the whole suite takes less than three minutes
settings.load_profile("suite")

LOCAL = ("127.0.0.1", "::1", "localhost")


def pytest_unconfigure() -> None:
    shutil.rmtree(HOME, ignore_errors=True)


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


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache for one test."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    return folder


@pytest.fixture(scope="session")
def world_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tiny_models import save_classifier

    return save_classifier(tmp_path_factory.mktemp("model") / "tiny", "bert")


@pytest.fixture
def world(tmp_path: Path, world_model: Path, cache: Path, capsys: pytest.CaptureFixture[str]) -> World:
    """A small world of files, any of which can be replaced, and commands that read them."""
    from worlds import World

    folder = tmp_path / "world"
    folder.mkdir()
    return World(folder, world_model, capsys)
