"""``sparring probe``: ranks by a linear probe of a frozen language model, fitted without any label."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from ...rerank import console, registry
from ...rerank.commands.options import CommonOptions, DatasetOptions, RunOptions
from ...rerank.data.atomic import check_output
from ...rerank.data.candidates import CandidateSet, candidates
from ...rerank.data.meta import write_meta
from ...rerank.data.runs import Topic, read_run, with_rest, write_run
from ...rerank.errors import InputError, UsageError
from ...rerank.vocabulary import Candidates, Preferences

if TYPE_CHECKING:
    from torch import Tensor

    from ..losses import Loss
    from ..probes.fit import Probe
    from ..probes.states import States

ITEM = "Query: {query}\nPassage: {text}\n{claim}"
CLAIMS = ("The passage answers the query.", "The passage does not answer the query.")
PAIR = (
    "Query: {query}\nPassage A: {first}\nPassage B: {second}\nPassage A answers the query better than passage B."
)
LOSSES = {"item": ("ccs", "ccr_margin", "ccr_triplet", "ccr_ordinal"), "pair": ("ccs", "ccr_margin")}
TWO_POLES = "ccs"


@dataclass(frozen=True, kw_only=True)
class Options(DatasetOptions, RunOptions, CommonOptions):
    """Rerank a run by a probe of frozen hidden states, trained to be consistent: no labels are read."""

    run: Path
    """TREC run with the candidates (.gz too)."""
    model: str
    """A causal language model or an encoder: a folder, `minilm` (embedded), or a name on the hub."""
    output: Path
    """TREC run to write."""
    depth: int = 20
    """Candidates per topic; documents below keep their order, under these."""
    prompt: Literal["item", "pair"] = "item"
    """What the model reads: one passage, or two of them in both orders (depth² prompts per topic)."""
    loss: str = "ccr_margin"
    """Consistency to fit: ccs, ccr_margin, or for items also ccr_triplet (time grows with depth³), ccr_ordinal."""
    layer: int = -1
    """Which hidden state is read: -1 is the last, 0 the embeddings."""
    passage_tokens: int = 128
    """Tokens of a passage; the rest is cut."""
    steps: int = 300
    """Steps of Adam from each start, over all topics at once."""
    learning_rate: float = 0.01
    """Step size."""
    restarts: int = 5
    """Random starts; the one that ends with the lowest loss is taken."""
    labelled_pair: tuple[str, str, str] | None = None
    """QID BETTER WORSE: one judged pair that says which end is up; without it the run's own order does."""
    aggregator: str = "win_rate"
    """Turns the pairs' probabilities into a ranking."""
    tag: str = "probe"
    """Run tag, one word."""


def main(options: Options) -> None:
    """Checks everything, reads the prompts, fits the probe, and writes the run and its meta file."""
    from ..losses import losses

    loss: Loss = losses.parse(options.loss)
    aggregator = registry.aggregators.parse(options.aggregator)
    _check(options, loss)
    check_output(options.output, options.overwrite)
    started = time.perf_counter()
    run = read_run(options.run, encoding=options.encoding, encoding_errors=options.encoding_errors)
    topics = candidates(run, options.open_dataset(), options.depth)
    _check_pair(options, topics)
    from ..probes.fit import agreement, fit, standardised
    from ..probes.states import States

    states = States(options.model, options.device, options.dtype, options.layer)
    if options.dry_run:
        console.out(f"{len(topics)} topics, {topics.pairs} candidates, {_count(options, loss, topics)} prompts")
        return
    kept = list(topics)
    features, mask = read(kept, states, options, loss)
    features = standardised(features, mask)
    probe = fit(
        features,
        mask,
        loss,
        steps=options.steps,
        learning_rate=options.learning_rate,
        restarts=options.restarts,
        seed=options.seed,
    )
    scores = list(scored(kept, features, probe, options, aggregator))
    up = agreement(scores) if options.labelled_pair is None else _judged(options, kept, scores)
    scores = [-part if up < 0 else part for part in scores]
    written = write_run(options.output, _topics(run, kept, scores), options.tag)
    details = {
        "model": options.model,
        "dtype": states.dtype,
        "layer": options.layer,
        "prompt": options.prompt,
        "loss": str(loss),
        "final loss": probe.value,
        "direction": "labelled pair" if options.labelled_pair else "the run's order",
        "kendall with the run": agreement(scores),
        "depth": options.depth,
        "seed": options.seed,
        "seconds": round(time.perf_counter() - started, 2),
    }
    inputs = {"run": options.run, **topics.dataset.files()}
    write_meta(options.output, options.tag, inputs, details, embed=options.embed_metadata)
    topics.write_missing(options.output)
    console.log.info("%s: %d topics, loss %.4f", options.output, written.topics, probe.value)


