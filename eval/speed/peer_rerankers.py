"""Run by another interpreter, which has the `rerankers` library: times it on pairs given as JSON on stdin.

Reads {"model", "dtype", "batch", "device", "threads", "repeats", "topics": [[query, [text, ...]], ...]}; writes
{"version", "seconds": [...], "scores": [...]} as the last line of stdout. It imports nothing of this project.
"""

from __future__ import annotations

import json
import sys
import time
from importlib.metadata import version


def main() -> None:
    """Loads the model, warms it up on one topic, and times the whole list as often as asked."""
    import torch
    from rerankers import Reranker  # type: ignore[import-not-found]

    task = json.load(sys.stdin)
    torch.set_num_threads(task["threads"])
    ranker = Reranker(
        task["model"],
        model_type="cross-encoder",
        dtype=task["dtype"],
        device=task["device"],
        batch_size=task["batch"],
        verbose=0,
    )
    query, texts = task["topics"][0]
    ranker.rank(query, texts[:8])
    seconds = []
    for _ in range(task["repeats"]):
        start = time.perf_counter()
        results = [ranker.rank(query, texts) for query, texts in task["topics"]]
        seconds.append(time.perf_counter() - start)
    scores = []
    for ranked in results:
        by_document = {result.document.doc_id: result.score for result in ranked.results}
        scores += [float(by_document[i]) for i in range(len(by_document))]
    sys.stdout.write(
        "\n" + json.dumps({"version": version("rerankers"), "seconds": seconds, "scores": scores}) + "\n"
    )


if __name__ == "__main__":
    main()
