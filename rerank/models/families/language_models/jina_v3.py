"""jina-reranker-v3: all passages of a list in one prompt to a Qwen3, read at a mark behind each of them.

``config.json`` says ``"model_type": "qwen3"`` and names ``JinaForRanking`` of code that comes with the checkpoint
(Wang, Li and Xiao, arXiv 2509.25085). A projector (linear, ReLU, linear) takes the last states at the passages'
marks and at the query's; the score is their cosine. Attention is causal over the whole prompt, so that a passage
sees those before it: the order of the list changes the scores.

Long lists go as the owner's code does it: in blocks of up to 125 passages, each a prompt; every passage is then
compared with the mean of the blocks' query vectors, weighted by the best score of each block.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn.functional import normalize

from ....engine.batches import Batch
from ....engine.devices import choose_device, choose_dtype
from ....engine.model import SCHEDULES, ScorerOptions
from ....engine.precision import claim_precision, described, in_precision
from ....engine.stats import count_batch, observe_memory
from ....engine.templates import Constant, Template, Truncation
from ....errors import InputError, UsageError
from ....registry import families
from ....stats import Stats
from ....vocabulary import Candidates, Groups, Outcomes, Sink, blank, unknown_rows
from ...attention.packed import attach, packed_kwargs
from ...checkpoints import Checkpoint
from ...config_fields import position_limit
from ...loading import clamp_length, fingerprint, load_tokenizer
from ...stored_weights import fill, stored
from ..about import UNSTATED, About, Example
from .jina_prompt import ListPrompt

ARCHITECTURE = "JinaForRanking"
LONGEST = 131_072


class JinaV3:
    """A Qwen3 with a projector, loaded; a `sparring.rerank.engine.model.OwnScorer` of any width."""

    width: int | None = None
    schedule = SCHEDULES[None]

    def __init__(
        self, checkpoint: Checkpoint, body: Any, projector: nn.Sequential, tokenizer: Any, prompt: ListPrompt
    ) -> None:
        self.name = checkpoint.name
        self.body, self.projector, self.tokenizer, self.prompt = body, projector, tokenizer, prompt
        self.max_length: int | None = prompt.length
        frame = Template((Constant(tuple(prompt.write("", [""]).ids.tolist())),))
        self.fingerprint = fingerprint(checkpoint, frame, Truncation(prompt.length), prompt.around)

    def scorer(self, options: ScorerOptions) -> JinaV3Scorer:
        """Places the body and the projector (fp32) on a device."""
        options.refuse(self.name, "a block of a list is one prompt", "token_budget")
        return JinaV3Scorer(self, options)


class JinaV3Scorer:
    """Scores lists with a `JinaV3`; a `sparring.rerank.vocabulary.Scorer` of any width."""

    width: int | None = None
    remembers = False

    def __init__(self, model: JinaV3, options: ScorerOptions) -> None:
        self.model = model
        self.device = choose_device(options.device)
        self.dtype = choose_dtype(options.dtype, self.device)
        self.deterministic = options.deterministic
        self.fingerprint = in_precision(model.fingerprint, self.dtype)
        self.stats = Stats()
        claim_precision(model, self.dtype)
        model.body.to(device=self.device, dtype=self.dtype)
        model.projector.to(device=self.device)

    @property
    def description(self) -> Mapping[str, object]:
        """What the fingerprint stands for, in readable fields."""
        return described(self.model, self.dtype)

    def close(self) -> None:
        """Forgets the texts."""
        self.model.prompt.clear()

    @torch.inference_mode()
    def __call__(
        self,
        topics: Sequence[Candidates],
        groups: Sequence[Groups],
        sink: Sink | None = None,
        known: Sequence[Outcomes] | None = None,
    ) -> list[Outcomes]:
        """Cosines of every list's members, shown in the order of the list.

        Raises UsageError where a group names a position outside its topic.
        """
        start = time.perf_counter()
        results = []
        for index, (topic, rows) in enumerate(zip(topics, groups, strict=True)):
            if rows.ndim != 2 or (rows.size and rows.max() >= len(topic)):
                raise UsageError(
                    f"topic {topic.qid}: a group names a position outside its {len(topic)} candidates"
                )
            outcomes = blank(rows, None) if known is None else known[index].copy()
            for number in np.flatnonzero(unknown_rows(outcomes)).tolist():
                real = rows[number] >= 0
                if real.any():
                    outcomes[number, real] = self._score(topic, rows[number][real].astype(np.int64))
                self.stats.groups += 1
                if sink is not None:
                    sink(np.array([index]), np.array([number]), outcomes[number : number + 1])
            results.append(outcomes)
        self.stats.seconds += time.perf_counter() - start
        self.stats.count_ties(results)
        observe_memory(self.stats, self.device)
        return results

    def _score(self, topic: Candidates, members: NDArray[np.int64]) -> NDArray[np.float64]:
        prompt = self.model.prompt
        query = prompt.query(topic.query)
        passages = prompt.passages([topic.texts[i] or "" for i in members.tolist()])
        self.stats.truncated_queries += query.cut
        self.stats.truncated_passages += passages.cut
        self.stats.empty_texts += sum(not text or text.isspace() for text in passages.texts)
        shown, asked, best = [], [], []
        for block in prompt.blocks(query.lengths[0], passages.lengths):
            texts = [passages.texts[i] for i in block]
            of_passages, of_query = self._vectors(query.texts[0], texts)
            shown.append(of_passages)
            asked.append(of_query)
            best.append((1 + cosines(of_passages, of_query).max()) / 2)
        weights = torch.stack(best)
        merged = (torch.stack(asked) * weights[:, None]).sum(0) / weights.sum()
        return cosines(torch.cat(shown), merged).cpu().numpy().astype(np.float64)

    def _vectors(self, query: str, texts: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor]:
        """Projected states at the marks of the passages, (n, P), and of the query, (P,), in fp32."""
        listed = self.model.prompt.write(query, texts)
        batch = _one_sequence(listed.ids)
        self.stats.sequences += 1
        self.stats.tokens += len(listed.ids)
        count_batch(self.stats, batch, True)
        batch = batch.to(self.device)
        states = self.model.body(
            input_ids=batch.input_ids[None],
            position_ids=batch.positions[None],
            use_cache=False,
            **packed_kwargs(batch, self.deterministic, causal=True),
        ).last_hidden_state[0]
        places = torch.from_numpy(np.append(listed.passages, listed.query)).to(self.device)
        projected = self.model.projector(states.index_select(0, places).float())
        return projected[:-1], projected[-1]


def cosines(vectors: torch.Tensor, query: torch.Tensor) -> torch.Tensor:
    """Cosine of each of the vectors (n, P) with the query's (P,)."""
    return normalize(vectors, dim=-1) @ normalize(query, dim=-1)


