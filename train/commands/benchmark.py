"""``sparring benchmark training``: training speed beside sentence-transformers' CrossEncoderTrainer.

Both see the same lists, weights, loss and batches: one pass over the lists of judged topics with ListNet, without
dropout; medians of interleaved repetitions. The learning rate is 0, which costs what any other does: the mean loss
of a pass is then the same number for everybody who computes the same, in whatever order the lists are seen.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from ...eval.speed.hardware import machine, timed, warn_if_busy
from ...eval.speed.inputs import build_cross_encoder
from ...eval.speed.results import write_json
from ...rerank.commands.options import CommonOptions
from ...rerank.console import log, out, quiet_transformers
from ...rerank.data.atomic import check_output
from ...rerank.errors import UsageError
from ..data.collator import Collator
from ..data.mixture import Example, Mixture
from ..rankers.bodies import DROPOUTS
from ..sources import parse

if TYPE_CHECKING:
    import torch

LIST_SIZE = 16


@dataclass(frozen=True, kw_only=True)
class Options(CommonOptions):
    """Measure training against sentence-transformers on the judged topics of a collection."""

    output: Path
    """JSON file with all figures."""
    dataset: str = "pydocs"
    """Collection with judgements: a folder, irds:<id>, or pydocs, the embedded one."""
    size: Literal["minilm", "bert-base", "tiny"] = "minilm"
    """Body of the cross-encoder: the embedded MiniLM-L6, or BERT with random weights."""
    steps: int = 20
    """Steps of a pass."""
    lists: int = 2
    """Lists of 16 passages per step."""
    max_length: int = 256
    """Tokens of one input."""
    repeats: int = 3
    """Repetitions; medians are reported, and one more before them warms up."""


def main(options: Options) -> None:
    """Builds the weights and the lists, lets everybody train in turn, writes the JSON file and prints it."""
    from ...rerank.engine.devices import choose_device, choose_dtype, dtype_name

    check_output(options.output, options.overwrite)
    if min(options.steps, options.lists, options.max_length, options.repeats) < 1:
        raise UsageError("--steps, --lists, --max-length and --repeats must be at least 1")
    device = choose_device(options.device)
    dtype = dtype_name(choose_dtype(options.dtype, device))
    if dtype == "float16":
        raise UsageError("--dtype float16: training is measured in float32 and bfloat16")
    source = f"judged(dataset={options.dataset!r}, scale=1)"
    lists = Mixture(parse([source]), LIST_SIZE, options.seed, options.steps * options.lists)
    log.info("%d lists of %s, %d per step, on %s", len(lists), options.dataset, options.lists, device)
    if options.dry_run:
        return
    warn_if_busy()
    with quiet_transformers(), tempfile.TemporaryDirectory() as scratch:
        report = measured(options, lists, Path(scratch), device, dtype)
    write_json(options.output, report)
    out(json.dumps({key: report[key] for key in ("rows", "ratios")}, indent=1))


def measured(options: Options, lists: Mixture, scratch: Path, device: torch.device, dtype: str) -> dict[str, Any]:
    """Everything that goes into the JSON file."""
    examples = [lists[place] for place in range(len(lists))]
    folder = without_dropout(build_cross_encoder(scratch / "model", options.size, options.seed))
    work: dict[str, Callable[[], tuple[float, float]]] = {}
    for precision in dict.fromkeys(["float32", dtype]):
        half = precision != "float32"
        work[f"sentence-transformers, {precision}"] = lambda half=half: theirs(  # type: ignore[misc]
            options, folder, scratch, device, examples, half
        )
        work[f"sparring, {precision}"] = lambda half=half: ours(  # type: ignore[misc]
            options, folder, scratch, device, lists, half
        )
    said: dict[str, list[tuple[float, float]]] = {name: [] for name in work}
    for turn in range(options.repeats + 1):  # the first time warms up
        for name, run in work.items():
            result = run()
            if turn:
                said[name].append(result)
    pairs = sum(len(example.docids) for example in examples)
    rows: list[dict[str, Any]] = [
        {
            "name": name,
            "pairs_per_second": round(pairs / float(np.median([seconds for seconds, _ in results])), 2),
            "seconds": [round(seconds, 3) for seconds, _ in results],
            "loss": round(results[0][1], 5),
        }
        for name, results in said.items()
    ]
    rate = {str(row["name"]): float(row["pairs_per_second"]) for row in rows}
    best = max(value for name, value in rate.items() if not name.startswith("sparring"))
    times = rate[f"sparring, {dtype}"] / best
    names = ("size", "steps", "lists", "max_length", "repeats")
    return {
        "machine": machine(device),
        "task": {name: getattr(options, name) for name in names}
        | {"dataset": Path(options.dataset).name, "pairs": pairs},
        "rows": rows,
        "ratios": {"times_sentence_transformers": round(times, 3)},
    }


def without_dropout(folder: Path) -> Path:
    """Sets every dropout of a checkpoint to 0."""
    path = folder / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(config | {name: 0.0 for name in DROPOUTS if name in config}), encoding="utf-8")
    return folder


def theirs(
    options: Options, folder: Path, scratch: Path, device: torch.device, examples: Sequence[Example], bf16: bool
) -> tuple[float, float]:
    """Seconds and mean loss of sentence-transformers' trainer with its ListNetLoss."""
    from datasets import Dataset
    from sentence_transformers import CrossEncoder
    from sentence_transformers.cross_encoder import CrossEncoderTrainer, CrossEncoderTrainingArguments
    from sentence_transformers.cross_encoder.losses import ListNetLoss

    model = CrossEncoder(str(folder), num_labels=1, max_length=options.max_length, device=str(device))
    rows = {
        "query": [example.query for example in examples],
        "docs": [list(example.texts) for example in examples],
        "labels": [example.labels.tolist() for example in examples],
    }
    arguments = CrossEncoderTrainingArguments(
        output_dir=str(scratch / "theirs"),
        per_device_train_batch_size=options.lists,
        bf16=bf16,
        use_cpu=device.type == "cpu",
        **COMMON,
    )
    trainer = CrossEncoderTrainer(
        model=model, args=arguments, train_dataset=Dataset.from_dict(rows), loss=ListNetLoss(model)
    )
    return trained(trainer)


