"""The page's templates: they travel with the package, and no word from a file is taken for HTML."""

from __future__ import annotations

import builtins
import json
import subprocess
import sys
import tomllib
from html.parser import HTMLParser
from importlib import resources
from pathlib import Path
from typing import get_args, get_type_hints

import numpy as np
import pytest
from places import ROOT

pytest.importorskip("matplotlib", reason="pictures need matplotlib: pip install 'sparring[report]'")
pytest.importorskip("jinja2", reason="pages need Jinja2: pip install 'sparring[report]'")

from sparring.eval.report.page import Block, Section, page, templates
from sparring.eval.text_table import Table
from sparring.rerank.cli import main
from sparring.rerank.data.preferences import write_preferences
from sparring.rerank.errors import MissingPrerequisiteError
from sparring.rerank.vocabulary import Preferences

EVIL = "<img/src=x/onerror=alert(1)>'\"&{{7*7}}{%raw%}</pre></style><script>alert(2)</script>"
FILES = {"page.html", "blocks.html", "style.css"}


def test_templates_are_in_the_package() -> None:
    folder = resources.files("sparring.eval.report") / "templates"
    assert {entry.name for entry in folder.iterdir()} == FILES
    assert all((folder / name).read_text("utf-8") for name in FILES)
    assert set(templates().list_templates()) == FILES
    data = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["setuptools"]["package-data"]
    packed = {p.name for glob in data["sparring.eval.report"] for p in (ROOT / "eval" / "report").glob(glob)}
    assert packed == FILES


@pytest.mark.slow
def test_an_installed_wheel_makes_a_page(tmp_path: Path) -> None:
    install = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation", "--target"]
    subprocess.run([*install, str(tmp_path), str(ROOT)], check=True)
    code = "from sparring.eval.report import page as p; print(p.__file__, p.page('a title', '', []))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={"PYTHONPATH": str(tmp_path)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.startswith(str(tmp_path)) and "<h1>a title</h1>" in done.stdout


class Tags(HTMLParser):
    """Every tag of a page, and attributes that run code or load something."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.bad: list[str] = []
        self.words: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        for name, value in attrs:
            if name.startswith("on") or name == "src" or "javascript:" in (value or ""):
                self.bad.append(f"{tag} {name}={value}")

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def parsed(text: str) -> Tags:
    parser = Tags()
    parser.feed(text)
    assert not parser.bad and not parser.tags & {"img", "script", "iframe", "i"}
    return parser


def test_every_kind_of_block_is_escaped() -> None:
    section = Section(EVIL)
    for add in (section.text, section.heading, section.lines, section.label):
        add(EVIL)
    section.command(EVIL, EVIL)
    section.table(EVIL, Table([EVIL, "x"], [[EVIL, "1"], ["y", EVIL]], best=frozenset({(0, 0), (1, 1)})))
    found = parsed(page(EVIL, EVIL, [section]))
    assert "".join(found.words).count(EVIL) == 14  # title, h1, lead, link, h2; four; two; three cells
    kinds = set(get_args(get_type_hints(Block)["kind"]))
    assert kinds == {block.kind for block in section.blocks} | {"picture"}


def test_tables_keep_their_looks() -> None:
    section = Section("s")
    long = "w" * 61
    rows = [["a", "1"], [long, "2"]]
    section.table("t", Table(["run", "x"], rows, best=frozenset({(1, 1)}), rules=frozenset({1})))
    text = page("t", "l", [section])
    for part in (
        "<th class='word'>run</th>",
        "<th>x</th>",
        "<td>1</td>",
        f"<td class='word long'>{long}</td>",
        "<td><b>2</b></td>",
        "<tr class='rule'>",
        "<div class='scroll'>",
        "download='t.md'",
    ):
        assert text.count(part) == 1, part
    section.table("wide", Table(["c"] * 12, []))
    assert "<div class='scroll wide'>" in page("t", "l", [section])


def test_no_word_from_a_file_becomes_html(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Topics, documents, tags, texts, names of files, machines and models, all hostile; a real report of them."""
    monkeypatch.chdir(tmp_path)
    word = EVIL.replace(" ", "")
    runs = ["<img src=x onerror=alert(1)>.run", "'\"><script>&.run"]
    docids = [f"{word}{i}" for i in range(4)]
    for name, order in zip(runs, ((0, 1, 2, 3), (3, 1, 0, 2)), strict=True):
        lines = [f"{word} Q0 {docids[d]} {rank} {9 - rank} {word}\n" for rank, d in enumerate(order, 1)]
        Path(name).write_text("".join(lines))
    Path("qrels.txt").write_text("".join(f"{word} 0 {docid} {i}\n" for i, docid in enumerate(docids)))
    Path("corpus.jsonl").write_text("".join(json.dumps({"id": d, "text": EVIL}) + "\n" for d in docids))
    Path("queries.tsv").write_text(f"{word}\t{EVIL}\n")
    first, second = np.nonzero(~np.eye(4, dtype=bool))
    pairs = first.astype(np.int32), second.astype(np.int32), np.linspace(0.1, 0.9, 12)
    said = Preferences(np.array([4]), np.array([0, 12]), *pairs)
    write_preferences(Path("p.parquet"), [(word, tuple(docids), said)], {})
    row = dict.fromkeys(("pairs_per_second", "tokens_per_second", "gflops", "max_difference", "tau"), 1.5)
    row |= {"name": EVIL, "settings": EVIL, "pairs_per_second_tokenised": None, "ndcg": None}
    machine, task = {"device": EVIL, EVIL: EVIL}, {"model": EVIL, "tokens_mean": 9.0}
    Path("speed.json").write_text(json.dumps({"machine": machine, "task": task, "rows": [row]}))
    logs = Path("<script>")
    logs.mkdir()
    (logs / "training_log.csv").write_text(
        "step,pairs,seconds,loss,constant_loss,grad_norm,learning_rate,measure,value\n"
        "10,320,1.0,0.7,0.69,1,0.1,,\n20,,,,,,,nDCG@10,0.4\n"
    )
    flags = ["--qrels", "qrels.txt", "--dataset", ".", "--preferences", "p.parquet", "--throughput", "speed.json"]
    flags += ["--training", "<script>", "--title", EVIL, "--output", "out.html", "-m", "nDCG@10", "--quiet"]
    assert main(["report", *runs, *flags]) == 0
    found = parsed(Path("out.html").read_text("utf-8"))
    assert found.tags >= {"svg", "table", "pre", "figure"}
    everything = "".join(found.words)
    assert everything.count("alert(2)") > 20 and "{{7*7}}" in everything and runs[0] in everything


def test_jinja2_is_asked_for_where_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *rest: object, **more: object) -> object:
        if name == "jinja2":
            raise ImportError(name)
        return real(name, *rest, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(MissingPrerequisiteError, match=r"pip install 'sparring\[report\]'"):
        page("t", "l", [])
