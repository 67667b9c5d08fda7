"""Training speed beside sentence-transformers' CrossEncoderTrainer: same lists, weights, loss and batches.

    python -m sparring.train.benchmark --output eval/results/train-throughput-cpu.json

One pass over the lists of judged topics with ListNet, without dropout; medians of interleaved repetitions. The
learning rate is 0, which costs what any other does: the mean loss of a pass is then the same number for everybody
who computes the same, in whatever order the lists are seen.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..eval.speed.contenders import quieten
from ..eval.speed.hardware import machine
from ..eval.speed.inputs import build_cross_encoder
from ..rerank.console import out
from ..rerank.data.atomic import atomic_write
from .data.collator import Collator
from .data.mixture import Example, Mixture
from .rankers.bodies import DROPOUTS
from .sources import parse

BARS = {"cpu": 1.3, "cuda": 1.5}


def main(arguments: list[str] | None = None) -> None:
    """Builds the weights and the lists, lets everybody train in turn, writes the JSON file and prints it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="JSON file to write")
    parser.add_argument("--dataset", default="../shared/data/trec-dl-2021-pool", help="collection with qrels")
    parser.add_argument("--size", choices=("minilm", "bert-base", "tiny"), default="minilm")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--lists", type=int, default=2, help="lists of 16 passages per step")
    parser.add_argument("--max-length", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args(arguments)
    quieten()
    with tempfile.TemporaryDirectory() as scratch:
        report = measured(options, Path(scratch))
    options.output.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(options.output) as stream:
        json.dump(report, stream, indent=1)
        stream.write("\n")
    out(json.dumps({key: report[key] for key in ("rows", "bar")}, indent=1))


def measured(options: Any, scratch: Path) -> dict[str, Any]:
    """Everything that goes into the JSON file."""
    from ..rerank.engine.devices import choose_device, choose_dtype, dtype_name

    device = choose_device(options.device)
    dtype = dtype_name(choose_dtype("auto", device))
    source = f"judged(dataset={options.dataset!r}, scale=1)"
    lists = Mixture(parse([source]), 16, 0, options.steps * options.lists)
    examples = [lists[place] for place in range(len(lists))]
    folder = without_dropout(build_cross_encoder(scratch / "model", options.size))
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
    names = ("dataset", "size", "steps", "lists", "max_length", "repeats")
    return {
        "machine": machine(device),
        "task": {name: getattr(options, name) for name in names} | {"pairs": pairs},
        "rows": rows,
        "bar": {"value": round(times, 3), "bar": BARS[device.type], "met": times >= BARS[device.type]},
    }


def without_dropout(folder: Path) -> Path:
    """Sets every dropout of a checkpoint to 0."""
    path = folder / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(config | {name: 0.0 for name in DROPOUTS if name in config}), encoding="utf-8")
    return folder


def theirs(
    options: Any, folder: Path, scratch: Path, device: Any, examples: Sequence[Example], bf16: bool
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
    return timed(trainer)


def ours(
    options: Any, folder: Path, scratch: Path, device: Any, lists: Mixture, bf16: bool
) -> tuple[float, float]:
    """Seconds and mean loss of this toolkit's trainer."""
    from transformers import TrainingArguments

    from ..rerank.engine.devices import default_budget
    from .loop.trainer import RankingTrainer
    from .losses import losses
    from .rankers.kinds import Start, kinds

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
    return timed(trainer)


COMMON: dict[str, Any] = {
    "num_train_epochs": 1,
    "learning_rate": 0.0,
    "eval_strategy": "no",
    "save_strategy": "no",
    "logging_strategy": "no",
    "report_to": "none",
    "disable_tqdm": True,
}


def timed(trainer: Any) -> tuple[float, float]:
    """Seconds of one training, and its mean loss."""
    from transformers.trainer_callback import PrinterCallback

    trainer.remove_callback(PrinterCallback)
    start = time.perf_counter()
    done = trainer.train()
    return time.perf_counter() - start, float(done.training_loss)


if __name__ == "__main__":
    main()