def _one_sequence(ids: NDArray[np.int32]) -> Batch:
    size = len(ids)
    return Batch(
        input_ids=torch.from_numpy(ids),
        positions=torch.arange(size, dtype=torch.int32),
        segments=torch.zeros(size, dtype=torch.int32),
        boundaries=torch.tensor([0, size], dtype=torch.int32),
        lengths=np.array([size]),
        groups=np.array([0, 1]),
        queries=np.array([0]),
    )


def load_jina_v3(checkpoint: Checkpoint) -> tuple[Any, nn.Sequential]:
    """transformers' Qwen3 and the projector, in fp32.

    Raises InputError where a weight is missing, superfluous or of another shape.
    """
    from transformers import AutoConfig, AutoModel

    auto: Any = AutoModel
    own = ("model_type", "architectures", "auto_map", "torch_dtype", "dtype")
    shared = {key: value for key, value in checkpoint.config.items() if key not in own}
    body = auto.from_config(AutoConfig.for_model("qwen3", **shared), dtype=torch.float32)
    state = stored(checkpoint)
    state.pop("lm_head.weight", None)  # the owner's code replaces it
    first, second = (state.get(f"projector.{i}.weight") for i in (0, 2))
    if first is None or second is None:
        raise InputError(f"{checkpoint.name}: not jina-reranker-v3: the weights hold no projector")
    layers = nn.Linear(first.shape[1], len(first), bias=False), nn.Linear(len(first), len(second), bias=False)
    projector = nn.Sequential(layers[0], nn.ReLU(), layers[1])
    whole = nn.ModuleDict({"model": body, "projector": projector})
    fill(checkpoint, whole, state, "jina-reranker-v3")
    return body.eval(), projector.eval()


@families.register("jina_v3")
@dataclass(frozen=True)
class JinaV3s:
    """jina-reranker-v3: lists in one prompt to a Qwen3, cosines of projected states at marks.

    ``instruction`` is shown with the query. The order of a list changes its scores.
    """

    about: ClassVar[About] = About(
        "listwise",
        "its own batches",
        "the cosine of projected states at the marks of passage and query",
        examples=(Example("jinaai/jina-reranker-v3", UNSTATED),),
    )
    instruction: str | None = None
    max_length: int | None = None

    def claims(self, checkpoint: Checkpoint) -> bool:
        """Checkpoints whose config says ``qwen3`` and names the ranker's class."""
        return checkpoint.plain and checkpoint.model_type == "qwen3" and checkpoint.architecture == ARCHITECTURE

    def load(self, checkpoint: Checkpoint) -> JinaV3:
        """Loads body and projector; InputError where weights or tokenizer are not of this family."""
        body, projector = load_jina_v3(checkpoint)
        attach(body)
        tokenizer = load_tokenizer(checkpoint)
        limit = position_limit(body.config) or LONGEST
        length = clamp_length(self.max_length, limit, tokenizer.model_max_length, LONGEST)
        prompt = ListPrompt(tokenizer, checkpoint.name, length, self.max_length is not None, self.instruction)
        return JinaV3(checkpoint, body, projector, tokenizer, prompt)
