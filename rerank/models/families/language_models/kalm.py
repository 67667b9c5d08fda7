"""KaLM-Reranker: the passage in the encoder of a T5Gemma 2, pooled, the query in the decoder, "yes" less "no".

The encoder reads ``<Document>: {passage}`` alone; the mean of every four of its states is what the decoder attends
to (Zhao et al., arXiv 2606.22807). The decoder reads instruction and query in Gemma's chat frame; the score is the
logit of "yes" less that of "no" at its last token. Batches are padded: both kinds of attention are transformers'.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from ....arrays import ragged
from ....engine.devices import choose_device, choose_dtype, default_budget
from ....engine.model import SCHEDULES, ScorerOptions
from ....engine.precision import claim_precision, described, in_precision
from ....engine.stats import observe_memory
from ....engine.templates import Constant, Text, Truncation
from ....engine.token_store import TokenStore
from ....errors import InputError, UsageError
from ....registry import families
from ....stats import Stats
from ....vocabulary import Candidates, Groups, Outcomes, Sink, blank, unknown_rows
from ...checkpoints import Checkpoint
from ...loading import fingerprint, load_pretrained, load_tokenizer
from ...prompts import answer_ids, prompt_template
from ..about import UNSTATED, About, Example
from .causal import AnswerHead

PROMPT = (
    "<bos><start_of_turn>user\nJudge whether the Document meets the requirements based on the Query and the "
    'Instruct provided. Note that the answer can only be "yes" or "no".\n\n'
    "<Instruct>: {instruction}\n<Query>: {query}<end_of_turn>\n<start_of_turn>model\n\n\n\n"
)
INSTRUCTION = "Given a query, retrieve documents that answer the query."
PASSAGE = "<Document>: "
QUERY_TOKENS, PASSAGE_TOKENS = 512, 1024
NAMES = frozenset(
    f"KaLM-Embedding/KaLM-Reranker-V1-{size}{release}"
    for size in ("Nano", "Small", "Large")
    for release in ("", "-R2")
)


class Kalm:
    """A T5Gemma 2 that answers yes or no, loaded; a `sparring.rerank.engine.model.OwnScorer` of width 1."""

    width: int | None = 1
    schedule = SCHEDULES[1]

    def __init__(self, checkpoint: Checkpoint, module: Any, tokenizer: Any, options: Kalms) -> None:
        self.name, self.tokenizer, self.pooled = checkpoint.name, tokenizer, options.chunk
        self.max_length: int | None = options.max_length or PASSAGE_TOKENS
        instruction = (options.instruction or INSTRUCTION).replace("{", "(").replace("}", ")")
        self.frame = prompt_template(tokenizer, (PROMPT.replace("{instruction}", instruction),))
        answers = answer_ids(tokenizer, ("yes", "no"))
        module.set_output_embeddings(AnswerHead(module.get_output_embeddings(), answers))
        self.module = module
        truncation = Truncation(self.max_length, QUERY_TOKENS)
        self.fingerprint = fingerprint(checkpoint, self.frame, truncation, answers, PASSAGE, options.chunk)

    def scorer(self, options: ScorerOptions) -> KalmScorer:
        """Places the module in a precision, and the rows of its answers in fp32, on a device."""
        return KalmScorer(self, options)

    def logits(self, passages: torch.Tensor, mask: torch.Tensor, prompt: torch.Tensor) -> torch.Tensor:
        """Scores (n,) of passages as padded rows (n, w), with their mask, to one prompt (p,)."""
        from transformers.modeling_outputs import BaseModelOutput

        states = self.module.get_encoder()(input_ids=passages, attention_mask=mask).last_hidden_state
        states, mask = pooled(states, mask, self.pooled)
        logits = self.module(
            encoder_outputs=BaseModelOutput(last_hidden_state=states),
            attention_mask=mask,
            decoder_input_ids=prompt.expand(len(passages), -1),
            use_cache=False,
            logits_to_keep=1,
        ).logits[:, -1]
        scores: torch.Tensor = logits[:, 0] - logits[:, 1]
        return scores.float()


def pooled(states: torch.Tensor, mask: torch.Tensor, size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Means of every ``size`` neighbouring states (n, w, H) that the mask (n, w) shows, and what is left of it."""
    missing = -states.shape[1] % size
    states = torch.nn.functional.pad(states, (0, 0, 0, missing))
    shown = torch.nn.functional.pad(mask, (0, missing)).unflatten(1, (-1, size))  # type: ignore[no-untyped-call]
    weighted = states.unflatten(1, (-1, size)) * shown[..., None].to(states.dtype)  # type: ignore[no-untyped-call]
    count = shown.sum(2)
    return weighted.sum(2) / count.clamp(min=1)[..., None].to(states.dtype), (count > 0).to(mask.dtype)


