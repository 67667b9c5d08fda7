"""The embedded collection ``pydocs``: docstrings of installed packages, with questions and grades of our own.

The texts come from the sources on the user's machine, parsed and never imported; the project carries the
document ids, the questions (``topics.tsv``: half, qid, question) and the grades (``qrels.txt``:
3 answers it exactly, 2 does the job, 1 is related, 0 is not). The grades name the texts they were given for.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from importlib import metadata, resources
from pathlib import Path

from ...errors import MissingPrerequisiteError
from ..atomic import atomic_write
from ..cache import cache_folder, cache_place
from .package_sources import Documented, public_docstrings
from .plain_text import dedent, plain, shorten

PACKAGES = {"networkx": "3.6.1", "numpy": "2.4.6", "pandas": "3.1.1", "scikit-learn": "1.9.1", "scipy": "1.17.1"}
"""Distributions and the versions whose docstrings were judged; ``constraints.txt`` pins the same."""

FOLDERS = {"scikit-learn": "sklearn"}

ATTACHED = {
    "numpy": {"numpy._core._add_newdocs": "numpy"},
    "scipy": {"scipy.special._add_newdocs": "scipy.special"},
}

EXCLUDED_PARTS = {
    "compat",
    "conftest",
    "core",
    "distutils",
    "externals",
    "f2py",
    "setup",
    "test",
    "testing",
    "tests",
}
"""Tests, vendored code and folders that are private by custom, wherever they occur."""

# fmt: off
NEAR_COPIES = (
    "numpy.char", "numpy.ma", "numpy.matlib", "numpy.polynomial", "numpy.rec", "pandas.Index.str", "scipy.fftpack",
    "scipy.stats.mstats",
)
"""Families that say the same once per polynomial basis, masked array or string class."""

FOR_AUTHORS = (
    "networkx.classes", "networkx.exception", "networkx.lazy_imports", "networkx.utils", "numpy.ctypeslib",
    "numpy.lib.user_array", "pandas.api.executors", "pandas.api.extensions", "pandas.api.interchange",
    "pandas.arrays", "pandas.errors", "pandas.io", "scipy.datasets", "scipy.odr", "sklearn.callback",
    "sklearn.exceptions", "sklearn.experimental", "sklearn.utils",
)
"""Modules for the authors of packages rather than for their users."""
# fmt: on

SHORTEST = 120
"""Documents have docstrings of at least this many characters."""

LONGEST = 1500
"""Texts are cut at a word before this many characters."""


@dataclass(frozen=True, slots=True)
class Document:
    """One entry: ``docid`` is the dotted name, ``title`` adds the kind, ``text`` is signature and docstring."""

    docid: str
    title: str
    text: str


def build(folder: Path | None = None) -> Path:
    """Writes the collection and returns its folder: corpus.jsonl, queries and qrels (all, ``_train``, ``_test``;
    ``_fit`` and ``_tune`` share the training half).

    Args:
        folder: where to write; without it ``$XDG_CACHE_HOME/sparring/pydocs-<key>``, reused when it is there.

    Raises:
        MissingPrerequisiteError: a package is not installed.

    Warns where the texts are not the ones that were judged, and says which packages differ.
    """
    versions = installed_versions()
    if folder is None and versions == PACKAGES:
        ready = cache_place(_own_name(judged_hashes()["all"]))
        if (ready / "corpus.jsonl").is_file():
            return ready
    collection = documents()
    hashes = content_hashes(collection)
    if hashes != judged_hashes():
        warnings.warn(_differences(hashes, versions, collection), stacklevel=2)
    target = folder or cache_folder(_own_name(hashes["all"]))
    if folder is not None or not (target / "corpus.jsonl").is_file():
        _write(target, collection)
    return target


def documents() -> list[Document]:
    """Every document, sorted by id; parsing takes seconds and imports nothing."""
    installed_versions()
    found: list[Document] = []
    for package in PACKAGES:
        for item in public_docstrings(_root(package), _public, ATTACHED.get(package)):
            body = plain(item.docstring, LONGEST - 200)
            if body and len("\n".join(dedent(item.docstring)).strip()) >= SHORTEST:
                found.append(Document(item.name, f"{item.name} ({item.kind})", _signature(item) + body))
    return sorted(found, key=lambda document: document.docid)


def training_pairs(collection: Iterable[Document] | None = None) -> Iterator[tuple[str, str]]:
    """Pseudo-labelled pairs from the documents themselves: (summary line, text without it).

    Summaries of fewer than four words, and texts of which little remains, make no pair.
    """
    for document in documents() if collection is None else collection:
        signature, _, body = document.text.partition("\n")
        summary, _, rest = body.partition("\n")
        if len(summary.split()) >= 4 and len(rest) >= SHORTEST and summary not in rest:
            yield summary, f"{signature}\n{rest}"


def installed_versions() -> dict[str, str]:
    """Distribution → installed version, for all that the collection is made of."""
    versions, missing = {}, []
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            missing.append(package)
    if missing:
        raise MissingPrerequisiteError(
            f"pydocs is made of the docstrings of {', '.join(PACKAGES)}, and {', '.join(missing)} "
            f"{'is' if len(missing) == 1 else 'are'} not installed: pip install 'sparring[demo]'"
        )
    return versions


def content_hashes(collection: Iterable[Document]) -> dict[str, str]:
    """The first 16 hexadecimal digits of the SHA-256 of ids, titles and texts: per package, and of "all"."""
    digests = {name: hashlib.sha256() for name in ("all", *PACKAGES)}
    owners = {FOLDERS.get(package, package): package for package in PACKAGES}
    for document in collection:
        line = json.dumps([document.docid, document.title, document.text]).encode() + b"\n"
        for name in ("all", owners[document.docid.partition(".")[0]]):
            digests[name].update(line)
    return {name: digest.hexdigest()[:16] for name, digest in digests.items()}


@cache
def judged_hashes() -> dict[str, str]:
    """The content hashes of the texts that were judged, from the head of the grades: ``# <package> <hash>``."""
    lines = (line.split() for line in _resource("qrels.txt") if line.startswith("#"))
    return {name: digest for _, name, digest in lines}


