"""What the user does not see: transformers' own bars and notes."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import pytest
from sparring.rerank.console import quiet_transformers
from transformers.utils import logging as transformers_logging

library: Any = transformers_logging


@pytest.fixture(autouse=True)
def loud() -> Iterator[None]:
    before, bars = library.get_verbosity(), library.is_progress_bar_enabled()
    library.set_verbosity_info()
    library.enable_progress_bar()
    yield
    library.set_verbosity(before)
    if not bars:
        library.disable_progress_bar()


def state() -> tuple[int, bool]:
    return library.get_verbosity(), library.is_progress_bar_enabled()


def test_transformers_is_quiet_inside_and_as_before_afterwards() -> None:
    with pytest.raises(ValueError, match="inside"), quiet_transformers():
        assert state() == (logging.ERROR, False)
        with quiet_transformers(logging.CRITICAL):
            assert state() == (logging.CRITICAL, False)
        assert state() == (logging.ERROR, False)
        raise ValueError("inside")
    assert state() == (logging.INFO, True)


def test_the_log_may_stay_and_it_decorates() -> None:
    @quiet_transformers(None)
    def inside() -> tuple[int, bool]:
        return state()

    assert inside() == inside() == (logging.INFO, False)
    assert state() == (logging.INFO, True)
