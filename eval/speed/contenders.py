"""Who takes part in the throughput benchmark: sentence-transformers, rerankers, and this toolkit's engine."""

from __future__ import annotations

import importlib.util
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ...rerank.vocabulary import Scorer
from .hardware import timed
from .inputs import Pairs
from .peer import ask

Scores = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Timing:
    """One repetition: seconds from texts to scores, seconds from token ids to scores (if known), the scores."""

    seconds: float
    forward_seconds: float | None
    scores: Scores


class Contender(Protocol):
    """A way to score pairs; the model is loaded and warm before `measure`."""

    name: str

    @property
    def settings(self) -> str: ...

    def measure(self, pairs: Pairs) -> Timing: ...


class SentenceTransformers:
    """`CrossEncoder.predict`; without tokenisation, its own batches through its own model."""

    def __init__(self, folder: Path, device: Any, dtype: str, batch: int, name: str, max_length: int) -> None:
        import torch
        from sentence_transformers import CrossEncoder

        options: dict[str, Any] = {}
        if dtype != "float32":
            flash = device.type == "cuda" and importlib.util.find_spec("flash_attn") is not None
            kernel = "flash_attention_2" if flash else "sdpa"
            options["model_kwargs"] = {"dtype": getattr(torch, dtype), "attn_implementation": kernel}
        self._model = CrossEncoder(str(folder), device=str(device), max_length=max_length, **options)
        self._device, self._max_length = device, max_length
        self.name, self.dtype, self.batch = name, dtype, batch

    @property
    def settings(self) -> str:
        """Precision and batch size."""
        return f"{self.dtype}, batch {self.batch}"

    def measure(self, pairs: Pairs) -> Timing:
        """Times `predict` as it is called, then the forward passes alone."""
        import torch

        flat = pairs.flat()
        seconds, scores = timed(lambda: self._predict(flat), self._device)
        order = np.argsort([-len(query) - len(text) for query, text in flat], kind="stable")
        batches = [
            self._model.tokenizer(
                [flat[i] for i in order[start : start + self.batch].tolist()],
                padding=True,
                truncation="longest_first",
                max_length=self._max_length,
                return_tensors="pt",
            )
            for start in range(0, len(flat), self.batch)
        ]

        def forward() -> Any:
            with torch.inference_mode():
                parts = [self._model.model(**batch.to(self._device)).logits.float() for batch in batches]
                return torch.cat(parts).cpu()

        return Timing(seconds, timed(forward, self._device)[0], scores)

    def tune(self, flat: list[tuple[str, str]], sizes: tuple[int, ...]) -> None:
        """Takes the fastest batch size on a sample."""
        rates = {}
        for size in sizes:
            self.batch = size
            self._predict(flat[: 2 * size])
            rates[size] = min(timed(lambda: self._predict(flat), self._device)[0] for _ in range(2))
        self.batch = min(rates, key=lambda size: rates[size])

    def _predict(self, flat: list[tuple[str, str]]) -> Scores:
        import torch

        said = self._model.predict(
            flat, batch_size=self.batch, activation_fn=torch.nn.Identity(), show_progress_bar=False
        )
        return np.asarray(said, np.float64).reshape(-1)


class Ours:
    """The engine; without tokenisation, a second call on the same texts, whose token ids it still has."""

    def __init__(self, folder: Path, device: Any, dtype: str, max_length: int, ledger: bool = False) -> None:
        from ...rerank.engine.devices import choose_dtype, dtype_name
        from ...rerank.models.loading import load

        self._model = load(str(folder), max_length=max_length)
        self._device, self._asked, self._ledger = device, dtype, ledger
        self.dtype = dtype_name(choose_dtype(dtype, device))
        self.name = "sparring" + (" with ledger" if ledger else "")

    @property
    def settings(self) -> str:
        """Precision, and that batches are filled by tokens."""
        return f"{self.dtype}, by tokens"

    def measure(self, pairs: Pairs) -> Timing:
        """Times a fresh engine on the texts, then on their token ids."""
        from ...rerank.executors.open import open_scorer

        engine = open_scorer(self._model, device=str(self._device), dtype=self._asked, progress=False)
        if self._ledger:
            from ...rerank.ledger.ledger import Ledger

            with tempfile.TemporaryDirectory() as folder, Ledger.open(Path(folder) / "ledger") as ledger:
                recorded = ledger.wrap(engine)
                seconds, scores = timed(lambda: self._score(recorded, pairs), self._device)
            return Timing(seconds, None, scores)
        seconds, scores = timed(lambda: self._score(engine, pairs), self._device)
        forward, _ = timed(lambda: self._score(engine, pairs), self._device)
        return Timing(seconds, forward, scores)

    def _score(self, scorer: Scorer, pairs: Pairs) -> Scores:
        singles = [np.arange(len(topic), dtype=np.int32)[:, None] for topic in pairs.topics]
        return np.concatenate([said[:, 0] for said in scorer(pairs.topics, singles)])


class Rerankers:
    """The `rerankers` library in its own environment; it tokenises in its loop, so there is one figure."""

    name = "rerankers"

    def __init__(self, python: str, folder: Path, device: Any, dtype: str, batch: int, threads: int) -> None:
        self._python = python
        self._task = {
            "model": str(folder),
            "dtype": dtype,
            "batch": batch,
            "device": str(device),
            "threads": threads,
            "repeats": 1,
        }

    @property
    def settings(self) -> str:
        """Precision and batch size."""
        return f"{self._task['dtype']}, batch {self._task['batch']}"

    def measure(self, pairs: Pairs) -> Timing:
        """Times it in a fresh process; loading and one warm-up call are not counted."""
        task = self._task | {"topics": [[topic.query, list(topic.texts)] for topic in pairs.topics]}
        said = ask(self._python, "peer_rerankers.py", task)
        self.name = f"rerankers {said['version']}"
        return Timing(said["seconds"][0], None, np.array(said["scores"]))


def has_rerankers(python: str) -> bool:
    """Whether this interpreter exists and has the `rerankers` library."""
    try:
        return subprocess.run([python, "-c", "import rerankers"], capture_output=True, check=False).returncode == 0
    except OSError:
        return False


def interleaved(contenders: list[Contender], pairs: Pairs, repeats: int) -> Iterator[tuple[Contender, Timing]]:
    """Every contender once, then every contender again: what else the machine does hits all alike."""
    for _ in range(repeats):
        for contender in contenders:
            yield contender, contender.measure(pairs)
