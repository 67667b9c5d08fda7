"""Encoder-decoder rerankers: monoT5, duoT5 and RankT5, scored from one decoder step.

The input is read by the encoder, the decoder takes one step from the pad token, and only the rows of the output
embedding that the score needs are multiplied: two for the words that mean relevant and not, one for RankT5. T5 1.0
ties this embedding to the input's and scales decoder states by d^-0.5. Nogueira et al., Findings of EMNLP 2020
(monoT5); Pradeep, Nogueira, Lin, arXiv 2101.05667 (duoT5); Zhuang et al., SIGIR 2023 (RankT5).

Batches are rows of about equal length, padded: T5 adds a learned bias for every distance and head to its attention
scores, which kernels for packed sequences do not take. transformers hands that bias to torch's SDPA as an additive
mask (a release without SDPA for T5 computes eagerly). FlexAttention would take it without padding, but it compiles
kernels and is meant for GPUs.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch

from ....engine.batches import Batch
from ....engine.templates import Constant, Slot, Template, Text, Truncation
from ....errors import InputError
from ....registry import families
from ...checkpoints import Checkpoint
from ...heads import seq2seq_parts
from ...loading import fingerprint, load_pretrained, load_tokenizer
from ..about import UNSTATED, About, Example

Kind = Literal["mono", "duo", "rank"]
TRUE, FALSE, EXTRA_10 = "\u2581true", "\u2581false", "<extra_id_10>"


def _named(words: tuple[Kind, str, str], owner: str, names: str) -> dict[str, tuple[Kind, str, str]]:
    return {f"{owner}/{name}": words for name in names.split()}


CHECKPOINTS: dict[str, tuple[Kind, str, str]] = {
    **_named(
        ("mono", TRUE, FALSE),
        "castorini",
        "monot5-small-msmarco-10k monot5-small-msmarco-100k monot5-base-msmarco monot5-base-msmarco-10k "
        "monot5-large-msmarco monot5-large-msmarco-10k monot5-3b-msmarco monot5-3b-msmarco-10k "
        "monot5-base-med-msmarco monot5-3b-med-msmarco",
    ),
    **_named(
        ("duo", TRUE, FALSE),
        "castorini",
        "duot5-base-msmarco duot5-base-msmarco-10k duot5-3b-msmarco duot5-3b-med-msmarco",
    ),
    **_named(("rank", EXTRA_10, EXTRA_10), "Soyoung97", "RankT5-base RankT5-large RankT5-3b"),
    **_named(("mono", TRUE, FALSE), "unicamp-dl", "InRanker-small InRanker-base InRanker-3B"),
    **_named(("mono", TRUE, FALSE), "Dundalia", "TWOLAR-large TWOLAR-xl"),
    **_named(
        ("mono", "\u2581yes", "\u2581no"),
        "unicamp-dl",
        "mt5-base-en-msmarco mt5-base-mmarco-v1 mt5-base-mmarco-v2 mt5-base-en-pt-msmarco-v1 "
        "mt5-base-en-pt-msmarco-v2",
    ),
    **_named(("mono", TRUE, "\u2581"), "unicamp-dl", "mt5-3B-mmarco-en-pt mt5-13b-mmarco-100k"),
    **_named(
        ("mono", "\u2581sim", "\u2581não"),
        "unicamp-dl",
        "ptt5-base-pt-msmarco-10k-v1 ptt5-base-pt-msmarco-10k-v2 ptt5-base-pt-msmarco-100k-v1 "
        "ptt5-base-pt-msmarco-100k-v2 ptt5-base-en-pt-msmarco-10k-v1 ptt5-base-en-pt-msmarco-100k-v2",
    ),
    **_named(
        ("mono", "\u2581Sim", "\u2581Não"),
        "unicamp-dl",
        "monoptt5-small monoptt5-base monoptt5-large monoptt5-3b",
    ),
}
"""Name on the hub → kind and the tokens that mean relevant and not."""

PROMPTS: dict[str, str] = {
    "mono": "Query: {query} Document: {a} Relevant:",
    "duo": "Query: {query} Document0: {a} Document1: {b} Relevant:",
    "rank": "Query: {query} Document: {a}",
}
PORTUGUESE = "Pergunta: {query} Documento: {a} Relevante:"
SLOTS = {"{query}": Text("query"), "{a}": Text("passage", 0), "{b}": Text("passage", 1)}


class T5Reranker:
    """An encoder-decoder scored from its first decoded state; see `sparring.rerank.engine.model.Model`."""

    packed = False
    first_position = 0

    def __init__(
        self,
        checkpoint: Checkpoint,
        module: Any,
        tokenizer: Any,
        kind: Kind,
        words: tuple[str, str],
        prompt: str,
        length: int,
    ) -> None:
        config = module.config
        self.name = checkpoint.name
        self.width: int | None = 2 if kind == "duo" else 1
        self.tokenizer = tokenizer
        self.template = template(tokenizer, prompt)
        self.truncation = Truncation(length)
        self.pad_id = int(config.pad_token_id)
        self.start = int(config.decoder_start_token_id or config.pad_token_id)
        self.encoder, self.decoder, output = seq2seq_parts(module)
        self.ids = [token_id(checkpoint, tokenizer, word) for word in words[: 1 if kind == "rank" else 2]]
        self.head = sliced(output, self.ids)
        self.scale = float(config.d_model) ** -0.5 if scales_states(config) else 1.0
        self.fingerprint = fingerprint(checkpoint, self.template, self.truncation, kind, words)

    def place(self, device: torch.device, dtype: torch.dtype, deterministic: bool = False) -> None:
        """Moves encoder and decoder in ``dtype`` and the sliced head in fp32 to a device."""
        if dtype == torch.float16:  # T5's feed-forward overflows in fp16
            dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
        self.encoder.to(device=device, dtype=dtype)
        self.decoder.to(device=device, dtype=dtype)
        self.head = self.head.to(device)

    def forward(self, batch: Batch) -> torch.Tensor:
        """Raw fp32 scores, (S,): true minus false, or RankT5's logit; for duoT5 of "document 0 is better"."""
        return self.states(batch) @ self.head

    def states(self, batch: Batch) -> torch.Tensor:
        """What the head reads: the state of the one decoder step, scaled, in fp32, (S, d)."""
        rows = batch.padded(self.pad_id)
        mask = rows.mask.long()
        memory = self.encoder(input_ids=rows.input_ids, attention_mask=mask).last_hidden_state
        start = rows.input_ids.new_full((len(memory), 1), self.start)
        state = self.decoder(
            input_ids=start, encoder_hidden_states=memory, encoder_attention_mask=mask, use_cache=False
        ).last_hidden_state
        scaled: torch.Tensor = state[:, 0].float() * self.scale
        return scaled


