"""What `rerank` and `compare` share: from a run, a collection and a model to candidates and a scorer."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from .. import console, registry
from ..data.candidates import CandidateSet
from ..data.runs import Run
from ..errors import UsageError
from ..ledger.ledger import Ledger
from ..passages import Passages, Windowed
from ..pipeline import Ranked, rerank
from ..rounds import Play, check_widths, topic_rng
from ..vocabulary import Aggregator, Schedule, Scorer
from .interrupts import resumable
from .options import ScoringOptions

if TYPE_CHECKING:
    from ..engine.model import AnyModel

SAMPLE = 64  # groups that a dry run scores to say how long all of them take


@dataclass(frozen=True, slots=True)
class Job:
    """Everything checked and loaded: ready to rank."""

    run: Run
    topics: CandidateSet
    model: AnyModel
    scorer: Scorer
    passages: Passages | None
    schedule: Schedule
    inputs: dict[str, Path]
    started: float
    instruction: str | None = None

    def details(self) -> dict[str, Any]:
        """What the meta file says about the model and its work."""
        return {
            "schedule": str(self.schedule),
            "fingerprint": self.scorer.fingerprint,
            **({"instruction": self.instruction} if self.instruction is not None else {}),
            "collection": self.topics.dataset.name,
            **self.scorer.stats.as_dict(),
            "seconds": round(time.perf_counter() - self.started, 2),
        }


class ModelFlags(Protocol):
    """The flags that say which model is asked, and how."""

    @property
    def model(self) -> str: ...
    @property
    def family(self) -> str | None: ...
    @property
    def revision(self) -> str | None: ...
    @property
    def max_length(self) -> int | None: ...
    @property
    def allow_pickle(self) -> bool: ...
    @property
    def instruction(self) -> str | None: ...
    @property
    def base(self) -> str | None: ...
    @property
    def schedule(self) -> str | None: ...
    @property
    def passages(self) -> str | None: ...
    def of_family(self) -> dict[str, Any]:
        """Flags that only some families have, as options of `load`."""
        ...


def load_asked(options: ModelFlags) -> tuple[AnyModel, Schedule, Passages | None]:
    """The model that the flags name, the schedule by which it is asked, and how long documents are scored.

    Raises UsageError where these do not fit together.
    """
    from ..engine.model import default_schedule
    from ..models.loading import load

    schedule = registry.schedules.parse(options.schedule) if options.schedule else None
    passages = registry.passages.parse(options.passages) if options.passages else None
    model = load(
        options.model,
        family=options.family,
        revision=options.revision,
        max_length=options.max_length,
        allow_pickle=options.allow_pickle,
        **options.of_family(),
        instruction=options.instruction,
        base=options.base,
    )
    schedule = schedule or registry.schedules.parse(default_schedule(model))
    check_widths(schedule, model.width)
    if passages and model.width != 1:
        raise UsageError(f"--passages {passages}: only pointwise models score windows; leave it out")
    return model, schedule, passages


def prepare(options: ScoringOptions, run: Run | None = None) -> Job:
    """Checks every input and loads the model; raises before any work is done.

    ``run`` stands in for the one that the options name, where a command has changed its candidates.
    """
    from ..engine.model import takes_instructions
    from ..executors.open import open_scorer

    started = time.perf_counter()
    if not 0 <= options.missing_limit <= 1:
        raise UsageError(f"--missing-limit {options.missing_limit} is not a share between 0 and 1")
    run = run or options.read_run()
    topics = options.candidates(run)
    model, schedule, passages = load_asked(options)
    if topics.dataset.instructions and not takes_instructions(model):
        raise UsageError(
            f"{model.name} takes no instruction, but {len(topics.dataset.instructions)} topics of "
            f"{topics.dataset.queries_path} carry one: take the field out of a copy of it"
        )
    scorer = open_scorer(
        model,
        executor=options.executor,
        device=options.device,
        dtype=options.dtype,
        token_budget=options.token_budget,
        deterministic=options.deterministic,
    )
    inputs = {"run": options.run, **topics.dataset.files()}
    return Job(run, topics, model, scorer, passages, schedule, inputs, started, options.instruction)


def ranked_topics(job: Job, options: ScoringOptions, aggregator: Aggregator | None) -> Iterator[Ranked]:
    """Ranks topic after topic with a ledger behind the engine, so that a killed command goes on where it was."""
    with recorded(job, options) as scorer:
        yield from rerank(
            job.topics,
            scorer,
            job.schedule,
            aggregator,
            order=options.order,
            seed=options.seed,
            budget=options.budget,
        )
    if cut := job.scorer.stats.truncated_queries:
        console.log.warning(
            "%d queries are longer than the model takes and were cut, to leave the passages their share", cut
        )


class LedgerFlags(Protocol):
    """The flags that say where outcomes are kept."""

    @property
    def output(self) -> Path: ...
    @property
    def ledger(self) -> Path | None: ...
    @property
    def fresh(self) -> bool: ...


@contextlib.contextmanager
def recorded(job: Job, options: ScoringOptions) -> Iterator[Scorer]:
    """The job's scorer behind a ledger, and its passages before that; it is closed when all is done."""
    with contextlib.closing(job.scorer), behind_ledger(job.scorer, options) as scorer:
        yield Windowed(scorer, job.model.tokenizer, job.passages) if job.passages else scorer


@contextlib.contextmanager
def behind_ledger(asked: Scorer, options: LedgerFlags) -> Iterator[Scorer]:
    """A scorer behind a ledger: the named one, or one beside the output that is removed when all is done."""
    path = options.ledger or options.output.with_name(f".{options.output.name}.ledger")
    with Ledger.open(path) as ledger, resumable(console.command(), ledger.flush):
        scorer = ledger.wrap(asked, fresh=options.fresh or options.ledger is None)
        yield scorer
        if scorer.hits:
            console.log.info("%d outcomes came from %s", scorer.hits, path)


def discard_ledger(options: LedgerFlags) -> None:
    """Removes the ledger beside the output, once the output is in place."""
    if options.ledger is None:
        for suffix in ("", "-wal", "-shm"):
            path = options.output.with_name(f".{options.output.name}.ledger{suffix}")
            path.unlink(missing_ok=True)


def plan(job: Job, options: ScoringOptions) -> None:
    """What ``--dry-run`` prints: the groups of the first round, and the time they take, from a sample of them."""
    groups, sample = 0, None
    for topic in job.topics:
        rng = topic_rng(options.seed, topic.qid)
        play = Play(topic, job.schedule, job.model.width, options.order, rng, options.budget)
        asked = play.start()
        if asked is None:
            continue
        groups += len(asked)
        sample = sample or (topic, asked[:SAMPLE])
    text = (
        f"{len(job.topics)} topics, {job.topics.pairs} candidates, schedule {job.schedule}, model {job.model.name}"
        f": {groups} groups in the first round"
    )
    if sample is not None:
        job.scorer([sample[0]], [sample[1]])  # warm
        start = time.perf_counter()
        job.scorer([sample[0]], [sample[1]])
        seconds = (time.perf_counter() - start) * groups / len(sample[1])
        text += f", about {seconds:.0f} s"
    console.out(text)
