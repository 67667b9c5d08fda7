"""Run by another interpreter, which has lightning-ir and transformers 4: times its Set-Encoder on lists.

Reads {"model", "dtype", "threads", "repeats", "query_length", "doc_length", "topics": [[query, [text, ...]], ...]}
as JSON from stdin; writes {"version", "seconds": [...], "scores": [...]} as the last line of stdout. It imports
nothing of this project.
"""

from __future__ import annotations

import json
import sys
import time
from importlib.metadata import version


def main() -> None:
    """Loads the model, warms it up on one topic, and times the whole list as often as asked."""
    import torch
    from lightning_ir.models.cross_encoders.set_encoder import (  # type: ignore[import-not-found]
        SetEncoderModel,
        SetEncoderTokenizer,
    )

    task = json.load(sys.stdin)
    torch.set_num_threads(task["threads"])
    model = SetEncoderModel.from_pretrained(task["model"]).eval().to(getattr(torch, task["dtype"]))
    tokenizer = SetEncoderTokenizer.from_pretrained(
        task["model"], query_length=task["query_length"], doc_length=task["doc_length"], add_extra_token=True
    )

    def score(query: str, texts: list[str]) -> list[float]:
        encoding = tokenizer.tokenize([query], texts, [len(texts)], padding=True, return_tensors="pt")["encoding"]
        with torch.inference_mode():
            return [float(value) for value in model(encoding).scores]

    query, texts = task["topics"][0]
    score(query, texts[:8])
    seconds = []
    for _ in range(task["repeats"]):
        start = time.perf_counter()
        results = [score(query, texts) for query, texts in task["topics"]]
        seconds.append(time.perf_counter() - start)
    scores = [value for result in results for value in result]
    sys.stdout.write(
        "\n" + json.dumps({"version": version("lightning-ir"), "seconds": seconds, "scores": scores}) + "\n"
    )


if __name__ == "__main__":
    main()