def _check(options: Options, loss: Any) -> None:
    known = LOSSES[options.prompt]
    if loss.spec_name not in known:
        raise UsageError(f"--loss {loss}: a probe of {options.prompt} prompts is fitted by {', '.join(known)}")
    for name, least in (("depth", 2), ("passage_tokens", 1), ("steps", 1), ("restarts", 1)):
        if getattr(options, name) < least:
            raise UsageError(f"--{name.replace('_', '-')} must be at least {least}, not {getattr(options, name)}")


def _check_pair(options: Options, topics: CandidateSet) -> None:
    if options.labelled_pair is None:
        return
    qid, *pair = options.labelled_pair
    tops = topics.run[qid][0][: options.depth] if qid in topics.topics else ()
    absent = [docid for docid in pair if docid not in tops]
    if absent or pair[0] == pair[1]:
        raise UsageError(
            f"--labelled-pair {' '.join(options.labelled_pair)}: expected a topic and two of its first "
            f"{options.depth} documents"
        )


def _count(options: Options, loss: Any, topics: CandidateSet) -> int:
    sizes = [len(topic) for topic in topics]
    if options.prompt == "pair":
        return sum(size * (size - 1) for size in sizes)
    return sum(sizes) * (2 if loss.spec_name == TWO_POLES else 1)


def prompts(topic: Candidates, texts: list[str], pair: bool, poles: int) -> Iterator[str]:
    """The prompts of a topic: items pole by pole, or every pair (i, j), i < j, in both orders."""
    if pair:
        for first, second in itertools.combinations(texts, 2):
            yield PAIR.format(query=topic.query, first=first, second=second)
            yield PAIR.format(query=topic.query, first=second, second=first)
        return
    for text in texts:
        for claim in CLAIMS[:poles]:
            yield ITEM.format(query=topic.query, text=text, claim=claim)


def read(kept: list[Candidates], states: States, options: Options, loss: Any) -> tuple[Tensor, Tensor]:
    """Hidden states (Q, n, P, H) and which are real, (Q, n); n counts candidates, or pairs of them."""
    import torch

    pair = options.prompt == "pair"
    poles = 2 if pair or loss.spec_name == TWO_POLES else 1
    asked = []
    for topic in kept:
        texts = states.cut(list(topic.texts), options.passage_tokens)
        asked.append(list(prompts(topic, texts, pair, poles)))
    found = states(list(itertools.chain.from_iterable(asked)))
    parts = torch.split(found, [len(part) for part in asked])
    tables = [part.reshape(len(part) // poles, poles, part.shape[1]) for part in parts]
    features = torch.nn.utils.rnn.pad_sequence(tables, batch_first=True)
    sizes = torch.tensor([len(table) for table in tables])
    return features, torch.arange(features.shape[1]) < sizes[:, None]


def scored(
    kept: list[Candidates], features: Tensor, probe: Probe, options: Options, aggregator: Any
) -> Iterator[NDArray[np.float64]]:
    """The probe's scores of every topic's candidates, (n,), in a direction that is still open."""
    logits = probe(features).double().numpy()
    for topic, said in zip(kept, logits, strict=True):
        size = len(topic)
        if options.prompt == "item":
            yield said[:size, 0] - said[:size, 1] if said.shape[1] == 2 else said[:size, 0]
            continue
        first, second = np.triu_indices(size, 1)
        said = expit(said[: len(first)])
        wins = (said[:, 0] + 1.0 - said[:, 1]) / 2
        preferences = Preferences(
            sizes=np.array([size]),
            offsets=np.array([0, len(first)]),
            first=first.astype(np.int32),
            second=second.astype(np.int32),
            probability=wins,
        )
        yield np.asarray(aggregator(preferences))


def _judged(options: Options, kept: list[Candidates], scores: list[NDArray[np.float64]]) -> float:
    """Above 0 where the labelled pair stands the right way round."""
    qid, better, worse = options.labelled_pair or ("", "", "")
    place = [topic.qid for topic in kept].index(qid)
    docids = kept[place].docids
    gap = float(scores[place][docids.index(better)] - scores[place][docids.index(worse)])
    if gap == 0:
        raise InputError(f"the probe scores {better} and {worse} of {qid} the same: label another pair")
    return gap


def _topics(run: Any, kept: list[Candidates], scores: list[NDArray[np.float64]]) -> Iterator[Topic]:
    for topic, values in zip(kept, scores, strict=True):
        yield with_rest(run, topic.qid, topic.docids, values)
