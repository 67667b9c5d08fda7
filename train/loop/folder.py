"""The folder of a training: made, resumed with the same options only, and uploaded."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...rerank.commands.config import config_text
from ...rerank.data.atomic import atomic_write
from ...rerank.errors import UsageError

if TYPE_CHECKING:
    from .options import Options


def prepare(options: Options) -> None:
    """Makes the folder with the options in it; cuts from it what was written after the last checkpoint."""
    from .trainer import cut_csv, last_checkpoint

    output = options.output_dir
    if options.overwrite and not options.resume:
        shutil.rmtree(output, ignore_errors=True)
    _check_resumed(options)
    output.mkdir(parents=True, exist_ok=True)
    with atomic_write(output / "config.yaml") as stream:
        stream.write(config_text("train", options))
    checkpoint = last_checkpoint(output)
    if checkpoint is None:
        (output / "best.json").unlink(missing_ok=True)  # of a training that was killed before its first checkpoint
    cut_csv(output / "training_log.csv", int(checkpoint.name.rpartition("-")[2]) if checkpoint else -1)


def _check_resumed(options: Options) -> None:
    """Refuses to resume with other options: the order of the data would be another."""
    path = options.output_dir / "config.yaml"
    if not options.resume or not path.is_file():
        return
    ignored = ("resume:", "overwrite:", "quiet:", "device:", "dataloader_num_workers:")
    old, new = (
        {line for line in text.splitlines()[1:] if not line.startswith(ignored)}
        for text in (path.read_text(encoding="utf-8"), config_text("train", options))
    )
    if old != new:
        changed = "; ".join(sorted(old ^ new))
        raise UsageError(
            f"{path} was made with other options ({changed}): resume with the same ones, or --overwrite"
        )


def tensorboard_writer(output: Path, checkpoint: Path | None) -> Any:
    """A writer of TensorBoard's files in a folder; what was written after the checkpoint is not shown any more."""
    from torch.utils.tensorboard import SummaryWriter

    step = int(checkpoint.name.rpartition("-")[2]) if checkpoint else 0
    writer: Any = SummaryWriter
    return writer(output / "tensorboard", purge_step=step + 1 if checkpoint else None)


def push(output: Path, repository: str) -> None:
    """Uploads a trained model, without its checkpoints, to a repository of the hub."""
    from huggingface_hub import HfApi

    api = HfApi()
    api.create_repo(repository, exist_ok=True)
    api.upload_folder(repo_id=repository, folder_path=str(output), ignore_patterns=["checkpoints/*"])
