"""Reports: pages that need nothing but themselves, with pictures, tables and the commands behind their numbers."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from sparring.eval.bench.simulator import Judge, make_world, preferences
from sparring.eval.measures.evaluation import score_runs
from sparring.eval.measures.qrels import read_qrels
from sparring.eval.report.bench_charts import preference_matrix
from sparring.eval.report.bench_sections import read_log
from sparring.eval.report.drawing import close, inline_svg, save
from sparring.eval.report.labels import shortened, spaced
from sparring.eval.report.page import Section, page
from sparring.eval.report.run_charts import topic_bars
from sparring.eval.text_table import Table
from sparring.rerank.cli import main
from sparring.rerank.data.preferences import write_preferences
from sparring.rerank.data.runs import read_run, write_run
from sparring.rerank.errors import InputError

CHROMIUM = next(
    (p for name in ("chromium", "chromium-browser", "google-chrome") if (p := shutil.which(name))), None
)


class Strict(HTMLParser):
    """Collects what a page loads, its headings, and tags that are left open."""

    VOID = frozenset({"meta", "br", "link", "img", "input", "hr"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.loads: list[str] = []
        self.tags: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag not in self.VOID:
            self.open.append(tag)
        for name, value in attrs:
            local = (value or "").startswith(("#", "data:"))
            if (name == "src" or (name in ("href", "xlink:href"))) and not local:
                self.loads.append(f"{tag} {name}={value}")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open[-1] == tag, f"</{tag}> closes {self.open[-3:]}"
        self.open.pop()


def checked(path: Path) -> tuple[str, Strict]:
    """The text of a page that closes its tags and loads nothing."""
    text = path.read_text("utf-8")
    parser = Strict()
    parser.feed(text)
    assert parser.open == [] and parser.loads == [] and "@import" not in text
    assert not re.search(r"url\((?!#)", text), "a style sheet must not load anything"
    return text, parser


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs, qrels, texts, simulated preferences, a bench, a throughput result and a training log."""
    folder = tmp_path_factory.mktemp("report")
    rng = np.random.default_rng(0)
    first, second, qrels, worlds, corpus, queries = [], [], [], [], [], []
    for t in range(8):
        docids = tuple(f"d{t}-{i}" for i in range(12))
        grades = {docid: int(grade) for docid, grade in zip(docids, rng.integers(0, 4, 12), strict=True)}
        first.append((f"q{t}", docids, rng.normal(size=12)))
        second.append((f"q{t}", docids, np.array([grades[d] for d in docids]) + rng.normal(size=12)))
        worlds.append(make_world(f"q{t}", docids, grades, 0))
        qrels += [f"q{t} 0 {docid} {grade}\n" for docid, grade in grades.items()]
        corpus += [json.dumps({"id": d, "text": f"<b>{d}</b> costs $5 & $6, 要約, مرحبا"}) + "\n" for d in docids]
        queries.append(f"q{t}\twhat is <i>{t}</i> & why\n")
    write_run(folder / "first.run", first, "first")
    write_run(folder / "second.run", second, "second")
    (folder / "qrels.txt").write_text("".join(qrels))
    (folder / "corpus.jsonl").write_text("".join(corpus))
    (folder / "queries.tsv").write_text("".join(queries))
    said = ((w.qid, w.docids, preferences(w, Judge())) for w in worlds)
    write_preferences(folder / "prefs.parquet", said, {"simulation": True})
    (folder / "training_log.csv").write_text(
        "step,pairs,seconds,loss,constant_loss,grad_norm,learning_rate,measure,value\n"
        "10,320,1.0,0.7,0.69,1,0.1,,\n20,640,2.0,0.5,0.69,1,0.1,,\n20,,,,,,,nDCG@10,0.4\n"
    )
    row = dict.fromkeys(("pairs_per_second", "tokens_per_second", "gflops", "max_difference", "tau"), 1.5)
    row |= {"name": "sparring", "settings": "bfloat16", "pairs_per_second_tokenised": None, "ndcg": None}
    result = {
        "machine": {"device": "cpu", "cores": 2},
        "task": {"model": "minilm", "tokens_mean": 93.0},
        "rows": [row],
    }
    (folder / "throughput-cpu.json").write_text(json.dumps(result))
    named = [
        "--preferences",
        "prefs.parquet",
        "--run",
        "first.run",
        "--qrels",
        "qrels.txt",
        "--output",
        "b.parquet",
    ]
    flags = [str(folder / part) if "." in part else part for part in named]
    small = ["--schedules", "bayes", "random", "--budgets", "20%", "50%", "--seeds", "0", "--jobs", "1", "--quiet"]
    assert main(["bench", *flags, *small]) == 0
    return folder