def ours(
    options: Options, folder: Path, scratch: Path, device: torch.device, lists: Mixture, bf16: bool
) -> tuple[float, float]:
    """Seconds and mean loss of this toolkit's trainer."""
    from transformers import TrainingArguments

    from ...rerank.engine.devices import default_budget
    from ..loop.trainer import RankingTrainer
    from ..losses import losses
    from ..rankers.kinds import Start, kinds

    ranker = kinds.parse("pointwise").start(Start(str(folder), options.max_length))
    arguments = TrainingArguments(
        output_dir=str(scratch / "ours"),
        per_device_train_batch_size=options.lists,
        bf16=bf16,
        use_cpu=device.type == "cpu",
        remove_unused_columns=False,
        dataloader_pin_memory=False,
        **COMMON,
    )
    collator = Collator(ranker.tokenizer, ranker.layout, default_budget(device))
    loss = losses.parse("listnet")
    trainer = RankingTrainer(
        ranker, arguments, lists, collator, loss, output=scratch / "ours", head_learning_rate=0.0
    )
    return trained(trainer)


COMMON: dict[str, Any] = {
    "num_train_epochs": 1,
    "learning_rate": 0.0,
    "eval_strategy": "no",
    "save_strategy": "no",
    "logging_strategy": "no",
    "report_to": "none",
    "disable_tqdm": True,
}


def trained(trainer: Any) -> tuple[float, float]:
    """Seconds of one training, and its mean loss."""
    from transformers.trainer_callback import PrinterCallback

    trainer.remove_callback(PrinterCallback)
    seconds, done = timed(trainer.train)
    return seconds, float(done.training_loss)
