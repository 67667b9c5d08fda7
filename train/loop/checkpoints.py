"""What a training leaves on disk while it runs: checkpoints, and the best model so far beside them.

Nothing stands under the final names before the end: the best model lies in ``checkpoints/best`` and is moved into
the folder when the training is over.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

CHECKPOINTS = "checkpoints"
BEST = "best"
NOTE = "best.json"


def last_checkpoint(output: Path) -> Path | None:
    """The latest checkpoint that was written to its end; a killed one has no readable trainer state."""
    found = []
    for folder in (output / CHECKPOINTS).glob("checkpoint-*"):
        try:
            state = json.loads((folder / "trainer_state.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        found.append((int(state["global_step"]), folder))
    return max(found)[1] if found else None


def step_of(checkpoint: Path | None) -> int:
    """The step after which a checkpoint was written; 0 for none."""
    return int(checkpoint.name.rpartition("-")[2]) if checkpoint else 0


def read_best(output: Path) -> dict[str, Any] | None:
    """Step, measure and value of the best model of a training so far; None where none was measured."""
    for path in (output / CHECKPOINTS / BEST / NOTE, output / NOTE):
        if path.is_file():
            best: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            return best
    return None


def keep_best(output: Path, save: Callable[[Path], None], best: dict[str, Any] | None) -> None:
    """Puts the model that ``save`` writes into ``checkpoints/best``, with a note of its measure if it has one."""
    parent = output / CHECKPOINTS
    fresh, old, kept = parent / f"{BEST}.new", parent / f"{BEST}.old", parent / BEST
    for leftover in (fresh, old):
        shutil.rmtree(leftover, ignore_errors=True)
    save(fresh)
    if best is not None:
        (fresh / NOTE).write_text(json.dumps(best) + "\n", encoding="utf-8")
    if kept.exists():
        kept.rename(old)
    fresh.rename(kept)
    shutil.rmtree(old, ignore_errors=True)


def install_best(output: Path) -> None:
    """Moves the best model to its final names, weights last; does nothing where it lies there already."""
    kept = output / CHECKPOINTS / BEST
    files = [path for path in kept.rglob("*") if path.is_file()]
    for path in sorted(files, key=lambda path: (path.suffix == ".safetensors", path)):
        target = output / path.relative_to(kept)
        target.parent.mkdir(parents=True, exist_ok=True)
        os.replace(path, target)
    shutil.rmtree(kept, ignore_errors=True)


def forget_best(output: Path) -> None:
    """Drops the best model of a training that has no checkpoint to go on from."""
    shutil.rmtree(output / CHECKPOINTS / BEST, ignore_errors=True)
    (output / NOTE).unlink(missing_ok=True)
