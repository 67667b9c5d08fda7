"""ListT5: fusion-in-decoder over a short list, decoded worst to best (Yoon et al., ACL 2024).

Each passage is encoded alone as ``Query: {q}, Index: {i}, Context: {d}``; the decoder reads all of them and writes
their indices, the best last. Longer lists are ranked by ``tournament(m=5, r=2)``.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import torch

from ....engine.batches import build_sequences, gather, plan
from ....engine.devices import choose_device, choose_dtype, default_budget
from ....engine.model import ScorerOptions
from ....engine.precision import claim_precision, described, in_precision
from ....engine.stats import count_batch, observe_memory
from ....engine.templates import Constant, Template, Text, Truncation
from ....engine.token_store import TokenStore
from ....errors import InputError, UsageError
from ....registry import families
from ....stats import Stats
from ....vocabulary import Candidates, Groups, Outcomes, Sink, blank
from ...checkpoints import Checkpoint
from ...heads import seq2seq_parts
from ...loading import fingerprint, load_tokenizer
from ..about import UNSTATED, About, Example
from .t5 import scales_states, token_id

Member = tuple[str, int, str]
"""A query, the index of the passage in its list (from 1), and the passage."""
CACHED_TOKENS = 1 << 17
NAMES = frozenset({"Soyoung97/ListT5-base", "Soyoung97/ListT5-3b", "Soyoung97/ListT5-large"})


def listt5_template(tokenizer: Any, index: int) -> Template:
    """The input of the passage with this index; the query's comma is tokenised with it."""

    def ids(text: str) -> tuple[int, ...]:
        return tuple(tokenizer(text, add_special_tokens=False)["input_ids"])

    return Template(
        (
            Constant(ids("Query:")),
            Text("query", suffix=","),
            Constant(ids(f"Index: {index}, Context:")),
            Text("passage"),
            Constant((int(tokenizer.eos_token_id),)),
        )
    )


class ListT5:
    """A fusion-in-decoder list ranker, loaded; an `engine.model.OwnScorer` of lists of up to ``m``."""

    width: int | None = None

    def __init__(
        self, checkpoint: Checkpoint, module: Any, tokenizer: Any, options: ListT5s, index_ids: Sequence[int]
    ) -> None:
        config = module.config
        self.name = checkpoint.name
        self.schedule = f"tournament(m={options.m}, r={min(2, options.m - 1)})"
        self.tokenizer = tokenizer
        self.m, self.free = options.m, options.decoding == "free"
        self.templates = [listt5_template(tokenizer, i + 1) for i in range(options.m)]
        self.truncation = Truncation(options.max_length)
        self.max_length: int | None = options.max_length
        self.encoder, self.decoder, output = seq2seq_parts(module)
        self.head = output.float()
        self.index_ids = torch.tensor(index_ids)
        self.pad_id, self.end = int(config.pad_token_id), int(config.eos_token_id)
        self.start = int(config.decoder_start_token_id or config.pad_token_id)
        self.scale = float(config.d_model) ** -0.5 if scales_states(config) else 1.0
        self.fingerprint = fingerprint(
            checkpoint, self.templates[0], self.truncation, options.m, options.decoding, tuple(index_ids)
        )

    def scorer(self, options: ScorerOptions) -> ListT5Scorer:
        """Places the model on a device, never in fp16, which T5 overflows."""
        return ListT5Scorer(self, options)