@pytest.fixture(scope="module")
def full(files: Path) -> Path:
    """A page with every section."""
    output = files / "full.html"
    runs = [str(files / "first.run"), str(files / "second.run")]
    more = ["--qrels", "qrels.txt", "--dataset", ".", "--bench", "b.parquet", "--preferences", "prefs.parquet"]
    more += ["--throughput", "throughput-cpu.json", "--training", "training_log.csv", "--output", "full.html"]
    flags = [part if part.startswith("--") else str(files / part) for part in more]
    assert main(["report", *runs, *flags, "-m", "nDCG@10", "AP", "--quiet"]) == 0
    return output


def test_a_page_with_everything(files: Path, full: Path) -> None:
    text, parser = checked(full)
    for heading in (
        "Runs",
        "What moved",
        "Bench: b",
        "Preferences",
        "Throughput",
        "Training",
        "make this page again",
    ):
        assert f"{heading}</h2>" in text
    assert parser.tags.count("svg") == 8 and parser.tags.count("figcaption") == 8
    assert text.count("SIMULATION") == 2
    assert all(f"<pre>sparring {name} " in text for name in ("evaluate", "bench", "report"))
    assert "&lt;b&gt;d" in text and "<b>d0" not in text and "<i>" not in text
    assert "prefers-color-scheme: dark" in text and "@media print" in text
    folder = files / "full_files"
    assert {p.suffix for p in folder.iterdir()} == {".png", ".svg", ".tsv", ".md", ".tex"}
    for name in ("topics-1", "ranks", "budgets", "heatmap", "bench-topics", "matrix", "throughput-1", "training"):
        assert (folder / f"{name}.png").stat().st_size > 2000 and (folder / f"{name}.svg").stat().st_size > 2000
    assert (files / "full.html.meta.yaml").is_file()


def test_numbers_are_those_of_evaluate(files: Path, full: Path) -> None:
    values = score_runs(
        read_qrels(files / "qrels.txt"), [read_run(files / f"{n}.run") for n in ("first", "second")], "nDCG@10"
    )
    text = full.read_text("utf-8")
    for value in values:
        assert f"{value:.4f}" in text
    assert f"{values[1] - values[0]:+.4f}" in text
    lines = (files / "full_files" / "summary.tsv").read_text().splitlines()
    assert lines[1:] == (files / "b.summary.tsv").read_text().splitlines()[1:]  # again from the rows alone


def test_two_runs_without_judgements(files: Path, tmp_path: Path) -> None:
    output = tmp_path / "r.html"
    runs = [str(files / "first.run"), str(files / "second.run")]
    assert main(["report", *runs, "--output", str(output), "--topic", "q3", "--quiet"]) == 0
    text, parser = checked(output)
    assert "topic q3" in text and parser.tags.count("svg") == 1 and "Runs</h2>" not in text


@pytest.mark.parametrize(
    ("flags", "code", "message"),
    [
        ([], 2, "nothing to report on"),
        (["first.run"], 2, "one run alone"),
        (["first.run", "absent.run"], 4, "no such file"),
        (["--bench", "prefs.parquet"], 5, "not the rows of a bench"),
        (["--throughput", "qrels.txt"], 5, "not a result of sparring benchmark throughput"),
        (["first.run", "second.run", "--topic", "q99"], 2, "unknown topic"),
    ],
)
def test_what_is_wrong_is_said(
    files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: list[str], code: int, message: str
) -> None:
    args = [str(files / part) if "." in part else part for part in flags]
    assert main(["report", *args, "--output", str(tmp_path / "r.html")]) == code
    assert message in capsys.readouterr().err
    assert not (tmp_path / "r.html").exists()