class KalmScorer:
    """Scores single passages with a `Kalm`; a `sparring.rerank.vocabulary.Scorer` of width 1."""

    width: int | None = 1
    remembers = False

    def __init__(self, model: Kalm, options: ScorerOptions) -> None:
        self.model = model
        self.device = choose_device(options.device)
        self.dtype = choose_dtype(options.dtype, self.device)
        self.fingerprint = in_precision(model.fingerprint, self.dtype)
        self.stats = Stats()
        claim_precision(model, self.dtype)
        model.module.to(device=self.device, dtype=self.dtype)
        model.module.get_output_embeddings().to(torch.float32)
        self.budget = options.token_budget or default_budget(self.device)
        self._queries = TokenStore(model.tokenizer, QUERY_TOKENS)
        self._passages = TokenStore(model.tokenizer, model.max_length or PASSAGE_TOKENS)

    @property
    def description(self) -> Mapping[str, object]:
        """What the fingerprint stands for, in readable fields."""
        return described(self.model, self.dtype)

    def close(self) -> None:
        """Forgets the texts."""
        self._passages.clear()

    @torch.inference_mode()
    def __call__(
        self,
        topics: Sequence[Candidates],
        groups: Sequence[Groups],
        sink: Sink | None = None,
        known: Sequence[Outcomes] | None = None,
    ) -> list[Outcomes]:
        """Log-odds of "yes"; a batch in which all is known is not computed.

        Raises UsageError where a group names a position outside its topic.
        """
        start = time.perf_counter()
        results = []
        for index, (topic, rows) in enumerate(zip(topics, groups, strict=True)):
            if rows.ndim != 2 or (rows.size and rows.max() >= len(topic)):
                raise UsageError(
                    f"topic {topic.qid}: a group names a position outside its {len(topic)} candidates"
                )
            outcomes = blank(rows, 1) if known is None else known[index].copy()
            self.stats.groups += len(rows)
            for chosen, scores in self._batches(topic, rows[:, 0], unknown_rows(outcomes)):
                fresh = unknown_rows(outcomes[chosen])
                outcomes[chosen[fresh], 0] = scores[fresh]
                if sink is not None:
                    where = chosen[fresh]
                    sink(np.full(len(where), index), where, outcomes[where])
            results.append(outcomes)
        self.stats.seconds += time.perf_counter() - start
        self.stats.count_ties(results)
        observe_memory(self.stats, self.device)
        return results

    def _batches(
        self, topic: Candidates, members: NDArray[np.int32], wanted: NDArray[np.bool_]
    ) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float64]]]:
        """Rows and their scores, longest passages first, without batches in which nothing is wanted."""
        if not len(members):
            return
        self._passages.clear()
        prompt = self._prompt(topic.query)
        texts = [topic.texts[i] or "" for i in members.tolist()]
        entries = self._passages.entries([PASSAGE + text for text in texts])
        lengths = self._passages.lengths[entries]
        self.stats.sequences += len(texts)
        self.stats.tokens += int(lengths.sum()) + len(texts) * len(prompt)
        self.stats.truncated_passages += int(self._passages.cut[entries].sum())
        self.stats.empty_texts += sum(not text or text.isspace() for text in texts)
        order = np.argsort(-lengths, kind="stable")
        while len(order):
            width = int(lengths[order[0]])
            chosen, order = np.split(order, [max(1, self.budget // (width + len(prompt)))])
            if wanted[chosen].any():
                yield chosen, self._forward(entries[chosen], width, prompt)

    def _forward(self, entries: NDArray[np.int64], width: int, prompt: list[int]) -> NDArray[np.float64]:
        store = self._passages
        rows = np.zeros((len(entries), width), np.int64)
        shown = np.arange(width) < store.lengths[entries][:, None]
        rows[shown] = store.flat[ragged(store.starts[entries], store.lengths[entries])]
        self.stats.batches += 1
        self.stats.computed += int(shown.sum()) + len(entries) * len(prompt)
        self.stats.padding += int((~shown).sum())
        mask = shown.astype(np.int64)
        inputs = [torch.from_numpy(values).to(self.device) for values in (rows, mask, np.array(prompt))]
        return self.model.logits(*inputs).cpu().numpy().astype(np.float64)

    def _prompt(self, query: str) -> list[int]:
        """The ids of the decoder's input."""
        store, slots = self._queries, self.model.frame.slots
        store.clear()
        text = next(slot for slot in slots if isinstance(slot, Text))
        entry = int(store.entries([text.render(query)])[0])
        cut = bool(store.cut[entry])
        self.stats.truncated_queries += cut
        found: list[int] = []
        for slot in slots:
            if isinstance(slot, Constant):
                found += slot.ids if slot.after_cut is None or cut else ()
            else:
                found += store.flat[store.starts[entry] : store.starts[entry] + store.lengths[entry]].tolist()
        return found


@families.register("kalm")
@dataclass(frozen=True)
class Kalms:
    """KaLM-Reranker: a T5Gemma 2 with the passage in the encoder and the query in the decoder.

    ``chunk`` states of a passage are pooled to one. ``instruction`` says what is looked for; ``max_length`` is
    that of passages.
    """

    about: ClassVar[About] = About(
        "pointwise",
        "padded",
        "the logit of yes less that of no",
        examples=(
            Example("KaLM-Embedding/KaLM-Reranker-V1-Nano", UNSTATED),
            Example("KaLM-Embedding/KaLM-Reranker-V1-Small", UNSTATED),
            Example("KaLM-Embedding/KaLM-Reranker-V1-Large", UNSTATED),
        ),
    )
    instruction: str | None = None
    chunk: int = 4
    max_length: int | None = None

    def __post_init__(self) -> None:
        if self.chunk < 1:
            raise ValueError(f"chunk {self.chunk} must be at least 1")

    def claims(self, checkpoint: Checkpoint) -> bool:
        """Checkpoints of the table of names on the hub: a language model of this kind has the same config."""
        return checkpoint.model_type == "t5gemma2" and bool(checkpoint.listed(dict.fromkeys(NAMES, True)))

    def load(self, checkpoint: Checkpoint) -> Kalm:
        """Loads the checkpoint; InputError where it is no T5Gemma 2."""
        from transformers import AutoModelForSeq2SeqLM

        if checkpoint.model_type != "t5gemma2":
            raise InputError(f"{checkpoint.name}: model_type {checkpoint.model_type!r} is no T5Gemma 2")
        module = load_pretrained(AutoModelForSeq2SeqLM, checkpoint)
        return Kalm(checkpoint, module, load_tokenizer(checkpoint), self)
