"""The cache folder: where it is, and that everything that asks for it means the same."""

from __future__ import annotations

from pathlib import Path

import pytest
from sparring.rerank.cli import main
from sparring.rerank.data.cache import cache_folder, cache_place
from sparring.rerank.errors import MissingResourceError


def test_it_follows_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    assert cache_place("a") == tmp_path / "home" / ".cache" / "sparring" / "a"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert cache_place() == tmp_path / "cache" / "sparring" and not cache_place().exists()
    assert cache_folder("a", "b").is_dir() and cache_folder("a", "b") == cache_place("a", "b")


def test_one_that_cannot_be_written_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(MissingResourceError, match=r"file/sparring/x: .*: set XDG_CACHE_HOME to a folder"):
        cache_folder("x")


def test_the_doctor_looks_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    cache_folder("x")
    assert main(["doctor"]) == 0
    assert f"1 entries in {tmp_path / 'sparring'}" in capsys.readouterr().out