def test_a_log_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text("a,b\n1,2\n")
    with pytest.raises(InputError, match="not a training log"):
        read_log(tmp_path / "log.csv")


def test_pictures_follow_the_page_and_are_the_same_again(tmp_path: Path) -> None:
    def draw() -> str:
        picture = topic_bars(["a", "b"], np.array([0.1, -0.2]), "AP", "one $x_1$ against <two>", "bars")
        text = inline_svg(picture)
        save(picture, tmp_path)
        close(picture)
        return text

    one = draw()
    before = (tmp_path / "bars.svg").read_bytes()
    assert one == draw() and before == (tmp_path / "bars.svg").read_bytes()
    assert "var(--ink)" in one and "var(--series-0)" in one and "#1b1b1f" not in one
    assert "one $x_1$ against &lt;two&gt;" in one


def test_the_matrix_counts_flips_and_cycles() -> None:
    matrix = np.full((3, 3), np.nan)
    matrix[0, 1], matrix[1, 0] = 0.9, 0.2  # 0 beats 1
    matrix[1, 2], matrix[2, 1] = 0.8, 0.1  # 1 beats 2
    matrix[2, 0], matrix[0, 2] = 0.9, 0.6  # 2 beats 0, less surely, and the order decides
    picture = preference_matrix(matrix, [0, 1, 2], "q")
    assert "1 of 3 pairs" in picture.caption and "1 of 1 triples" in picture.caption
    close(picture)


def test_labels_keep_apart_and_near() -> None:
    assert spaced([1.0, 5.0, 9.0], 2.0) == [1.0, 5.0, 9.0]
    assert spaced([4.0, 4.0], 2.0) == [3.0, 5.0]
    found = spaced([9.0, 1.0, 9.5, 8.0], 1.0)
    assert found == pytest.approx([8.0 + 5 / 6, 1.0, 9.0 + 5 / 6, 7.0 + 5 / 6]) and spaced([], 1.0) == []


def test_tables_are_escaped_and_can_be_taken_along() -> None:
    section = Section("A & B")
    section.table("t", Table(["<run>", "x"], [["a&b", "1"]], best=frozenset({(0, 1)})))
    text = page("T < U", "lead", [section])
    assert "&lt;run&gt;" in text and "<b>1</b>" in text and "download='t.tex'" in text and "T &lt; U" in text
    assert shortened("a  b\nc", 10) == "a b c" and shortened("abcdef", 4) == "abc…"


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed: apt-get install chromium")
def test_a_browser_opens_the_page_in_light_dark_and_print(full: Path, tmp_path: Path) -> None:
    from matplotlib.image import imread

    def browse(*flags: str) -> None:
        always = ["--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=2000"]
        always += [f"--user-data-dir={tmp_path / 'profile'}", "--enable-logging=stderr"]
        done = subprocess.run(
            [str(CHROMIUM), *always, *flags, full.as_uri()],
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )
        assert "CONSOLE" not in done.stderr, done.stderr[-2000:]

    paper = []
    for scheme, number in (("dark", 0), ("light", 1)):
        shot = tmp_path / f"{scheme}.png"
        browse(
            f"--blink-settings=preferredColorScheme={number}", "--window-size=1000,4000", f"--screenshot={shot}"
        )
        assert shot.stat().st_size > 50_000
        paper.append(float(imread(shot)[5, 5, :3].mean()))
    assert paper[0] < 0.2 and paper[1] > 0.9
    browse(f"--print-to-pdf={tmp_path / 'page.pdf'}")
    assert (tmp_path / "page.pdf").read_bytes().startswith(b"%PDF")
    assert (tmp_path / "page.pdf").stat().st_size > 50_000