class ListT5Scorer:
    """Ranks lists with a `ListT5`; a `sparring.rerank.vocabulary.Scorer` of lists of up to ``m``.

    Encoder states are kept by query, index and passage. ``invalid`` counts lists whose free greedy output is no
    order of all members.
    """

    width: int | None = None
    remembers = True

    def __init__(self, model: ListT5, options: ScorerOptions) -> None:
        self.model = model
        self.device = choose_device(options.device)
        self.dtype = choose_dtype(options.dtype, self.device)
        if self.device.type == "cuda":
            options.refuse(model.name, "its kernels on a GPU are not the same from run to run", "deterministic")
        if self.dtype == torch.float16:
            self.dtype = torch.bfloat16 if self.device.type == "cuda" else torch.float32
        claim_precision(model, self.dtype)
        model.encoder.to(device=self.device, dtype=self.dtype)
        model.decoder.to(device=self.device, dtype=self.dtype)
        self.head, self.index_ids = model.head.to(self.device), model.index_ids.to(self.device)
        self.fingerprint = in_precision(model.fingerprint, self.dtype)
        self.stats = Stats()
        self.invalid = 0
        self._budget = options.token_budget or default_budget(self.device)
        self._tokens = TokenStore(model.tokenizer, model.truncation.max_length)
        self._states: dict[Member, torch.Tensor] = {}
        self._kept = 0

    @property
    def description(self) -> Mapping[str, object]:
        """What the fingerprint stands for, in readable fields."""
        return described(self.model, self.dtype)

    def close(self) -> None:
        """Forgets the encoder's states."""
        self._states.clear()
        self._tokens.clear()
        self._kept = 0

    @torch.inference_mode()
    def __call__(
        self,
        topics: Sequence[Candidates],
        groups: Sequence[Groups],
        sink: Sink | None = None,
        known: Sequence[Outcomes] | None = None,
    ) -> list[Outcomes]:
        """The rank of every member in its list, 0 for the worst; UsageError for lists of more than ``m``.

        Lists that are ``known`` are ranked all the same, in the batches of an uninterrupted call, and keep the
        outcomes that they had.
        """
        started = time.perf_counter()
        results = [blank(rows, None) for rows in groups]
        lists = [(t, r) for t, rows in enumerate(groups) for r in range(len(rows))]
        sizes = np.array([int((groups[t][r] >= 0).sum()) for t, r in lists], np.int64)
        if (sizes > self.model.m).any():
            raise UsageError(
                f"{self.model.name} ranks lists of at most {self.model.m}, asked for {int(sizes.max())}: use "
                f"--schedule '{self.model.schedule}'"
            )
        for chosen in self._batches(np.flatnonzero(sizes > 0)):
            members = []
            for t, r in (lists[i] for i in chosen):
                positions = groups[t][r][groups[t][r] >= 0].tolist()
                texts = [topics[t].texts[i] or "" for i in positions]
                members.append([(topics[t].query, index, text) for index, text in enumerate(texts, 1)])
            for (t, r), ranks in zip((lists[i] for i in chosen), self._rank(members), strict=True):
                results[t][r, groups[t][r] >= 0] = ranks
                self.stats.groups += 1
                if known is not None and not np.isnan(known[t][r]).all():
                    results[t][r] = known[t][r]
                elif sink is not None:
                    sink(np.array([t]), np.array([r]), results[t][r : r + 1])
        self.stats.seconds += time.perf_counter() - started
        self.stats.count_ties(results)
        observe_memory(self.stats, self.device)
        return results

    def _batches(self, lists: np.ndarray[Any, Any]) -> Iterator[list[int]]:
        """As many lists at a time as fill the token budget at full length."""
        step = max(1, self._budget // (self.model.m * self.model.truncation.max_length))
        for low in range(0, len(lists), step):
            yield lists[low : low + step].tolist()

    def _rank(self, lists: list[list[Member]]) -> Iterator[list[int]]:
        states = self._encode(lists)
        sizes = [len(members) for members in lists]
        orders = self._decode(states, sizes)
        for size, said in zip(sizes, orders, strict=True):
            order, valid = complete(said, size)
            self.invalid += not valid
            places = [0] * size
            for place, member in enumerate(order):
                places[member] = place
            yield places

    def _encode(self, lists: list[list[Member]]) -> list[torch.Tensor]:
        """Encoder states of each list, its members' one after the other, (T, d)."""
        if self._kept > CACHED_TOKENS:
            self.close()
        fresh = dict.fromkeys(member for members in lists for member in members if member not in self._states)
        for index in sorted({place for _, place, _ in fresh}):
            self._encode_index(index, [member for member in fresh if member[1] == index])
        return [torch.cat([self._states[member] for member in members]) for members in lists]

    def _encode_index(self, index: int, members: list[Member]) -> None:
        template, store = self.model.templates[index - 1], self._tokens
        query = store.entries([f"{query}," for query, _, _ in members])
        passages = store.entries([text for _, _, text in members])[:, None]
        each = np.arange(len(members), dtype=np.int64)
        sequences = build_sequences(store, template, self.model.truncation, query, passages, each)
        self.stats.sequences += len(members)
        self.stats.tokens += int(sequences.tokens.sum())
        self.stats.truncated_passages += int(sequences.passage_cut.sum())
        for chosen in plan(sequences.tokens, sequences.tokens, np.ones_like(each), self._budget, True):
            batch = gather(store, template, sequences, chosen)
            count_batch(self.stats, batch, False)
            rows = batch.to(self.device).padded(self.model.pad_id)
            states = self.model.encoder(
                input_ids=rows.input_ids, attention_mask=rows.mask.long()
            ).last_hidden_state
            for i, state, length in zip(chosen.tolist(), states, batch.lengths.tolist(), strict=True):
                self._states[members[i]] = state[:length].clone()
                self._kept += length

    def _decode(self, states: list[torch.Tensor], sizes: list[int]) -> list[list[int]]:
        """Members of each list as the decoder names them, worst first; -1 for what is not an index of the list."""
        memory = torch.nn.utils.rnn.pad_sequence(states, batch_first=True)
        mask = torch.zeros(memory.shape[:2], dtype=torch.long, device=self.device)
        for row, state in zip(mask, states, strict=True):
            row[: len(state)] = 1
        left = torch.arange(self.model.m, device=self.device) < torch.tensor(sizes, device=self.device)[:, None]
        steps = max(sizes) + (2 if self.model.free else 0)
        tokens = torch.full((len(states), 1), self.model.start, dtype=torch.long, device=self.device)
        stray = torch.zeros(len(states), dtype=torch.bool, device=self.device)
        said: list[torch.Tensor] = []
        cache = None
        for _ in range(steps):
            out = self.model.decoder(
                input_ids=tokens, encoder_hidden_states=memory, encoder_attention_mask=mask,
                past_key_values=cache, use_cache=True,
            )  # fmt: skip
            cache = out.past_key_values
            logits = (out.last_hidden_state[:, -1].float() * self.model.scale) @ self.head.T
            tokens = logits.argmax(1)
            if not self.model.free:
                open_lists = left.any(1)
                allowed = logits[:, self.index_ids].masked_fill(~left, -torch.inf)
                best = allowed.argmax(1)
                wrong = open_lists & (tokens != self.index_ids[best])
                stray |= wrong
                tokens = torch.where(open_lists, self.index_ids[best], self.model.end)
                left = left & ~torch.nn.functional.one_hot(best, self.model.m).bool()
            said.append(tokens)
            tokens = tokens[:, None]
        if not self.model.free:
            self.invalid += int(stray.sum())
        named = {token: index for index, token in enumerate(self.index_ids.tolist())}
        return [
            [named.get(token, -1) for token in row[: row.index(self.model.end) if self.model.end in row else None]]
            for row in torch.stack(said, dim=1).tolist()
        ]


def complete(said: Sequence[int], size: int) -> tuple[list[int], bool]:
    """An order of all members, worst first, from what was said, and whether that was such an order already.

    What is no member and what was said before is skipped; members that were not named are worse than those that
    were, and among them the earlier in the input is the better.
    """
    named = list(dict.fromkeys(i for i in said if 0 <= i < size))
    missing = [i for i in reversed(range(size)) if i not in named]
    return missing + named, len(named) == size == len(said)


@families.register("listt5")
@dataclass(frozen=True)
class ListT5s:
    """ListT5 and models of its layout, with or without the wrappers of fusion-in-decoder in the weights' names.

    ``m`` is the length of the lists it was trained on. ``decoding`` is ``restricted`` to the indices not yet
    named, or ``free``, where an invalid output is completed by the input order.
    """

    about: ClassVar[About] = About(
        "listwise",
        "its own batches",
        "an order of five passages, as indices that the decoder names",
        examples=(
            Example("Soyoung97/ListT5-base", UNSTATED),
            Example("Soyoung97/ListT5-3b", UNSTATED),
        ),
    )
    NAMES: ClassVar[frozenset[str]] = NAMES
    m: int = 5
    decoding: Literal["restricted", "free"] = "restricted"
    max_length: int = 256

    def __post_init__(self) -> None:
        if not 2 <= self.m <= 9:
            raise ValueError("m must lie between 2 and 9")
        if self.max_length < 32:
            raise ValueError("max_length must be at least 32")

    def claims(self, checkpoint: Checkpoint) -> bool:
        """Checkpoints of the published names on the hub; fusion-in-decoder models of other uses look the same."""
        return checkpoint.plain and checkpoint.hub in self.NAMES

    def load(self, checkpoint: Checkpoint) -> ListT5:
        """Loads the checkpoint; InputError where a weight or an index token is missing."""
        if checkpoint.model_type not in ("t5", "mt5"):
            raise InputError(f"{checkpoint.name}: model_type {checkpoint.model_type!r} is not a T5")
        tokenizer = load_tokenizer(checkpoint)
        ids = [token_id(checkpoint, tokenizer, f"\u2581{i}") for i in range(1, self.m + 1)]
        return ListT5(checkpoint, _load_fid(checkpoint), tokenizer, self, ids)


def _load_fid(checkpoint: Checkpoint) -> Any:
    """The encoder-decoder, from weights with or without the wrappers' names."""
    from safetensors.torch import load_file
    from transformers import AutoConfig, AutoModelForSeq2SeqLM

    auto: Any = AutoModelForSeq2SeqLM
    shared = {key: value for key, value in checkpoint.config.items() if key not in ("model_type", "architectures")}
    config = AutoConfig.for_model(checkpoint.model_type, **shared)
    module = auto.from_config(config)
    state: dict[str, torch.Tensor] = {}
    for path in checkpoint.weights:
        for name, value in load_file(path).items():
            bare = re.sub(r"^encoder\.encoder\.", "encoder.", name)
            state[re.sub(r"^(encoder\.block\.\d+)\.module\.", r"\1.", bare)] = value.float()
    if "shared.weight" not in state and "encoder.embed_tokens.weight" in state:
        state["shared.weight"] = state["encoder.embed_tokens.weight"]
    try:
        report = module.load_state_dict(state, strict=False)
    except RuntimeError as error:
        raise InputError(f"{checkpoint.name}: weights do not fit the config: {error}") from None
    module.tie_weights()
    tied = ("embed_tokens.weight", *(["lm_head.weight"] if config.tie_word_embeddings else []))
    missing = [name for name in report.missing_keys if not name.endswith(tied)]
    if missing:
        raise InputError(f"{checkpoint.name}: the weights lack {', '.join(missing[:3])}: they would be random")
    return module.eval()
