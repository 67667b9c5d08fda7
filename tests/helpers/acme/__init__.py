"""A distribution of somebody else, written and installed into a folder: components of every kind by entry points."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

SCHEDULES = '''
"""Schedules and aggregators of acme."""
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from sparring.rerank.registry import aggregators, schedules


@schedules.register("acme_chain")
@dataclass(frozen=True)
class Chain:
    """Everyone against whoever stands ``step`` ranks below."""

    step: int = 1
    width: ClassVar[int | None] = 2
    oriented: ClassVar[bool] = False

    def rounds(self, prior, rng):
        n = len(prior)
        if n > self.step:
            yield np.stack([np.arange(n - self.step), np.arange(self.step, n)], 1).astype(np.int32)


@aggregators.register("acme_wins")
@dataclass(frozen=True)
class Wins:
    """Won minus lost, then the first stage."""

    def __call__(self, said):
        return np.concatenate([np.empty(0), *(self._topic(said.topic(i)) for i in range(len(said)))])

    def _topic(self, said):
        score = np.zeros(int(said.sizes[0]))
        np.add.at(score, said.first, 2 * said.probability - 1)
        np.add.at(score, said.second, 1 - 2 * said.probability)
        prior = np.zeros(len(score)) if said.prior is None else said.prior
        score = np.round(score, 9)
        score[np.argsort(-prior, kind="stable")] -= 1e-6 * np.arange(len(score))
        return score
'''

MODELS = '''
"""A model without weights: passages are scored by the tokens that they share with the query."""
from dataclasses import dataclass
from typing import ClassVar

import torch
from sparring.rerank.engine.templates import Truncation, pair_template
from sparring.rerank.models.loading import fingerprint, load_tokenizer
from sparring.rerank.models.families.about import About
from sparring.rerank.registry import families


class Overlap:
    width, first_position, packed = 1, 0, True

    def __init__(self, checkpoint, weight):
        self.name = checkpoint.name
        self.tokenizer = load_tokenizer(checkpoint)
        self.template = pair_template(self.tokenizer, segments=False)
        self.truncation = Truncation(64)
        self.weight = weight
        self.fingerprint = fingerprint(checkpoint, self.template, self.truncation, weight)

    def place(self, device, dtype, deterministic=False):
        pass

    def forward(self, batch):
        ids, ends = batch.input_ids.tolist(), batch.boundaries
        end = self.tokenizer.sep_token_id
        scores = []
        for first, last in zip(ends, ends[1:]):
            own = ids[first:last]
            cut = own.index(end)
            scores.append(self.weight * len(set(own[:cut]) & set(own[cut:])) - 0.001 * len(own))
        return torch.tensor(scores, dtype=torch.float32)


@families.register("acme_overlap")
@dataclass(frozen=True)
class OverlapFamily:
    """Tokens that query and passage share; any checkpoint with a tokenizer."""

    about: ClassVar[About] = About("pointwise", "packed", "how many tokens are shared", made_by="any tokenizer")
    weight: float = 1.0

    def claims(self, checkpoint):
        return bool(checkpoint.config.get("acme"))

    def load(self, checkpoint):
        return Overlap(checkpoint, self.weight)
'''

TRAINING = '''
"""What acme trains with."""
from dataclasses import dataclass

import numpy as np
from sparring.train.data.mixture import Row, Sampling, sources
from sparring.train.losses import losses
from sparring.train.losses.terms import differences, preferred, reduce, zero_padding


@losses.register("acme_square")
@dataclass(frozen=True)
class Square:
    """Squared distance of each gap to a margin."""

    margin: float = 1.0

    def __call__(self, scores, labels, mask):
        gaps = differences(zero_padding(scores, mask))
        return reduce((gaps - self.margin) ** 2, preferred(labels, mask), "list_mean")


@sources.register("acme_made_up")
@dataclass(frozen=True)
class MadeUp:
    """Queries whose best passage repeats them."""

    count: int = 8
    scale: float = 1.0
    share: float = 1.0
    sampling: Sampling = "balanced"

    def rows(self):
        words = ("river", "mountain", "coffee", "bread", "market")
        labels = np.array([2, 0, 1, 0], np.float32)
        return [
            Row(f"q{i}", f"the {words[i % 5]}", ("a", "b", "c", "d"), labels,
                [f"the {words[i % 5]}", "ranking", f"{words[i % 5]} and {words[(i + 1) % 5]}", "token"])
            for i in range(self.count)
        ]
'''

MEASURES = '''
"""What acme measures."""
from dataclasses import dataclass
from typing import ClassVar

from sparring.eval.measures.catalogue import measures


@measures.register("acme_first")
@dataclass(frozen=True)
class First:
    """Share of the first ``at`` documents that are relevant."""

    at: float = 1
    rel: int = 1
    lower_is_better: ClassVar[bool] = False

    def __call__(self, grades, relevant):
        return float((grades[: int(self.at)] >= self.rel).mean()) if len(grades) else 0.0
'''

MODULES = {"schedules": SCHEDULES, "models": MODELS, "training": TRAINING, "measures": MEASURES}
GROUPS = {
    "schedules": "schedules", "aggregators": "schedules", "families": "models", "losses": "training",
    "sources": "training", "measures": "measures",
}  # fmt: skip


def install(site: Path, name: str, modules: dict[str, str], groups: dict[str, str], version: str = "1.2") -> Path:
    """Puts a distribution into a folder as pip would: a package, its metadata and its entry points."""
    package, info = site / name, site / f"{name}-{version}.dist-info"
    package.mkdir(parents=True)
    info.mkdir()
    (package / "__init__.py").write_text("")
    for module, text in modules.items():
        (package / f"{module}.py").write_text(text)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    points = [f"[sparring.{group}]\n{name} = {name}.{module}\n" for group, module in groups.items()]
    (info / "entry_points.txt").write_text("\n".join(points))
    return site


def sparring(
    *words: str, site: Path | None = None, folder: Path | None = None, code: int = 0
) -> subprocess.CompletedProcess[str]:
    """A command in a process of its own, with a folder of installed packages, in a folder, and its exit code."""
    paths = [str(site)] if site else []
    path = os.pathsep.join([*paths, *filter(None, [os.environ.get("PYTHONPATH")])])
    # -P leaves the current folder out of the path, as the installed command does
    command = [sys.executable, "-P", "-m", "sparring.rerank.cli", *words]
    done = subprocess.run(
        command, env=os.environ | {"PYTHONPATH": path}, cwd=folder, capture_output=True, text=True
    )
    assert done.returncode == code, done.stderr
    return done
