"""A server that many tests ask."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from sparring.rerank.serving.server import Server
from tiny_server import serving


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with serving() as running:
        yield running