def topics() -> list[tuple[str, str, str]]:
    """(half, qid, question) of every question; half is "train" or "test"."""
    rows = (line.split("\t") for line in _resource("topics.tsv"))
    return [(half, qid, question) for half, qid, question in rows]


def qrels() -> list[tuple[str, str, int]]:
    """(qid, docid, grade) of every judgment."""
    rows = (line.split() for line in _resource("qrels.txt") if not line.startswith("#"))
    return [(qid, docid, int(grade)) for qid, _, docid, grade in rows]


def _resource(name: str) -> list[str]:
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8").splitlines()


def _root(package: str) -> Path:
    """The folder of a package's sources; looking up a top-level name imports nothing."""
    spec = importlib.util.find_spec(FOLDERS.get(package, package))
    if spec is None or not spec.submodule_search_locations:
        raise MissingPrerequisiteError(f"{package} has no readable sources: pip install 'sparring[demo]'")
    return Path(spec.submodule_search_locations[0])


def _public(name: str) -> bool:
    return not EXCLUDED_PARTS & set(name.split(".")) and not f"{name}.".startswith(_EXCLUDED_PREFIXES)


_EXCLUDED_PREFIXES = tuple(f"{name}." for name in (*NEAR_COPIES, *FOR_AUTHORS))


def _signature(item: Documented) -> str:
    """``cg(A, b, x0, *, rtol)`` and a line end; nothing but the name where there are no parameters to show."""
    name = item.name.rpartition(".")[2]
    if item.parameters is None or item.kind == "property":
        return f"{name}\n"
    return shorten(f"{name}({', '.join(item.parameters)})", 180) + "\n"


def _differences(hashes: dict[str, str], versions: dict[str, str], collection: list[Document]) -> str:
    judged = judged_hashes()
    changed = [
        f"{package} {versions[package]} (judged: {PACKAGES[package]})"
        for package in PACKAGES
        if hashes[package] != judged.get(package)
    ]
    lost = len({docid for _, docid, grade in qrels() if grade} - {document.docid for document in collection})
    pins = " ".join(f"{package}=={PACKAGES[package]}" for package in PACKAGES)
    return (
        f"pydocs differs from the texts that were judged: {', '.join(changed)}; {lost} relevant documents are "
        f"missing and measures are not comparable. For the judged texts: pip install {pins}"
    )


def _own_name(content: str) -> str:
    """Named by texts, questions and grades, so that a new release never meets an old folder."""
    questions = "\n".join((*_resource("topics.tsv"), *_resource("qrels.txt")))
    key = hashlib.sha256(f"{content}\n{questions}".encode()).hexdigest()[:16]
    return f"pydocs-{key}"


def _parts() -> dict[str, list[str]]:
    """The questions of each pair of files: all, the halves, and the training half in two, to fit and to tune."""
    halves = {half: [qid for own, qid, _ in topics() if own == half] for half in ("train", "test")}
    train = halves["train"]
    return {"": [qid for _, qid, _ in topics()], **halves, "fit": train[::2], "tune": train[1::2]}


def _write(folder: Path, collection: list[Document]) -> None:
    """Writes all files; corpus.jsonl comes last, so that it is there only when everything is."""
    folder.mkdir(parents=True, exist_ok=True)
    for part, qids in _parts().items():
        suffix = f"_{part}" if part else ""
        with atomic_write(folder / f"queries{suffix}.tsv") as stream:
            stream.writelines(f"{qid}\t{text}\n" for _, qid, text in topics() if qid in qids)
        with atomic_write(folder / f"qrels{suffix}.txt") as stream:
            stream.writelines(f"{qid} 0 {docid} {grade}\n" for qid, docid, grade in qrels() if qid in qids)
    with atomic_write(folder / "corpus.jsonl") as stream:
        for document in collection:
            row = {"id": document.docid, "title": document.title, "text": document.text}
            stream.write(json.dumps(row, ensure_ascii=False) + "\n")
