"""``make demo``: the whole main job on the embedded collection, as the commands a user would type.

index → search → (train) → rerank → fuse → evaluate. The reranker is a public cross-encoder where it is cached or
the hub can be reached; else a small one is trained here from the embedded bi-encoder, and kept for the next time.
The reranker's weight against the first stage is chosen on the tuning questions; all figures are of the others.
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

from ..eval.bench.shell import sparring
from ..rerank import console
from ..rerank.errors import SparringError

FOLDER = Path(".demo")
PUBLIC = "cross-encoder/ms-marco-MiniLM-L6-v2"
DEPTH = 50
"""All that is found is reranked, so that both score ranges of an interpolation are about the same documents."""


def main() -> int:
    """Runs the demo in ``.demo``; returns the exit code of the first command that fails, or 0."""
    console.configure()
    started = time.perf_counter()
    from ..rerank.data.pydocs import collection as pydocs

    try:
        collection = FOLDER / "pydocs"
        if not collection.is_dir():
            pydocs.build(collection)
        reranker, public = _reranker()
        index, dataset = FOLDER / "index", ("--dataset", collection)
        first, reranked, fused = (FOLDER / f"{name}.run" for name in ("first", "reranked", "fused"))
        if not index.is_dir():
            sparring("index", *dataset, "--model", "minilm", *_precision(), "--output", index)
        sparring("search", *dataset, "--index", index, "--depth", DEPTH, "--output", first, "--overwrite")
        if not public and not (reranker / "model.safetensors").is_file():
            sparring("train", "--config", "configs/train/demo.yaml", "--output-dir", reranker, "--overwrite")
        model = ("--model", reranker, "--depth", DEPTH)
        sparring("rerank", "--run", first, *dataset, *model, "--output", reranked, "--overwrite")
        tune = ("--tune", collection / "qrels_tune.txt")
        sparring("fuse", first, reranked, *tune, "--output", fused, "--overwrite")
        qrels = collection / "qrels_test.txt"
        measures = ("--measures", "nDCG@10", "P@10", "Judged@10")
        sparring("evaluate", qrels, first, reranked, fused, "--baseline", first, *measures)
        console.out(_cost(reranked, fused))
    except subprocess.CalledProcessError as error:
        return error.returncode
    except SparringError as error:
        sys.stderr.write(f"sparring: error: {error}\n")
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    console.out(f"The demo took {time.perf_counter() - started:.0f} s. Index and reranker are kept in {FOLDER}/.")
    return 0


def _reranker() -> tuple[Path, bool]:
    """The model to rerank with, and whether it is the public one."""
    from ..rerank.models.checkpoints import find

    try:
        find(PUBLIC)
    except SparringError:
        return FOLDER / "reranker", False
    return Path(PUBLIC), True


def _precision() -> tuple[str, ...]:
    """Flags of `sparring index`, which computes in full precision by itself: bf16 where the hardware has it."""
    from ..rerank.engine.devices import choose_device, choose_dtype, dtype_name

    name = dtype_name(choose_dtype("auto", choose_device("auto")))
    return ("--dtype", name) if name == "bfloat16" else ()


def _cost(reranked: Path, fused: Path) -> str:
    """How fast it was, and the weight that was chosen, from the meta files of the two runs."""
    import yaml

    work, fusion = (
        yaml.safe_load(path.with_name(f"{path.name}.meta.yaml").read_text("utf-8"))["method"]
        for path in (reranked, fused)
    )
    return (
        f"\n{work['groups']:,} pairs were reranked, {work['groups_per_second']:,.0f} per second; the weight of "
        f"the reranker in {fused.name} is {fusion['weights'][1]:.2f}, chosen on the tuning questions."
    )


if __name__ == "__main__":
    sys.exit(main())