def sliced(output: torch.Tensor, ids: list[int]) -> torch.Tensor:
    """The rows of the output embedding that score, as one vector in fp32: that of true less that of false."""
    rows = output[ids].float()
    return rows[0] - rows[1] if len(ids) == 2 else rows[0]


def scales_states(config: Any) -> bool:
    """Whether decoder states are multiplied by d^-0.5 before the head: T5 1.0 does, T5 1.1 and mT5 do not."""
    if config.model_type == "t5":
        return bool(config.scale_decoder_outputs)
    return config.model_type == "umt5" and bool(config.tie_word_embeddings)


def template(tokenizer: Any, prompt: str) -> Template:
    """The template of a prompt; SentencePiece splits at spaces, so pieces tokenised alone join exactly."""
    slots: list[Slot] = []
    for part in re.split(r" *(\{(?:query|a|b)\}) *", prompt):
        if part in SLOTS:
            slots.append(SLOTS[part])
        elif part:
            slots.append(Constant(tuple(tokenizer(part, add_special_tokens=False)["input_ids"])))
    slots.append(Constant((int(tokenizer.eos_token_id),)))
    return Template(tuple(slots))


def token_id(checkpoint: Checkpoint, tokenizer: Any, word: str) -> int:
    """The id of a single token; InputError where the tokenizer does not have it."""
    found = tokenizer.convert_tokens_to_ids(word)
    if found is None or found == tokenizer.unk_token_id:
        raise InputError(f"{checkpoint.name}: the tokenizer has no token {word!r}; name the right one in --family")
    return int(found)


