"""A collection to search, and indexes of it that are built when first asked for."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass, field
from pathlib import Path

from sparring.rerank.data.datasets import Dataset, open_dataset
from sparring.rerank.search.bi_encoder import BiEncoder
from sparring.rerank.search.build_index import build_index
from sparring.rerank.search.index import Index
from sparring.rerank.search.index_types import Layout
from tiny_models import WORDS, save_bi_encoder, sentence


def write_collection(path: Path, size: int) -> Path:
    """A collection of ``size`` documents, and 5 topics."""
    rng = random.Random(1)
    with (path / "corpus.jsonl").open("w") as stream:
        for number in range(size):
            stream.write(json.dumps({"id": f"d{number}", "text": sentence(rng, rng.randint(1, 40))}) + "\n")
    (path / "queries.tsv").write_text("".join(f"q{t}\t{' '.join(rng.sample(WORDS, 4))}\n" for t in range(5)))
    return path


@dataclass
class Built:
    """Indexes of a collection of 1,200 documents, each built when first asked for."""

    root: Path
    encoders: dict[str, BiEncoder]
    made: dict[tuple[str, str], Index] = field(default_factory=dict)

    def encoder(self, similarity: str) -> BiEncoder:
        if similarity not in self.encoders:
            path = save_bi_encoder(self.root / similarity, similarity=similarity)
            self.encoders[similarity] = BiEncoder(str(path), device="cpu")
        return self.encoders[similarity]

    def dataset(self) -> Dataset:
        return open_dataset(str(self.root))

    def index(self, kind: str, similarity: str = "cosine") -> Index:
        key = kind, similarity
        if key not in self.made:
            target, layout = self.root / f"{kind}-{similarity}", Layout(kind)  # type: ignore[arg-type]
            self.made[key] = build_index(self.dataset(), self.encoder(similarity), target, layout)
        return self.made[key]
