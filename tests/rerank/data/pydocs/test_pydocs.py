"""The embedded collection: the same everywhere, judged deep, and built without importing what it parses."""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
import sys
import warnings
from collections import Counter, defaultdict
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
from bm25_oracle import Oracle
from places import ROOT
from sparring.rerank.data.pydocs import collection as pydocs
from sparring.rerank.data.pydocs.package_sources import public_docstrings
from sparring.rerank.data.pydocs.plain_text import plain, summary
from sparring.rerank.errors import MissingPrerequisiteError

HALVES = ("train", "test")


@pytest.fixture(scope="module")
def collection() -> list[pydocs.Document]:
    return pydocs.documents()


def test_versions_are_those_of_the_constraints() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = dict(line.split("==") for line in lines if "==" in line)
    assert {name: pins[name] for name in pydocs.PACKAGES} == pydocs.PACKAGES
    assert {name: metadata.version(name) for name in pydocs.PACKAGES} == pydocs.PACKAGES, "make install"


def test_size_and_shape(collection: list[pydocs.Document]) -> None:
    assert 3000 <= len(collection) <= 8000
    ids = [document.docid for document in collection]
    assert ids == sorted(set(ids))
    assert all(re.fullmatch(r"\w+(\.\w+)+", docid) and "._" not in docid for docid in ids)
    assert all(document.title.startswith(document.docid) for document in collection)
    assert max(len(document.text) for document in collection) <= pydocs.LONGEST
    assert not any(re.search(r"^>>>|:\w+:`", document.text, re.MULTILINE) for document in collection)


def test_known_names_are_under_their_public_path(collection: list[pydocs.Document]) -> None:
    ids = {document.docid for document in collection}
    assert ids >= {
        "scipy.sparse.linalg.cg",  # re-exported from a private module
        "numpy.partition",
        "numpy.array",  # compiled, its docstring attached by a call
        "numpy.lib.stride_tricks.sliding_window_view",  # in a module that only re-exports
        "pandas.DataFrame.fillna",  # inherited from a private base
        "pandas.DataFrame.sort_values",  # defined after typing stubs
        "pandas.Series.str.extract",  # behind an accessor
        "sklearn.linear_model.Ridge",
        "networkx.shortest_path",
    }


def test_content_is_what_was_judged(collection: list[pydocs.Document]) -> None:
    assert pydocs.content_hashes(collection) == pydocs.judged_hashes()


def test_questions_and_grades() -> None:
    topics = pydocs.topics()
    halves = Counter(half for half, _, _ in topics)
    assert len(topics) >= 80 and halves["train"] == halves["test"]
    assert len({qid for _, qid, _ in topics}) == len({text for _, _, text in topics}) == len(topics)
    grades: dict[str, dict[str, int]] = defaultdict(dict)
    for qid, docid, grade in pydocs.qrels():
        assert grade in (0, 1, 2, 3) and docid not in grades[qid]
        grades[qid][docid] = grade
    assert set(grades) == {qid for _, qid, _ in topics}
    assert all(3 in found.values() for found in grades.values())


def test_every_judged_document_exists(collection: list[pydocs.Document]) -> None:
    assert {docid for _, docid, _ in pydocs.qrels()} <= {document.docid for document in collection}


def test_first_stage_is_judged_deep(collection: list[pydocs.Document]) -> None:
    judged: dict[str, set[str]] = defaultdict(set)
    for qid, docid, _ in pydocs.qrels():
        judged[qid].add(docid)
    topics = [(qid, text) for half, qid, text in pydocs.topics() if half == "test"]
    texts = [f"{document.title} {document.text}" for document in collection]
    # the pool was drawn from BM25 without stemming
    ranked, _ = Oracle.of(texts).search([text for _, text in topics], 10)
    shares = [
        np.mean([collection[i].docid in judged[qid] for i in top])
        for (qid, _), top in zip(topics, ranked, strict=True)
    ]
    assert np.mean(shares) >= 0.9


