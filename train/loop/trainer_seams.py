"""The one place where this toolkit leans on names of ``transformers`` and sentence-transformers that are private.

``Trainer.train`` reads a checkpoint's weights by ``_load_from_checkpoint``, and no public method stands in for it:
a ranker saves the folder that the toolkit loads, which is not the state of the module that is trained. A test
compares the signatures below with those of the installed releases.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import Trainer

SEAMS = {
    "transformers.Trainer": {"_load_from_checkpoint": ("self", "resume_from_checkpoint", "model")},
    "sentence_transformers.SentenceTransformerTrainer": {"_load_from_checkpoint": ("self", "checkpoint_path")},
}
"""Private methods that are replaced here, by class, with the names of their parameters."""


class OwnCheckpoints(Trainer):
    """A trainer whose checkpoints are read by the ranker that wrote them; ``ranker`` has ``load(folder)``."""

    ranker: Any

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        self.ranker.load(Path(resume_from_checkpoint))
