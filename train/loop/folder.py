"""The folder of a training: made, gone on with under the same options only, and uploaded."""

from __future__ import annotations

import shutil
from pathlib import Path

from ...rerank.data.atomic import atomic_write
from ...rerank.errors import UsageError
from .checkpoints import CHECKPOINTS, forget_best, last_checkpoint, step_of
from .log_file import cut_csv
from .options import TrainingOptions

CONFIG, CARD = "config.yaml", "README.md"
MARK = "# sparring train "
"""How the options file of every training begins."""
FREE = ("resume:", "overwrite:", "quiet:", "device:", "dataloader_num_workers:")
"""Options that may be others when a training goes on: the order of the data does not depend on them."""


def goes_on(options: TrainingOptions, config: str) -> bool:
    """Whether this training goes on where an earlier one stopped; writes nothing.

    Args:
        config: the options as the text of the file ``config.yaml``.

    Raises:
        UsageError: the folder holds something that is neither to be gone on with nor to be replaced.
    """
    output = options.output_dir
    known = (output / CONFIG).is_file()
    if options.resume:
        if known and (changed := _changed(output / CONFIG, config)):
            raise UsageError(
                f"{output / CONFIG} was made with other options ({changed}): resume with the same ones, or "
                "--overwrite"
            )
        return True
    if not output.exists() or not any(output.iterdir()):
        return False
    if options.overwrite:
        if not known or not (output / CONFIG).read_text(encoding="utf-8", errors="replace").startswith(MARK):
            raise UsageError(
                f"{output} holds no training: --overwrite replaces none but those; name another folder"
            )
        start = Path(options.model_name_or_path).resolve()
        if output.resolve() in (start, *start.parents):
            raise UsageError(f"--overwrite would delete {options.model_name_or_path}, where the training starts")
        return False
    if known and not (output / CARD).is_file() and not _changed(output / CONFIG, config):
        return True  # it was killed: the same command goes on
    raise UsageError(f"{output} is not empty: add --resume to go on, --overwrite to start anew")


def _changed(path: Path, config: str) -> str:
    """The options that differ from those in a file, as lines; empty where none does."""
    old, new = (
        {line for line in text.splitlines()[1:] if not line.startswith(FREE)}
        for text in (path.read_text(encoding="utf-8"), config)
    )
    return "; ".join(sorted(new - old) or sorted(old - new))


def prepare(options: TrainingOptions, config: str, going_on: bool) -> None:
    """Makes the folder with the options in it; drops from it what was written after the last checkpoint."""
    output = options.output_dir
    if not going_on and output.exists():
        shutil.rmtree(output)
    output.mkdir(parents=True, exist_ok=True)
    with atomic_write(output / CONFIG) as stream:
        stream.write(config)
    checkpoint = last_checkpoint(output)
    if checkpoint is None:
        forget_best(output)  # of a training that was killed before its first checkpoint
    cut_csv(output / "training_log.csv", step_of(checkpoint) if checkpoint else -1)


def push(output: Path, repository: str) -> None:
    """Uploads a trained model, without its checkpoints, to a repository of the hub."""
    from huggingface_hub import HfApi

    api = HfApi()
    api.create_repo(repository, exist_ok=True)
    api.upload_folder(repo_id=repository, folder_path=str(output), ignore_patterns=[f"{CHECKPOINTS}/*"])
