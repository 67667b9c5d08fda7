"""`sparring benchmark`: a table of benchmarks by name, those of training included, which this package cannot import."""

from __future__ import annotations

import subprocess
import sys

import pytest
from sparring.eval.commands.benchmark import BENCHMARKS
from sparring.rerank.cli import main


def test_help_lists_the_benchmarks(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["benchmark", "--help"]) == 0
    shown = capsys.readouterr().out
    assert all(f"  {name} " in shown and text in shown for name, (_, text) in BENCHMARKS.items())


def test_an_unknown_one_names_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["benchmark", "sampeling"]) == 2
    assert "unknown benchmark 'sampeling' (did you mean 'sampling'?)" in capsys.readouterr().err


def test_without_a_name_they_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["benchmark"]) == 2
    assert "throughput, set-encoder, training, aggregation, sampling" in capsys.readouterr().err


def test_the_help_of_one_is_called_by_both_words(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["benchmark", "aggregation", "--help"])
    assert "usage: sparring benchmark aggregation" in capsys.readouterr().out


def test_the_table_imports_none_of_them() -> None:
    code = "import sys; from sparring.rerank.cli import main; main(['benchmark', '--help']); sys.exit('torch' in sys.modules or 'sparring.train' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0
