"""What is light to import: the table of commands, every command's flags, and what plays without a model."""

from __future__ import annotations

import subprocess
import sys

import pytest
from places import ROOT
from sparring.rerank.cli import COMMANDS

FRAMEWORKS = {"torch", "transformers", "faiss", "sentence_transformers", "datasets", "sklearn", "networkx"}
PICTURES = {"pandas", "matplotlib"}
PARSING = {"tyro", "yaml"}
SCIENCE = {"scipy"}
HEAVY = FRAMEWORKS | PICTURES | PARSING | SCIENCE

LIGHT = {
    "sparring.rerank.cli": HEAVY,
    "sparring.rerank.vocabulary": HEAVY,
    "sparring.rerank.registry": HEAVY,
    "sparring.rerank.rounds": HEAVY,
    "sparring.rerank.pipeline": HEAVY,
    "sparring.rerank.passages": HEAVY,
    "sparring.rerank.pairs.table": HEAVY - SCIENCE,
    "sparring.rerank.data.runs": HEAVY,
    "sparring.rerank.data.datasets": HEAVY,
    "sparring.rerank.ledger.ledger": HEAVY,
    "sparring.rerank.serving.service": HEAVY,
    "sparring.rerank.models.checkpoints": HEAVY,
    "sparring.eval.measures.catalogue": HEAVY,
    "sparring.eval.text_table": HEAVY,
    "sparring.train.loop.options": HEAVY,
    **{module: FRAMEWORKS | PICTURES for module, _ in COMMANDS.values()},
}
"""Modules, and what importing each must leave out; a command's module holds its flags."""

CHILD = """
import importlib, os, sys
import numpy
for name in sys.argv[1:]:  # a process of its own for each, so that none finds what another imported
    sys.stdout.flush()
    if not os.fork():
        importlib.import_module(name)
        print(name, *sorted({module.partition(".")[0] for module in sys.modules}), flush=True)
        os._exit(0)
    if os.wait()[1]:
        sys.exit(f"{name} cannot be imported")
"""


@pytest.fixture(scope="module")
def imported() -> dict[str, set[str]]:
    """What is in memory after each module was imported alone."""
    done = subprocess.run([sys.executable, "-c", CHILD, *LIGHT], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return {line.split()[0]: set(line.split()[1:]) for line in done.stdout.splitlines()}


@pytest.mark.parametrize("module", LIGHT)
def test_light_modules_import_nothing_heavy(module: str, imported: dict[str, set[str]]) -> None:
    assert "sparring" in imported[module]
    assert imported[module] & LIGHT[module] == set()


def test_heavy_modules_would_be_seen() -> None:
    done = subprocess.run(
        [sys.executable, "-c", CHILD, "sparring.rerank.search.bm25"], capture_output=True, text=True, check=True
    )
    assert "scipy" in done.stdout.split()
