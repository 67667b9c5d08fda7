"""``make demo``: the whole main job on the embedded collection, as the commands a user would type.

index → search → (train) → rerank → fuse → evaluate. The reranker is a public cross-encoder where it is cached or
the hub can be reached; else a small one is trained here from the embedded bi-encoder, and kept for the next time.
"""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

from ..rerank import console
from ..rerank.errors import SparringError

FOLDER = Path(".demo")
PUBLIC = "cross-encoder/ms-marco-MiniLM-L6-v2"


def main() -> int:
    """Runs the demo in ``.demo``; returns the exit code of the first command that fails, or 0."""
    console.configure()
    started = time.perf_counter()
    from ..rerank import pydocs

    try:
        collection = FOLDER / "pydocs"
        if not collection.is_dir():
            pydocs.build(collection)
        reranker, public = _reranker()
        first, reranked, fused = (FOLDER / f"{name}.run" for name in ("first", "reranked", "fused"))
        if not (FOLDER / "index").is_dir():
            _run("index", "--dataset", collection, "--model", "minilm", "--output", FOLDER / "index")
        dataset = ("--dataset", collection)
        _run("search", *dataset, "--index", FOLDER / "index", "--depth", 100, "--output", first, "--overwrite")
        if not public and not (reranker / "model.safetensors").is_file():
            _run("train", "--config", "configs/train/demo.yaml", "--output-dir", reranker, "--overwrite")
        model = ("--model", reranker, "--depth", 50)
        _run("rerank", "--run", first, *dataset, *model, "--output", reranked, "--overwrite")
        tune = ("--tune", collection / "qrels_train.txt")
        _run("fuse", first, reranked, *tune, "--output", fused, "--overwrite")
        qrels = collection / "qrels_test.txt"
        measures = ("--measures", "nDCG@10", "R@100", "Judged@10")
        _run("evaluate", qrels, first, reranked, fused, "--baseline", first, *measures)
    except subprocess.CalledProcessError as error:
        return error.returncode
    except SparringError as error:
        sys.stderr.write(f"sparring: error: {error}\n")
        return error.exit_code
    console.out(f"\nThe demo took {time.perf_counter() - started:.0f} s; everything is in {FOLDER}/.")
    return 0


def _reranker() -> tuple[Path, bool]:
    """The model to rerank with, and whether it is the public one."""
    from ..rerank.checkpoints import find

    try:
        find(PUBLIC)
    except SparringError:
        return FOLDER / "reranker", False
    return Path(PUBLIC), True


def _run(*words: object) -> None:
    """Prints a command and runs it as its own process, as a user would."""
    arguments = [str(word) for word in words]
    shown = shlex.join(["sparring", *arguments])
    width = shutil.get_terminal_size((100, 24)).columns
    console.out(f"\n$ {shown}" if len(shown) < width else "\n$ " + shown.replace(" --", " \\\n    --"))
    start = time.perf_counter()
    subprocess.run([sys.executable, "-m", "sparring.rerank.cli", *arguments], check=True)
    console.log.info("(%.0f s)", time.perf_counter() - start)


if __name__ == "__main__":
    sys.exit(main())