@families.register("t5")
@dataclass(frozen=True)
class T5:
    """monoT5, duoT5, RankT5 and their relatives: prompts to an encoder-decoder, scored from one decoder step.

    ``true`` and ``false`` are tokens (``\u2581yes``), ``prompt`` a line with {query}, {a} and, for duo, {b}; what
    is not given comes from the table of checkpoints, else it is that of monoT5, duoT5 or RankT5.
    """

    about: ClassVar[About] = About(
        "pointwise or pairwise",
        "padded",
        "the logit of true less that of false after one step of the decoder; of RankT5 one logit",
        examples=(
            Example("castorini/monot5-base-msmarco", UNSTATED),
            Example("castorini/duot5-base-msmarco", UNSTATED),
            Example("Soyoung97/RankT5-base", UNSTATED),
            Example("unicamp-dl/InRanker-base", UNSTATED),
        ),
    )
    kind: Literal["auto", "mono", "duo", "rank"] = "auto"
    true: str | None = None
    false: str | None = None
    prompt: str | None = None
    max_length: int | None = None

    def __post_init__(self) -> None:
        if self.max_length is not None and self.max_length < 16:
            raise ValueError("max_length must be at least 16")
        if self.prompt is not None:
            found = sorted(re.findall(r"\{\w*\}", self.prompt))
            if found not in (["{a}", "{query}"], ["{a}", "{b}", "{query}"]):
                raise ValueError(
                    f"prompt {self.prompt!r} must hold {{query}}, {{a}} and, for duo, {{b}}, each once"
                )

    def claims(self, checkpoint: Checkpoint) -> bool:
        """Checkpoints of the table of names on the hub; the files of any other T5 could be those of anything."""
        return checkpoint.plain and entry(checkpoint) is not None

    def load(self, checkpoint: Checkpoint) -> T5Reranker:
        """Loads the checkpoint; of one that is not in the table, ``kind`` must be given."""
        from transformers import AutoModelForSeq2SeqLM

        if checkpoint.model_type not in ("t5", "mt5", "umt5"):
            raise InputError(f"{checkpoint.name}: model_type {checkpoint.model_type!r} is not a T5")
        known = entry(checkpoint)
        if self.kind != "auto":
            kind: Kind = self.kind
        elif known:
            kind = known[0]
        else:
            raise InputError(
                f"{checkpoint.name}: no name on the hub that is in the table of T5 rerankers; say what it is with "
                "--family 't5(kind=mono)', 't5(kind=duo)' or 't5(kind=rank)'"
            )
        default = (EXTRA_10, EXTRA_10) if kind == "rank" else known[1:] if known else (TRUE, FALSE)
        words = (self.true or default[0], self.false or default[1])
        module = load_pretrained(AutoModelForSeq2SeqLM, checkpoint)
        tokenizer = load_tokenizer(checkpoint)
        prompt = self.prompt or (PORTUGUESE if words[0] == "\u2581Sim" else PROMPTS[kind])
        if ("{b}" in prompt) != (kind == "duo"):
            raise InputError(
                f"{checkpoint.name}: the prompt of kind {kind} {'needs' if kind == 'duo' else 'has no'} {{b}}"
            )
        return T5Reranker(checkpoint, module, tokenizer, kind, words, prompt, self.max_length or 512)


def entry(checkpoint: Checkpoint) -> tuple[Kind, str, str] | None:
    """The table's entry of a checkpoint, by its name on the hub; the files of all T5 rerankers look alike."""
    return checkpoint.listed(CHECKPOINTS)
