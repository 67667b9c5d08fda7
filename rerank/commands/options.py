"""The commands of ``sparring``: one module each, with its flags (``Options``) and its work (``main``)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from ..data.datasets import Dataset

from ..data.candidates import CandidateSet, candidates
from ..data.runs import Run, read_run
from ..rounds import Order


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """Flags of every command that writes a run."""

    embed_metadata: bool = False
    """Write the meta file's lines as comments at the top of the run too; not every evaluator reads such a run."""


@dataclass(frozen=True, kw_only=True)
class WeightsOptions:
    """Flags of every command that loads a model as it was published."""

    allow_pickle: bool = False
    """Read pickled weights (pytorch_model.bin) where there are no safetensors; only of models that you trust."""
    base: str | None = None
    """The model that an adapter (LoRA) is merged into, where its config names none or another is wanted."""


@dataclass(frozen=True, kw_only=True)
class PromptOptions:
    """Flags of every command that puts texts to a model with prompts of its own."""

    prompt_name: str | None = None
    """Which of the model's own prompts stands before the query; by default what its folder names."""
    no_prompt: bool = False
    """Leave out the prompt that the model's folder names as its default."""

    def of_family(self) -> dict[str, Any]:
        """The flags that were given, as options of a family: one without prompts refuses them."""
        given: dict[str, Any] = {} if self.prompt_name is None else {"prompt_name": self.prompt_name}
        return given | ({"no_prompt": True} if self.no_prompt else {})


@dataclass(frozen=True, kw_only=True)
class DatasetOptions:
    """Flags of every command that reads topics or documents."""

    dataset: str | None = None
    """irds:<id> of ir_datasets, a folder (corpus.jsonl, queries.tsv, ...), or pydocs, the embedded collection."""
    corpus: Path | None = None
    """Documents (JSONL or id TAB text, may end in .gz) instead of the dataset's."""
    queries: Path | None = None
    """Topics (id TAB text, or JSONL) instead of the dataset's."""
    query_field: str | None = None
    """Which field of a topic is the query, such as title or description."""
    encoding: str = "utf-8"
    """Encoding of these files."""
    encoding_errors: Literal["strict", "replace"] = "strict"
    """What to do with bytes that are not in this encoding."""

    def open_dataset(self) -> Dataset:
        """The dataset that these flags name."""
        from ..data.datasets import open_dataset

        return open_dataset(
            self.dataset,
            self.queries,
            self.corpus,
            encoding=self.encoding,
            encoding_errors=self.encoding_errors,
            query_field=self.query_field,
        )


@dataclass(frozen=True, kw_only=True)
class CommonOptions:
    """Flags that every command has."""

    config: Path | None = None
    """YAML file of flags, one per key; flags on the command line win."""
    import_: tuple[str, ...] = ()
    """Python modules that register components of yours, in the current folder or installed; may be repeated."""
    dry_run: bool = False
    """Check everything, count the work, and stop before doing it."""
    device: str = "auto"
    """auto, cpu, cuda:0, or several, where a reranker scores: cuda:0,1 or cpu,cpu (a process for each)."""
    dtype: str = "auto"
    """auto, float32, bfloat16 or float16; auto is bf16 with an fp32 head where the hardware has it."""
    seed: int = 0
    """Seed of everything random; each topic draws from (seed, topic id)."""
    overwrite: bool = False
    """Replace an output that exists."""
    quiet: bool = False
    """Warnings and errors only."""
    debug: bool = False
    """Show the traceback of an error."""


@dataclass(frozen=True, kw_only=True)
class ScoringOptions(DatasetOptions, WeightsOptions, PromptOptions, CommonOptions):
    """Flags of the commands that put candidates to a model."""

    run: Path
    """TREC run with the candidates (.gz too)."""
    model: str
    """A folder, `minilm` (embedded), or a name on the hub."""
    output: Path
    """File to write; it appears whole or not at all."""
    depth: int = 100
    """Candidates per topic; documents below keep their order, under the reranked ones."""
    schedule: str | None = None
    """Which groups to look at (see: sparring list schedules); by default what fits the model."""
    order: Order = "random"
    """How a pair is shown: in a random order, in both (twice the calls), or as the schedule gives it."""
    budget: int | None = None
    """At most so many comparisons per topic."""
    family: str | None = None
    """Model family, where the checkpoint's config alone does not decide (see: sparring list models)."""
    revision: str | None = None
    """Branch, tag or commit on the hub."""
    max_length: int | None = None
    """Tokens of one input; longer passages are cut, never the query or the template."""
    instruction: str | None = None
    """What to judge by, in words, for models that are told (Qwen3-Reranker, ctxl, bge-gemma, mxbai v2)."""
    passages: str | None = None
    """How to score long documents, such as maxp(tokens=256, stride=128); by default they are cut."""
    executor: str | None = None
    """Who runs the model (see: sparring list executors); by default pool for several devices, else single."""
    token_budget: int | None = None
    """Tokens per forward pass; by default what suits the device."""
    deterministic: bool = False
    """Bit-identical scores from run to run, at some speed."""
    ledger: Path | None = None
    """Store of every outcome, kept for later runs; without it one lies beside the output until that is written."""
    fresh: bool = False
    """Allow a ledger that was made by another model or configuration; nothing in it is reused or lost."""
    tag: str | None = None
    """Run tag, one word; model and schedule where absent."""
    allow_missing_queries: bool = False
    """Leave out topics of the run that the dataset has no query for."""
    missing_limit: float = 0.01
    """Stop when more than this share of the candidates is not in the collection."""
    on_error: Literal["stop", "skip"] = "stop"
    """What to do with a malformed line of the run."""
    dedup: Literal["error", "max", "first"] = "error"
    """A document that comes twice in a topic: refuse the run, keep its best score, or its first line."""

    def read_run(self) -> Run:
        """The run that these flags name."""
        return read_run(
            self.run,
            dedup=self.dedup,
            on_error=self.on_error,
            encoding=self.encoding,
            encoding_errors=self.encoding_errors,
        )

    def candidates(self, run: Run) -> CandidateSet:
        """The candidates of a run, checked against the dataset that these flags name."""
        return candidates(
            run,
            self.open_dataset(),
            depth=self.depth,
            allow_missing_queries=self.allow_missing_queries,
            missing_limit=self.missing_limit,
        )
