"""Language models that are shown a list: a permutation (RankGPT), the best (setwise), or grades (GroupRank).

The model is a causal model on this machine or behind an endpoint, ``openai:http://127.0.0.1:8000/v1#name``. A list
is asked again where nothing can be read from the answer, and is quarantined (NaN) where that does not help. Sun et
al., EMNLP 2023 (permutation); Zhuang et al., SIGIR 2024 (setwise); Sun et al., arXiv 2511.11653 (grades).
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from .... import console
from ....engine.devices import choose_device, choose_dtype, dtype_name
from ....engine.model import ScorerOptions
from ....engine.precision import claim_precision, in_precision
from ....errors import UsageError
from ....registry import families
from ....stats import Stats
from ....vocabulary import Candidates, Groups, Outcomes, Sink, blank
from ...chat.endpoint import Endpoint, Messages
from ...chat.list_prompts import LETTERS, SYSTEM, TASKS, Reading, messages, read
from ...chat.local_chat import LocalChat
from ...checkpoints import SERVED, Checkpoint
from ...config_fields import position_limit
from ...loading import load_pretrained, load_tokenizer
from ..about import About, Example

Kind = Literal["permutation", "setwise", "grades"]
SCHEDULES: dict[str, str] = {
    "permutation": "sliding",
    "setwise": "tournament(m=4, r=1)",
    "grades": "blocks(size=20)",
}
NAMES: dict[str, Kind] = {
    "castorini/rank_zephyr_7b_v1_full": "permutation",
    "castorini/rank_vicuna_7b_v1": "permutation",
    "AQ-MedAI/Diver-GroupRank-7B": "grades",
    "AQ-MedAI/Diver-GroupRank-32B": "grades",
}


class ListLLM:
    """A language model that is shown lists, loaded; a `sparring.rerank.engine.model.OwnScorer` of any width."""

    width: int | None = None

    def __init__(
        self, name: str, options: ListLLMs, kind: Kind, chat: Endpoint | LocalChat, identity: str
    ) -> None:
        self.name, self.kind, self.options, self.chat = name, kind, options, chat
        self.schedule = SCHEDULES[kind]
        self.tokenizer = chat.tokenizer if isinstance(chat, LocalChat) else None
        self.max_length = chat.length if isinstance(chat, LocalChat) else None
        fields = [identity, kind, TASKS[kind], SYSTEM, options.words, options.max_tokens, options.temperature]
        self.fingerprint = hashlib.sha256(repr(fields).encode()).hexdigest()

    def scorer(self, options: ScorerOptions) -> ListLLMScorer:
        """Places a model of this machine on a device; one behind an endpoint runs as its server runs it."""
        if isinstance(self.chat, LocalChat):
            options.refuse(
                self.name, "it reads a number of lists at a time, batch_size of --family", "token_budget"
            )
        else:
            options.refuse(self.name, "its server decides", "dtype", "token_budget", "deterministic")
        return ListLLMScorer(self, options)


class ListLLMScorer:
    """Ranks lists with a `ListLLM`; a `sparring.rerank.vocabulary.Scorer` of any width.

    Scores: permutation n for the first place down to 1; setwise 1 for the best and 0 for the rest, on this machine
    the logits of the letters; grades 0 to 10, NaN for a passage that got none.
    """

    width: int | None = None
    remembers = False

    def __init__(self, model: ListLLM, options: ScorerOptions) -> None:
        self.model, self.chat = model, model.chat
        self.fingerprint = model.fingerprint
        self.stats = Stats(silent=True)
        precision = "the server's"
        if isinstance(self.chat, LocalChat):
            device = choose_device(options.device)
            if device.type == "cuda":
                options.refuse(
                    model.name, "its kernels on a GPU are not the same from run to run", "deterministic"
                )
            dtype = choose_dtype(options.dtype, device)
            claim_precision(model, dtype)
            self.chat.place(device, dtype)
            self.fingerprint, precision = in_precision(model.fingerprint, dtype), dtype_name(dtype)
        self.description: Mapping[str, object] = {
            "model": model.name,
            "prompt": model.kind,
            "words": model.options.words,
            "key": model.fingerprint[:16],
            "dtype": precision,
        }

    def close(self) -> None:
        """Nothing is held but the model's memory, which goes with the model."""

    def __call__(
        self,
        topics: Sequence[Candidates],
        groups: Sequence[Groups],
        sink: Sink | None = None,
        known: Sequence[Outcomes] | None = None,
    ) -> list[Outcomes]:
        """One score per member, NaN for lists that could not be read; lists of one are not asked."""
        started = time.perf_counter()
        results = [blank(rows, None) if known is None else known[t].copy() for t, rows in enumerate(groups)]
        lists = [(t, r) for t, rows in enumerate(groups) for r in range(len(rows))]
        waiting = []
        for t, r in lists:
            members = int((groups[t][r] >= 0).sum())
            if self.model.kind == "setwise" and members > len(LETTERS):
                raise UsageError(
                    f"{self.model.name}: a setwise prompt holds at most {len(LETTERS)} passages, not {members}"
                )
            if members == 1:
                results[t][r, groups[t][r] >= 0] = 0.0
            elif members and np.isnan(results[t][r]).all():
                waiting.append((t, r))
        for _ in range(self.model.options.attempts):
            if waiting:
                waiting = self._unread(topics, groups, results, waiting, sink)
        for t, r in waiting:
            names = tuple(topics[t].docids[i] for i in groups[t][r].tolist() if i >= 0)
            self.stats.quarantined.append((topics[t].qid, names))
            console.log.warning("topic %s: no answer to a list of %d could be read", topics[t].qid, len(names))
        self.stats.groups += len(lists)
        self._count()
        self.stats.seconds += time.perf_counter() - started
        self.stats.count_ties(results)
        return results

    def _unread(
        self,
        topics: Sequence[Candidates],
        groups: Sequence[Groups],
        results: list[Outcomes],
        lists: list[tuple[int, int]],
        sink: Sink | None,
    ) -> list[tuple[int, int]]:
        """Asks every list once, files what can be read, and returns the lists where nothing could."""
        questions = []
        for t, r in lists:
            texts = [topics[t].texts[i] or "" for i in groups[t][r].tolist() if i >= 0]
            questions.append(messages(self.model.kind, topics[t].query, texts, self.model.options.words))
        left = []
        for index, said in self._readings(questions, [int((groups[t][r] >= 0).sum()) for t, r in lists]):
            t, r = lists[index]
            if said is None:
                left.append((t, r))
                continue
            self.stats.mended += not said.sound
            results[t][r, groups[t][r] >= 0] = said.scores
            if sink is not None:
                sink(np.array([t]), np.array([r]), results[t][r : r + 1])
        return sorted(left)

    def _readings(self, questions: list[Messages], sizes: list[int]) -> Iterator[tuple[int, Reading | None]]:
        if self.model.kind == "setwise" and isinstance(self.chat, LocalChat):
            for index, logits in self.chat.letters(questions, sizes):
                yield index, Reading(logits, True)
            return
        for index, reply in self.chat.ask_all(questions):
            said = None if reply is None else read(self.model.kind, reply.text, sizes[index])
            self.stats.unread += reply is not None and said is None
            yield index, said

    def _count(self) -> None:
        usage = self.chat.usage  # of this model, whoever asked
        self.stats.calls, self.stats.retries = usage.calls, usage.retries
        self.stats.prompt_tokens, self.stats.completion_tokens = usage.prompt_tokens, usage.completion_tokens
        self.stats.tokens = usage.prompt_tokens + usage.completion_tokens


