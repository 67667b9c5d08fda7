"""A small world of files whose faults are tried on commands."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import yaml
from sparring.rerank.cli import main
from sparring.rerank.data.runs import read_run
from tiny_models import sentence


@dataclass
class World:
    """A collection of 24 documents, a run of 3 topics with 8 documents each, and qrels; any file can be replaced."""

    folder: Path
    model: Path
    capsys: pytest.CaptureFixture[str]
    errors: str = ""
    results: str = ""
    documents: dict[str, str | None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        rng = random.Random(5)
        self.documents = {f"d{i:02}": sentence(rng, rng.randint(4, 20)) for i in range(24)}
        self.topics = {f"q{i}": sentence(rng, 4) for i in range(3)}
        self.lines = [f"q{t} Q0 d{8 * t + i:02} {i + 1} {9 - i} bm25" for t in range(3) for i in range(8)]
        self.write_documents()
        self.write("queries.tsv", "".join(f"{qid}\t{text}\n" for qid, text in self.topics.items()))
        self.write("qrels.txt", "".join(f"q{t} 0 d{8 * t + i:02} {i % 3}\n" for t in range(3) for i in range(8)))
        self.write("first.run", self.run())

    def run(self) -> str:
        return "\n".join(self.lines) + "\n"

    def write(self, name: str, content: str | bytes) -> Path:
        path = self.folder / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    def write_documents(self) -> None:
        rows = [json.dumps({"id": name, "text": text}) for name, text in self.documents.items()]
        self.write("corpus.jsonl", "\n".join(rows) + "\n")

    def rerank(self, *flags: str, run: str = "first.run") -> int:
        """Exit code of `sparring rerank`; what it said is in ``errors``, what it wrote in out.run."""
        (self.folder / "out.run").unlink(missing_ok=True)
        words = ["rerank", "--run", str(self.folder / run), "--dataset", str(self.folder), "--dtype", "float32"]
        return self.call(*words, "--model", str(self.model), "--output", str(self.folder / "out.run"), *flags)

    def evaluate(self, *flags: str, run: str = "first.run") -> int:
        return self.call(
            "evaluate", str(self.folder / "qrels.txt"), str(self.folder / run), "-m", "nDCG@10", *flags
        )

    def call(self, *words: str) -> int:
        code = main(list(words))
        captured = self.capsys.readouterr()
        self.errors, self.results = captured.err, captured.out
        return code

    def refuses(self, message: str, *flags: str, run: str = "first.run") -> bool:
        """Whether `rerank` stops with exit code 5 and this message, and leaves no output."""
        code = self.rerank(*flags, run=run)
        left = [path.name for path in self.folder.iterdir() if path.name.startswith((".", "out.run"))]
        assert (code, left) == (5, []) and message in self.errors, f"{code} {left} {self.errors}"
        return True

    def reranked(self, *flags: str) -> dict[str, tuple[str, ...]]:
        """The documents of every topic after a rerank that must succeed."""
        assert self.rerank(*flags) == 0, self.errors
        run = read_run(self.folder / "out.run")
        return {qid: run[qid][0] for qid in run}

    @property
    def meta(self) -> dict[str, object]:
        found = yaml.safe_load((self.folder / "out.run.meta.yaml").read_text())["method"]
        assert isinstance(found, dict)
        return found


def jsonl(*records: object) -> str:
    return "".join(json.dumps(record) + "\n" for record in records)


def folder(tmp_path: Path, **files: str) -> Path:
    for name, content in files.items():
        path = tmp_path / "data" / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, encoding="utf-8")
    return tmp_path / "data"