def test_build_is_complete_and_repeats_itself(
    tmp_path: Path, collection: list[pydocs.Document], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pydocs, "documents", lambda: collection)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pydocs.build(tmp_path / "silent")
    first, second = pydocs.build(tmp_path / "a"), pydocs.build(tmp_path / "b")
    names = {path.name for path in first.iterdir()}
    assert names == {
        *("corpus.jsonl", "queries.tsv", "queries_train.tsv", "queries_test.tsv"),
        *("qrels.txt", "qrels_train.txt", "qrels_test.txt"),
        *("queries_fit.tsv", "queries_tune.tsv", "qrels_fit.txt", "qrels_tune.txt"),
    }
    assert all((first / name).read_bytes() == (second / name).read_bytes() for name in names)
    rows = [json.loads(line) for line in _lines(first / "corpus.jsonl")]
    assert all(set(row) == {"id", "title", "text"} for row in rows)
    halves = {
        half: {line.split("\t")[0] for line in _lines(first / f"queries_{half}.tsv")}
        for half in (*HALVES, "fit", "tune")
    }
    assert not halves["train"] & halves["test"]
    assert not halves["fit"] & halves["tune"] and halves["fit"] | halves["tune"] == halves["train"]
    for half, qids in halves.items():
        assert {line.split()[0] for line in _lines(first / f"qrels_{half}.txt")} == qids


def _lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines()


def test_cache_is_used(tmp_path: Path, collection: list[pydocs.Document], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pydocs, "documents", lambda: collection)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folder = pydocs.build()
    assert folder.parent == tmp_path / "sparring"
    monkeypatch.setattr(pydocs, "documents", lambda: pytest.fail("parsed again"))
    assert pydocs.build() == folder


def test_other_texts_are_announced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    few = [pydocs.Document("numpy.array", "numpy.array (function)", "array\nSomething else.")]
    monkeypatch.setattr(pydocs, "documents", lambda: few)
    with pytest.warns(UserWarning, match=r"scipy .* \(judged: .*relevant documents are missing.*pip install"):
        pydocs.build(tmp_path)


def test_missing_package_names_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(pydocs.PACKAGES, "no-such-package", "1.0")
    with pytest.raises(MissingPrerequisiteError, match=r"pip install 'sparring\[demo\]'"):
        pydocs.build()


@pytest.mark.slow
def test_another_process_parses_the_same_and_imports_nothing(collection: list[pydocs.Document]) -> None:
    code = (
        "import sys; from sparring.rerank.data.pydocs import collection as pydocs; "
        "print(pydocs.content_hashes(pydocs.documents())['all'], "
        "sorted({'numpy', 'scipy', 'sklearn', 'networkx', 'pandas'} & set(sys.modules)))"
    )
    output = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONHASHSEED": "7"},
    ).stdout
    assert output == f"{pydocs.content_hashes(collection)['all']} []\n"


def test_training_pairs_do_not_hold_their_question(collection: list[pydocs.Document]) -> None:
    pairs = list(pydocs.training_pairs(collection))
    assert len(pairs) >= 3000
    assert all(question not in text for question, text in pairs)


def test_public_names(tmp_path: Path) -> None:
    (tmp_path / "toy").mkdir()
    (tmp_path / "toy" / "__init__.py").write_text("from ._hidden import *\nfrom ._hidden import Bowl as Dish\n")
    (tmp_path / "toy" / "_hidden.py").write_text(
        '__all__ = ["stir"]\n'
        "raise SystemExit('never run')\n"
        'def stir(pot, /, *spoons, speed=1, **rest):\n    """Stirs."""\n'
        'def unseen():\n    """Not public."""\n'
        'class _Base:\n    def fill(self, water):\n        """Fills."""\n    def _leak(self):\n        """Leaks."""\n'
        'class Bowl(_Base):\n    """Holds soup."""\n    @property\n    def depth(self):\n        """How deep."""\n'
    )
    found = {item.name: item for item in public_docstrings(tmp_path / "toy", lambda name: True)}
    assert {name: item.kind for name, item in found.items()} == {
        "toy.stir": "function",
        "toy.Dish": "class",
        "toy.Dish.depth": "property",
        "toy.Dish.fill": "method",
    }
    assert found["toy.stir"].parameters == ("pot", "*spoons", "speed", "**rest")


def test_plain_text() -> None:
    docstring = """
    Finds ``x`` by :func:`~toy.search` [1]_.

    Parameters
    ----------
    a : int
        The *first*
        number.

    Examples
    --------
    >>> find(1)
    2

    Notes
    -----
    .. versionadded:: 1.2

    Slow.
    """
    assert summary(docstring) == "Finds x by toy.search ."
    assert plain(docstring, 500).splitlines() == [
        "Finds x by toy.search .",
        "Parameters: a : int The first number.",
        "Notes: Slow.",
    ]
    assert math.isclose(len(plain(docstring, 30)), 30, abs_tol=8) and plain(docstring, 30).endswith(" ...")