@families.register("list_llm")
@dataclass(frozen=True)
class ListLLMs:
    """Language models that are shown lists, on this machine or behind ``openai:URL#MODEL``.

    Args:
        prompt: ``permutation``, ``setwise`` or ``grades``; what the checkpoint was trained for, else permutation.
        words: of each passage.
        attempts: how often a list is asked whose answer cannot be read.
        max_tokens: of an answer; else the endpoint's limit, or here what an answer without reasoning needs.
        temperature: of an endpoint; models of this machine decode greedily.
        key: environment variable with the endpoint's API key.
        timeout, retries, parallel: seconds per call, repetitions of failed calls, calls at the same time.
        batch_size: lists at a time, for models of this machine.
    """

    about: ClassVar[About] = About(
        "listwise",
        "its own batches",
        "places or grades, read from the words of an answer",
        examples=(
            Example("castorini/rank_zephyr_7b_v1_full", "mit"),
            Example("castorini/rank_vicuna_7b_v1", "llama2"),
            Example("AQ-MedAI/Diver-GroupRank-7B", "apache-2.0"),
        ),
    )
    NAMES: ClassVar[dict[str, Kind]] = NAMES
    prompt: Literal["auto", "permutation", "setwise", "grades"] = "auto"
    words: int = 300
    attempts: int = 2
    max_tokens: int | None = None
    temperature: float = 0.0
    key: str = "OPENAI_API_KEY"
    timeout: float = 60.0
    retries: int = 5
    parallel: int = 8
    batch_size: int = 4
    max_length: int | None = None

    def __post_init__(self) -> None:
        for name in ("words", "attempts", "parallel", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1")

    def claims(self, checkpoint: Checkpoint) -> bool:
        """Models behind an endpoint, and checkpoints of the table of names on the hub."""
        return checkpoint.name.startswith(SERVED) or (
            checkpoint.plain and checkpoint.listed(self.NAMES) is not None
        )

    def load(self, checkpoint: Checkpoint) -> ListLLM:
        """Loads the model, or notes where it is served; no call is made yet."""
        kind: Kind = (checkpoint.listed(self.NAMES) or "permutation") if self.prompt == "auto" else self.prompt
        if checkpoint.name.startswith(SERVED):
            chat: Endpoint | LocalChat = Endpoint.parse(
                checkpoint.name,
                key=self.key,
                timeout=self.timeout,
                retries=self.retries,
                parallel=self.parallel,
                temperature=self.temperature,
                max_tokens=self.max_tokens,
            )
            return ListLLM(checkpoint.name, self, kind, chat, checkpoint.name)
        chat = load_chat(checkpoint, self)
        return ListLLM(checkpoint.name, self, kind, chat, checkpoint.digest())


def load_chat(checkpoint: Checkpoint, options: ListLLMs) -> LocalChat:
    """The causal model of a checkpoint."""
    from transformers import AutoModelForCausalLM

    module = load_pretrained(AutoModelForCausalLM, checkpoint)
    limit = position_limit(module.config) or 4096
    length = min(limit, options.max_length) if options.max_length else limit
    tokenizer = load_tokenizer(checkpoint)
    return LocalChat(checkpoint.name, module, tokenizer, length, options.max_tokens, options.batch_size)
